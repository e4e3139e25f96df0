"""What an application says in protocol 1.0: URLs, tokens, cookies, presence, discovery."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from quart import Quart, make_response, render_template_string

from quart_mercure import (
    HubUnavailable,
    InvalidMatcher,
    InvalidUpdate,
    MercureError,
    MercureSSE,
    SubscriptionNotFound,
    URLPattern,
    as_topic,
    negotiation,
)
from quart_mercure.dialects import Draft
from quart_mercure.negotiation import resource_of
from quart_mercure.tokens import DETAIL_TYPE

from .asgi import PATH, subscribe
from .conftest import SECRET, free_port
from .test_publisher import make_hub, served

HUB = "https://hub.example/hub"
COOKIE = "__Secure-mercure_access_token"
EVENTS_OF_A = f"{PATH}/subscriptions/exact/a{{/:subscriber}}?"


def make_app(**options):
    app = Quart(__name__)
    app.config["SECRET_KEY"] = SECRET
    given = {"hub": True, "protocol_version": "1.0", "hub_protocol_versions": ["1.0"]}
    MercureSSE(app, **(given | options))
    return app


@pytest.fixture
def app():
    return make_app()


def claims(token):
    assert jwt.get_unverified_header(token)["typ"] == "at+jwt"
    return jwt.decode(token, SECRET, algorithms=["HS256"], options={"verify_aud": False})


def granted(token):
    details = claims(token)["authorization_details"]
    assert all(detail["type"] == DETAIL_TYPE for detail in details)
    return [topic["match"] for detail in details for topic in detail["topics"]]


def query(url):
    return parse_qs(urlsplit(url).query)


def test_subscribe_urls(app):
    pattern = URLPattern("/books/:id")
    assert query(app.sse.hub_url(["a", pattern])) == {
        "match": ["a"],
        "match_urlpattern": ["/books/:id"],
    }
    watching = query(app.sse.hub_url("a", with_subscriptions=True))
    assert watching == {"match": ["a"], "match_urlpattern": [EVENTS_OF_A]}
    with pytest.raises(MercureError, match="no token travels in a URL"):
        app.sse.hub_url("a", "TOKEN")


def test_a_url_pattern_is_a_topic_that_stays_one():
    pattern = URLPattern("/books/:id")
    assert as_topic(pattern) is pattern
    assert str(pattern) == pattern == "/books/:id"


def test_the_old_protocol_has_no_url_patterns():
    app = make_app(protocol_version="0.x")
    with pytest.raises(InvalidMatcher, match="no URL patterns"):
        app.sse.hub_url(URLPattern("/books/:id"))


def test_tokens_speak_both_protocols():
    app = make_app(resource_identifier=HUB, issuer="https://app.example", jwt_lifetime=60)
    token = app.sse.create_subscription_jwt(["a", URLPattern("/b/:c")], payload={"n": 1})
    found = claims(token)
    assert (found["iss"], found["aud"]) == ("https://app.example", HUB)
    assert found["exp"] - found["iat"] == 60
    assert found.keys() >= {"sub", "client_id", "jti"}
    assert found["authorization_details"] == [
        {
            "type": DETAIL_TYPE,
            "actions": ["subscribe"],
            "topics": [{"match": "a"}, {"match": "/b/:c", "match_type": "urlpattern"}],
            "payload": {"n": 1},
        }
    ]
    assert found["mercure"] == {"subscribe": ["a", "/b/:c"], "payload": {"n": 1}}


async def page(app, source):
    @app.get("/page")
    async def view():
        return await render_template_string(source)

    response = await app.test_client().get("/page")
    return await response.get_data(as_text=True), response.headers.getlist("Set-Cookie")


async def test_pages_hold_no_token_and_one_cookie_grants_all_they_need(app):
    html, cookies = await page(
        app,
        """
        {{ mercure_authentified_hub_url("a", with_subscriptions=True) }}
        <{MercureStream topic="b" private=True }/>
        <{MercureStream topic="public" }/>
        <{MercurePresence topic="c" hx_get="/who" }/>
        """,
    )
    assert "eyJ" not in html
    assert "authorization=" not in html
    assert "last_event_id=earliest" in html
    [cookie] = cookies
    name, _, token = cookie.split(";")[0].partition("=")
    assert name == COOKIE
    of_c = EVENTS_OF_A.replace("/a{", "/c{")
    assert granted(token) == ["a", EVENTS_OF_A, "b", of_c]
    assert all(part in cookie for part in ("Secure", "HttpOnly", "SameSite=Strict", f"Path={PATH}"))


async def test_a_page_without_private_streams_sets_no_cookie(app):
    _, cookies = await page(app, '<{MercureStream topic="public" }/>')
    assert cookies == []


def test_the_cookie_needs_a_response(app):
    with pytest.raises(RuntimeError, match="cookie of a response"):
        app.sse.authentified_hub_url("a")


async def test_the_cookie_opens_private_updates_and_can_be_deleted(app):
    async with app.test_request_context("/"):
        response = app.sse.set_authz_cookie(await make_response(""), topics=["a"])
        deleted = app.sse.delete_authz_cookie(await make_response(""))
    cookie = response.headers["Set-Cookie"].split(";")[0]
    stream = await subscribe(app.asgi_app, "match=a", headers={"cookie": cookie})
    await app.sse.publish("a", "private", private=True)
    assert await stream.received(1) == ["private"]
    assert deleted.headers["Set-Cookie"].startswith(f"{COOKIE}=;")


async def test_presence(app):
    await subscribe(app.asgi_app, "match=a&match_urlpattern=/b/:c")
    assert await app.sse.is_connected("a")
    assert await app.sse.is_connected(URLPattern("/b/:c"))
    assert not await app.sse.is_connected("b")
    document = await app.sse.get_subscriptions("a")
    assert document["type"] == "subscriptions"
    [one] = document["subscriptions"]
    topic = app.sse.subscription_topic("a", one["subscriber"])
    assert one["id"] == topic
    assert app.sse.subscription_topic("a") == EVENTS_OF_A
    assert len((await app.sse.get_subscriptions())["subscriptions"]) == 2
    with pytest.raises(SubscriptionNotFound):
        await app.sse.get_subscriptions("a", "nobody")


@pytest.mark.parametrize("topic", [None, "a"])
async def test_presence_grants_cover_events_and_their_list(app, topic):
    name = app.sse.subscription_topic(topic)
    matcher = Draft(app.sse.config).matcher(name)
    paths = [f"{PATH}/subscriptions/exact/a", f"{PATH}/subscriptions/exact/a/urn%3Auuid%3A1"]
    if topic is None:
        paths.append(f"{PATH}/subscriptions")
    assert all(matcher.matches(path) for path in paths)
    assert matcher.matches(f"{PATH}/subscriptions/exact/b") == (topic is None)


async def test_an_external_hub_over_http():
    hub = make_hub(protocols=("1.0",), resource_identifier=HUB)
    stream = await subscribe(hub, "match=a")
    async with served(hub) as url:
        app = make_app(hub=None, hub_url=url, resource_identifier=HUB)
        identifier = await app.sse.publish("a", "x", id="é")
        assert await stream.received(1) == ["x"]
        assert await app.sse.last_event_id() == identifier
        assert await app.sse.is_connected("a")
        with pytest.raises(SubscriptionNotFound):
            await app.sse.get_subscriptions("a", "nobody")
        await app.sse.aclose()


def test_an_answer_without_a_cursor_is_told(app):
    with pytest.raises(HubUnavailable, match="last-event-id"):
        Draft(app.sse.config).cursor({}, {"link": '</x>; rel="self"'})


async def discovered(app, **attributes):
    async with app.test_request_context("/"):
        response = await app.sse.discover(await make_response(""), **attributes)
    return response.headers.getlist("Link")


@pytest.mark.parametrize("version", ["0.x", "1.0"])
async def test_discovery(version):
    app = make_app(protocol_version=version)
    assert await discovered(app) == [
        f'<http://localhost{PATH}>; rel="mercure"; last-event-id="earliest"'
    ]
    await app.sse.publish("a", "x", id="one")
    assert await discovered(
        app, topic="https://example.com/a b>", type="t", content_type="application/json"
    ) == [
        f'<http://localhost{PATH}>; rel="mercure"; last-event-id="one"; type="t"; '
        'content-type="application/json"',
        '<https://example.com/a%20b%3E>; rel="self"',
    ]


async def test_discovery_attributes_cannot_break_out(app):
    [link] = await discovered(app, type='a"b\\c')
    assert 'type="a\\"b\\\\c"' in link
    with pytest.raises(InvalidUpdate):
        await discovered(app, type="a\r\nSet-Cookie: x")


async def test_the_reserved_type_is_not_advertised(app):
    with pytest.raises(InvalidUpdate, match="reserved for the hub"):
        await discovered(app, type="mercure")


# Asking the hub ---------------------------------------------------------------------------------


def asking(hub_url, **options):
    app = Quart(__name__)
    app.config["SECRET_KEY"] = SECRET
    MercureSSE(app, hub_url=hub_url, protocol_version="auto", **options)
    return app


@pytest.mark.parametrize("spoken", ["0.x", "1.0"])
async def test_an_external_hub_is_asked_which_version_it_speaks(spoken, caplog):
    hub = make_hub(allow_publish=True, protocols=(spoken,), resource_identifier="urn:the-hub")
    async with served(hub) as hub_url:
        app = asking(hub_url, resource_identifier="urn:the-hub", issuer="urn:the-hub")
        assert app.sse.protocol_version == "0.x", "nobody was asked yet"
        html, _ = await page(app, "{{ mercure_hub_url('a') }}")
        assert app.sse.protocol_version == spoken
        assert ("match=a" if spoken == "1.0" else "topic=a") in html
        assert await app.sse.publish("a", "hello") == hub.last_event_id
        assert await app.sse.get_subscriptions("a")
        assert caplog.messages == []


async def test_the_answer_is_remembered(caplog):
    async with served(make_hub(protocols=("1.0",), resource_identifier="urn:hub")) as hub_url:
        app = asking(hub_url, resource_identifier="urn:another")
        await app.test_client().get("/")
        assert "calls itself 'urn:hub'" in caplog.text
    caplog.clear()
    await app.test_client().get("/")
    assert app.sse.protocol_version == "1.0"
    assert caplog.messages == []


async def test_a_hub_that_does_not_answer_is_asked_again(caplog):
    port = free_port()
    app = asking(f"http://127.0.0.1:{port}{PATH}")
    await app.test_client().get("/")
    assert "protocol 0.x is spoken" in caplog.text
    caplog.clear()
    await app.test_client().get("/")
    assert caplog.messages == [], "not at every request"
    assert app.sse.protocol_version == "0.x"


async def test_a_hub_that_fails_is_asked_again_after_a_pause(caplog, monkeypatch):
    monkeypatch.setattr(negotiation, "_PAUSE", 0.0)
    failing = Quart("failing")
    answers = [("", 503), ({"resource": "urn:hub"}, 200)]
    failing.get(f"/.well-known/oauth-protected-resource{PATH}")(lambda: answers.pop(0))
    async with served(failing) as hub_url:
        app = asking(hub_url, resource_identifier="urn:hub")
        await app.test_client().get("/")
        assert "answered 503: protocol 0.x is spoken" in caplog.text
        await app.test_client().get("/")
        assert app.sse.protocol_version == "1.0"


@pytest.mark.parametrize(
    ("served_versions", "spoken"), [(["0.x"], "0.x"), (["1.0"], "1.0"), (["0.x", "1.0"], "1.0")]
)
def test_with_the_embedded_hub_the_newest_version_it_serves_is_spoken(served_versions, spoken):
    app = make_app(protocol_version="auto", hub_protocol_versions=served_versions)
    assert app.sse.protocol_version == spoken


@pytest.mark.parametrize(
    ("status", "body"), [(404, "{}"), (200, "no JSON"), (200, "[]"), (200, '{"resource": 1}')]
)
def test_what_is_no_metadata(status, body):
    assert resource_of(httpx.Response(status, text=body)) is None
