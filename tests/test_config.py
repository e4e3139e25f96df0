"""Every `MERCURE_*` key: where it is read from, and what it may be."""

from __future__ import annotations

import dataclasses

import pytest
from quart import Quart

from quart_mercure import ConfigurationError, MercureConfig, MercureSSE

from .conftest import SECRET

FLASK_MERCURE_SSE_DEFAULTS = {
    "MERCURE_HUB_URL": None,
    "MERCURE_PUBLIC_HUB_URL": None,
    "MERCURE_PUBLISHER_JWT": None,
    "MERCURE_AUTHZ_COOKIE_NAME": "mercureAuthorization",
    "MERCURE_TYPE_IS_TOPIC": False,
    "MERCURE_HUB_ALLOW_PUBLISH": False,
    "MERCURE_HUB_ALLOW_ANONYMOUS": True,
    "MERCURE_HUB_SUBSCRIPTIONS": True,
    "MERCURE_HUB_KEEPALIVE_INTERVAL": 15,
    "MERCURE_HUB_RECONCILIATION_LENGTH": 500,
    "MERCURE_SUBSCRIBER_SECRET_KEY": SECRET,
    "MERCURE_PUBLISHER_SECRET_KEY": SECRET,
}


def load(config=(), options=(), environ=()):
    return MercureConfig.load({"SECRET_KEY": SECRET} | dict(config), dict(options), dict(environ))


def field(key):
    return key.removeprefix("MERCURE_").lower()


@pytest.mark.parametrize(("key", "default"), FLASK_MERCURE_SSE_DEFAULTS.items())
def test_the_keys_of_flask_mercure_sse_have_their_defaults(key, default):
    assert getattr(load(), field(key)) == default


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("MERCURE_HUB_URL", "https://hub.example/x", "https://hub.example/x"),
        ("MERCURE_HUB_URL", True, True),
        ("MERCURE_PUBLIC_HUB_URL", "http://localhost:5500/x", "http://localhost:5500/x"),
        ("MERCURE_TYPE_IS_TOPIC", "true", True),
        ("MERCURE_HUB", "off", False),
        ("MERCURE_HUB_SUBSCRIPTIONS", 0, False),
        ("MERCURE_HUB_KEEPALIVE_INTERVAL", "2.5", 2.5),
        ("MERCURE_HUB_RECONCILIATION_LENGTH", "7", 7),
        ("MERCURE_HUB_CORS_ORIGINS", "https://a.example, http://b.example:8000", None),
        ("MERCURE_HUB_CORS_ORIGINS", ["*"], ("*",)),
        ("MERCURE_SUBSCRIBER_SECRET_KEY", b"bytes", b"bytes"),
    ],
)
def test_values_are_read(key, value, read):
    if read is None:
        read = ("https://a.example", "http://b.example:8000")
    assert getattr(load({key: value}), field(key)) == read


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MERCURE_HUB_URL", "hub.example"),
        ("MERCURE_HUB_URL", "ftp://hub.example"),
        ("MERCURE_HUB_URL", "http://"),
        ("MERCURE_HUB_URL", "http://[::1"),
        ("MERCURE_HUB_URL", "http://hub.example:port"),
        ("MERCURE_HUB_URL", 5500),
        ("MERCURE_HUB_URL", False),
        ("MERCURE_PUBLIC_HUB_URL", ""),
        ("MERCURE_PUBLISHER_JWT", 7),
        ("MERCURE_AUTHZ_COOKIE_NAME", " "),
        ("MERCURE_TYPE_IS_TOPIC", "perhaps"),
        ("MERCURE_HUB_KEEPALIVE_INTERVAL", -1),
        ("MERCURE_HUB_KEEPALIVE_INTERVAL", "soon"),
        ("MERCURE_HUB_KEEPALIVE_INTERVAL", True),
        ("MERCURE_HUB_KEEPALIVE_INTERVAL", float("nan")),
        ("MERCURE_HUB_RECONCILIATION_LENGTH", 1.5),
        ("MERCURE_HUB_QUEUE_EVENTS", 0),
        ("MERCURE_HUB_CORS_ORIGINS", "example.com"),
        ("MERCURE_HUB_CORS_ORIGINS", "https://example.com/path"),
        ("MERCURE_SUBSCRIBER_SECRET_KEY", 12345),
        ("MERCURE_PUBLISHER_SECRET_KEY", ""),
        ("MERCURE_HUB_ULR", "http://hub.example"),
    ],
)
def test_what_cannot_be_right_is_an_error_that_names_the_key(key, value):
    with pytest.raises(ConfigurationError) as error:
        load({key: value})
    assert error.value.key == key
    assert key in str(error.value)


