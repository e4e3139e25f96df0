"""Every `MERCURE_*` key: its meaning, its default, and the check of its value."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from .errors import ConfigurationError
from .hub.matchers import parse_selector
from .hub.options import DEFAULT_PATH, HubOptions
from .hub.policies import SlowClientPolicy

DEFAULT_HUB_URL = f"http://localhost:5500{DEFAULT_PATH}"

_EMBEDDED_AUDIENCE = f"https://localhost{DEFAULT_PATH}"

_POLICIES = tuple(policy.value for policy in SlowClientPolicy)

_TRUE = frozenset({"1", "true", "on", "yes"})
_FALSE = frozenset({"0", "false", "off", "no", ""})


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ValueError("must be true or false")


def _number(minimum: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if isinstance(value, bool):
            raise ValueError(f"must be a number, {minimum:g} or more")
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if not minimum <= number < float("inf"):
            raise ValueError(f"must be a number, {minimum:g} or more")
        return number

    return read


def _whole(minimum: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        number = _number(minimum)(value)
        if number != int(number):
            raise ValueError(f"must be a whole number, {minimum} or more")
        return int(number)

    return read


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be text that is not empty")
    return value


def _secret(value: Any) -> str | bytes:
    if not isinstance(value, str | bytes) or not value:
        raise ValueError("must be a secret: text or bytes")
    return value


def _url(value: Any) -> str:
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (AttributeError, TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(f"must be an http:// or https:// URL, not {value!r}")
    return str(value)


def _url_or_here(value: Any) -> str | bool:
    return True if value is True else _url(value)


def _version(value: Any) -> str:
    text = str(value)
    if text not in ("0.x", "1.0"):
        raise ValueError(f"must be 0.x or 1.0, not {value!r}")
    return text


def _spoken(value: Any) -> str:
    if str(value) == "auto":
        return "auto"
    try:
        return _version(value)
    except ValueError:
        raise ValueError(f"must be 0.x, 1.0 or auto, not {value!r}") from None


def _versions(value: Any) -> tuple[str, ...]:
    listed = value.replace(",", " ").split() if isinstance(value, str) else value
    versions = tuple(map(_version, listed if isinstance(listed, list | tuple) else [listed]))
    if not versions:
        raise ValueError("must list 0.x, 1.0 or both")
    return versions


def _origins(value: Any) -> tuple[str, ...]:
    origins = value.replace(",", " ").split() if isinstance(value, str) else tuple(value)
    for origin in origins:
        parts = urlsplit(origin)
        if origin != "*" and (parts.scheme not in ("http", "https") or parts.path or parts.query):
            raise ValueError(f'must list origins like https://example.com or "*", not {origin!r}')
    return tuple(origins)


def _policy(value: Any) -> Mapping[str, str] | str:
    policies = value if isinstance(value, Mapping) else {"*": value}
    if not policies:
        raise ValueError("must name a policy, or map topic selectors to policies")
    for selector, policy in policies.items():
        if policy not in _POLICIES:
            raise ValueError(f"must be one of {', '.join(_POLICIES)}, not {policy!r}")
        parse_selector(selector)
    return value if isinstance(value, Mapping) else str(value)


def _key(default: Any, read: Callable[[Any], Any], meaning: str, *aliases: str) -> Any:
    return field(default=default, metadata={"read": read, "meaning": meaning, "aliases": aliases})


@dataclass(frozen=True, kw_only=True)
class MercureConfig:
    """The configuration of `MercureSSE`: the key `MERCURE_HUB_URL` is the field `hub_url`.

    A value in `app.config` goes before the option of the same name given to `MercureSSE`, which
    goes before the default. Durations are in seconds.
    """

    hub_url: str | bool | None = _key(
        None,
        _url_or_here,
        "URL of the hub; `True` for the host of the current request",
    )
    public_hub_url: str | bool | None = _key(
        None, _url_or_here, "URL of the hub for browsers, when it differs"
    )
    publisher_jwt: str | None = _key(
        None, _text, "token to publish with; made from the publisher's secret key by default"
    )
    publisher_secret_key: str | bytes | None = _key(
        None,
        _secret,
        "signs publishers' tokens; `SECRET_KEY` by default",
        "MERCURE_PUBLISHER_JWT_KEY",
    )
    subscriber_secret_key: str | bytes | None = _key(
        None,
        _secret,
        "signs subscribers' tokens; `SECRET_KEY` by default",
        "MERCURE_SUBSCRIBER_JWT_KEY",
    )
    authz_cookie_name: str = _key("mercureAuthorization", _text, "name of the authorization cookie")
    protocol_version: str = _key(
        "0.x",
        _spoken,
        "protocol that URLs, tokens and cookies speak: `0.x`, `1.0`, or `auto` to ask the hub",
    )
    resource_identifier: str | None = _key(
        None, _text, "`aud` of 1.0 tokens; the public URL of the hub by default"
    )
    issuer: str | None = _key(
        None, _text, "`iss` of 1.0 tokens; the resource identifier by default"
    )
    jwt_lifetime: float = _key(3600.0, _number(1), "how long 1.0 tokens live")
    access_token_cookie_name: str = _key(
        "__Secure-mercure_access_token", _text, "name of the authorization cookie in 1.0"
    )
    type_is_topic: bool = _key(
        False, _boolean, "events without a type are named after their (canonical) topic"
    )
    url_last_event_id: bool = _key(
        True,
        _boolean,
        "stream URLs in pages carry the hub's last event id, so nothing published while the page "
        "loads is lost",
    )
    publish_timeout: float = _key(10.0, _number(0.001), "longest wait for an external hub's answer")
    publish_retries: int = _key(
        3, _whole(0), "tries again after connection errors and 5xx answers of an external hub"
    )
    publish_connections: int = _key(20, _whole(1), "most connections to an external hub")
    hub: bool | None = _key(
        None, _boolean, "serve the embedded hub; by default in debug mode and under test"
    )
    hub_protocol_versions: tuple[str, ...] = _key(
        ("0.x", "1.0"), _versions, "versions of the protocol that the embedded hub serves"
    )
    hub_allow_publish: bool = _key(False, _boolean, "the embedded hub takes updates over HTTP")
    hub_allow_anonymous: bool = _key(
        True, _boolean, "subscribers without a token receive public updates"
    )
    hub_subscriptions: bool = _key(True, _boolean, "subscription events and the subscriptions API")
    hub_subscription_event_type: str | None = _key(
        None, _text, "`event` of subscription events; unnamed by default, as on other 0.x hubs"
    )
    hub_keepalive_interval: float = _key(
        15.0, _number(0), "a comment is sent to a stream silent for so long; 0 for never"
    )
    transport_url: str = _key(
        "memory://",
        _text,
        "where the embedded hub keeps updates, and shares them with others: `memory://`, "
        "`sqlite:///path`, `redis://...`, `postgresql://...`",
    )
    hub_reconciliation_length: int = _key(
        500,
        _whole(0),
        "updates that `memory://` keeps, over all topics, for clients that come back",
    )
    hub_queue_events: int = _key(10_000, _whole(1), "events that may wait for one client")
    hub_queue_bytes: int = _key(1024 * 1024, _whole(1), "bytes that may wait for one client")
    hub_slow_client_policy: Mapping[str, str] | str = _key(
        "disconnect",
        _policy,
        "when no more may wait for a client: `disconnect` it (it comes back for what it missed), "
        "`drop_oldest`, `drop_newest`, or `conflate` (keep the newest per topic); also a mapping "
        "of topic selectors to these",
    )
    hub_dispatch_timeout: float = _key(
        10.0,
        _number(0),
        "a client that takes nothing for so long is disconnected; 0 for never",
    )
    hub_max_flush_interval: float = _key(
        0.01,
        _number(0),
        "longest time between updates being sent, in batches, under load; 0 sends each at once",
    )
    hub_publish_backlog: int = _key(
        100,
        _whole(1),
        "publications over HTTP that may wait for subscribers that fall behind, before others are "
        "refused (503)",
    )
    hub_max_streams: int = _key(0, _whole(0), "streams that may be open in total; 0 for any number")
    hub_max_streams_per_address: int = _key(
        0, _whole(0), "streams that one client address may have open; 0 for any number"
    )
    hub_max_streams_per_token: int = _key(
        0, _whole(0), "streams that may be open under one token; 0 for any number"
    )
    hub_cors_origins: tuple[str, ...] = _key(
        (), _origins, "origins whose pages may use the embedded hub from another host"
    )
    hub_publish_origins: tuple[str, ...] = _key(
        (), _origins, "origins whose pages may publish to the embedded hub with the cookie"
    )
    hub_write_timeout: float = _key(
        0.0, _number(0), "longest life of a stream, spread over 80-100 %; 0 for no limit"
    )
    hub_shutdown_timeout: float = _key(
        1.0, _number(0), "open streams are ended over so long when the server stops"
    )

    @classmethod
    def load(
        cls,
        app_config: Mapping[str, Any],
        options: Mapping[str, Any],
        environ: Mapping[str, str] = os.environ,
    ) -> MercureConfig:
        """Read and check every key. Raises `ConfigurationError` naming the one that is wrong."""
        known = {key_of(item): item for item in fields(cls)}
        aliases = {alias for item in known.values() for alias in item.metadata["aliases"]}
        for key in app_config:
            if key.startswith("MERCURE_") and key not in known and key not in aliases:
                raise ConfigurationError(key, _unknown(key, known))
        for option in options:
            if f"MERCURE_{option.upper()}" not in known:
                raise ConfigurationError(option, _unknown(option, [f.name for f in fields(cls)]))
        values = {
            item.name: _read(key, item, _find(key, item, app_config, options, environ))
            for key, item in known.items()
        }
        for name in ("publisher_secret_key", "subscriber_secret_key"):
            values[name] = values[name] or app_config.get("SECRET_KEY")
        config = cls(**values)
        config._check_secrets()
        return config

    def _check_secrets(self) -> None:
        external = isinstance(self.hub_url, str) and not self.hub
        missing = "is missing: set it, or SECRET_KEY"
        if not self.publisher_secret_key and not (external and self.publisher_jwt):
            raise ConfigurationError("MERCURE_PUBLISHER_SECRET_KEY", missing)
        if not self.subscriber_secret_key and not external:
            raise ConfigurationError("MERCURE_SUBSCRIBER_SECRET_KEY", missing)

    @property
    def audience(self) -> str:
        """The resource identifier of the hub: what the `aud` of 1.0 tokens must be."""
        named = (self.resource_identifier, self.public_hub_url, self.hub_url)
        return next((each for each in named if isinstance(each, str)), _EMBEDDED_AUDIENCE)

    def hub_options(self) -> HubOptions:
        """Return the options of the embedded hub."""
        policy = self.hub_slow_client_policy
        general = policy if isinstance(policy, str) else "disconnect"
        for_topics = () if isinstance(policy, str) else tuple(policy.items())
        return HubOptions(
            subscriber_key=self.subscriber_secret_key or "",
            publisher_key=self.publisher_secret_key or "",
            protocols=self.hub_protocol_versions,
            url=self.audience if self.audience.startswith(("http://", "https://")) else None,
            resource_identifier=self.audience,
            issuer=self.issuer,
            cookie_name=self.authz_cookie_name,
            access_token_cookie_name=self.access_token_cookie_name,
            allow_publish=self.hub_allow_publish,
            allow_anonymous=self.hub_allow_anonymous,
            subscriptions=self.hub_subscriptions,
            subscription_event_type=self.hub_subscription_event_type,
            keepalive_interval=self.hub_keepalive_interval,
            transport_url=self.transport_url,
            reconciliation_length=self.hub_reconciliation_length,
            queue_events=self.hub_queue_events,
            queue_bytes=self.hub_queue_bytes,
            slow_client_policy=general,
            slow_client_policies=for_topics,
            dispatch_timeout=self.hub_dispatch_timeout,
            max_flush_interval=self.hub_max_flush_interval,
            publish_backlog=self.hub_publish_backlog,
            max_streams=self.hub_max_streams,
            max_streams_per_address=self.hub_max_streams_per_address,
            max_streams_per_token=self.hub_max_streams_per_token,
            cors_origins=self.hub_cors_origins,
            publish_origins=self.hub_publish_origins,
            write_timeout=self.hub_write_timeout,
            shutdown_timeout=self.hub_shutdown_timeout,
        )


def key_of(item: Field[Any]) -> str:
    """Return the configuration key of a field of `MercureConfig`."""
    return f"MERCURE_{item.name.upper()}"


def _find(
    key: str,
    item: Field[Any],
    app_config: Mapping[str, Any],
    options: Mapping[str, Any],
    environ: Mapping[str, str],
) -> Any:
    """Return the first value set for a field; an unset one and `None` mean the default."""
    aliases = item.metadata["aliases"]
    candidates = (
        *(app_config.get(name) for name in (key, *aliases)),
        options.get(item.name),
        *(environ.get(alias) for alias in aliases),
    )
    return next((value for value in candidates if value is not None), MISSING)


def _read(key: str, item: Field[Any], value: Any) -> Any:
    if value is MISSING:
        return item.default
    try:
        return item.metadata["read"](value)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(key, str(error)) from None


def _unknown(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"is not an option; did you mean {close[0]}?" if close else "is not an option"