def test_a_misspelt_key_is_told_its_neighbour():
    with pytest.raises(ConfigurationError, match="did you mean MERCURE_HUB_URL"):
        load({"MERCURE_HUB_ULR": "http://hub.example"})
    with pytest.raises(ConfigurationError, match=r"hub_ulr.*did you mean hub_url"):
        load(options={"hub_ulr": "http://hub.example"})
    with pytest.raises(ConfigurationError, match=r"quite_else: is not an option$"):
        load(options={"quite_else": 1})


def test_the_configuration_goes_before_options_and_those_before_defaults():
    assert load(options={"authz_cookie_name": "option"}).authz_cookie_name == "option"
    both = load({"MERCURE_AUTHZ_COOKIE_NAME": "key"}, {"authz_cookie_name": "option"})
    assert both.authz_cookie_name == "key"


def test_secrets_come_from_keys_options_the_official_names_or_the_secret_key():
    name, official = "MERCURE_PUBLISHER_SECRET_KEY", "MERCURE_PUBLISHER_JWT_KEY"
    assert load({name: "a", official: "b"}).publisher_secret_key == "a"
    assert load({official: "b"}).publisher_secret_key == "b"
    environ = {official: "c", "MERCURE_SUBSCRIBER_JWT_KEY": "d"}
    assert load(environ=environ).publisher_secret_key == "c"
    assert load(environ=environ).subscriber_secret_key == "d"
    assert load(options={"publisher_secret_key": "o"}, environ=environ).publisher_secret_key == "o"
    assert load().publisher_secret_key == SECRET


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        ({}, "MERCURE_PUBLISHER_SECRET_KEY"),
        ({"MERCURE_PUBLISHER_SECRET_KEY": "k"}, "MERCURE_SUBSCRIBER_SECRET_KEY"),
        ({"MERCURE_HUB_URL": "http://h/"}, "MERCURE_PUBLISHER_SECRET_KEY"),
        ({"MERCURE_HUB_URL": "http://h/", "MERCURE_PUBLISHER_JWT": "t"}, None),
        (
            {"MERCURE_HUB_URL": "http://h/", "MERCURE_PUBLISHER_JWT": "t", "MERCURE_HUB": True},
            "MERCURE_PUBLISHER_SECRET_KEY",
        ),
    ],
)
def test_a_missing_secret_is_an_error_that_names_the_key(config, missing):
    if missing is None:
        MercureConfig.load(config, {}, {})
        return
    with pytest.raises(ConfigurationError, match="set it, or SECRET_KEY") as error:
        MercureConfig.load(config, {}, {})
    assert error.value.key == missing


def test_errors_come_when_the_extension_is_set_up():
    with pytest.raises(ConfigurationError, match="SECRET_KEY"):
        MercureSSE(Quart(__name__))


def test_the_environment_sets_keys_with_quarts_prefix(monkeypatch):
    monkeypatch.setenv("QUART_SECRET_KEY", SECRET)
    monkeypatch.setenv("QUART_MERCURE_HUB", "true")
    monkeypatch.setenv("QUART_MERCURE_HUB_KEEPALIVE_INTERVAL", "3")
    app = Quart(__name__)
    app.config.from_prefixed_env()
    sse = MercureSSE(app)
    assert sse.hub.options.keepalive_interval == 3


def test_every_key_has_a_meaning():
    assert all(each.metadata["meaning"] for each in dataclasses.fields(MercureConfig))
