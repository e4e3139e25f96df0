"""`MercureSSE` on a Quart application with the embedded hub."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from blinker import NamedSignal
from quart import Quart, make_response, render_template_string

from quart_mercure import (
    ConfigurationError,
    InvalidUpdate,
    MercureSSE,
    PublishError,
    SubscriptionNotFound,
    Update,
    mercure_publish,
    publish_signal,
)

from .asgi import PATH, request, subscribe
from .conftest import SECRET


def make_app(**options):
    app = Quart(__name__)
    app.config["SECRET_KEY"] = SECRET
    MercureSSE(app, **({"hub": True} | options))
    return app


@pytest.fixture
def app():
    return make_app()


def claim(token):
    return jwt.decode(token, SECRET, algorithms=["HS256"])["mercure"]


def query(url):
    return parse_qs(urlsplit(url).query)


# The hub ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "debug", "embedded"),
    [
        ({}, False, False),
        ({}, True, True),
        ({"hub": True}, False, True),
        ({"hub": False}, True, False),
        ({"hub_url": "http://localhost:5500/x"}, True, False),
        ({"hub_url": "http://localhost:5500/x", "hub": True}, False, True),
        ({"hub_url": True}, True, True),
    ],
)
def test_when_the_hub_is_embedded(options, debug, embedded):
    app = Quart(__name__)
    app.config["SECRET_KEY"] = SECRET
    sse = MercureSSE()
    sse.init_app(app, **options)
    app.debug = debug  # after the extension was set up, as `app.run(debug=True)` does
    assert (sse.hub is not None) is embedded
    assert app.sse is app.extensions["mercure_sse"] is sse


async def test_under_test_the_hub_is_embedded():
    app = make_app(hub=None)
    app.testing = True
    assert app.sse.hub is not None


async def test_without_an_embedded_hub_its_path_is_the_applications():
    app = make_app(hub=None)
    assert (await app.test_client().get(PATH)).status_code == 404


async def test_the_lifespan_starts_and_ends_the_hub(app):
    before = []
    app.before_serving(lambda: before.append(app.sse.hub.loop))
    async with app.test_app() as running:
        assert before == [asyncio.get_running_loop()]
        stream = await subscribe(running.app.asgi_app, "topic=a")
    assert stream.complete
    assert app.sse.hub.loop is None


# Publishing -------------------------------------------------------------------------------------


async def test_hello(app):
    stream = await subscribe(app.asgi_app, "topic=messages")
    identifier = await app.sse.publish("messages", "hello")
    assert await stream.received(1) == ["hello"]
    assert stream.events[0].id == identifier


async def test_all_arguments_in_flask_mercure_sses_order(app):
    stream = await subscribe(app.asgi_app, "topic=*")
    await app.sse.publish("a", "no", True, "id-1")
    await app.sse.publish("a", "yes", False, "id-2", "kind", 1500)
    await stream.received(1)
    [event] = stream.events
    assert (event.data, event.id, event.event, event.retry) == ("yes", "id-2", "kind", 1500)


async def test_the_first_of_several_topics_is_canonical():
    app = make_app(type_is_topic=True)
    stream = await subscribe(app.asgi_app, "topic=b")
    await app.sse.publish(["a", "b"], "x")
    await app.sse.publish("b", "y", type="other")
    await stream.received(2)
    assert [event.event for event in stream.events] == ["a", "other"]


async def test_type_true_names_the_event_after_its_topic(app):
    stream = await subscribe(app.asgi_app, "topic=a")
    await app.sse.publish("a", "x", type=True)
    await stream.received(1)
    assert stream.events[0].event == "a"


async def test_publishing_several_keeps_their_order(app):
    class Book:
        id = 1

        def __mercure_sse_data__(self):
            return "a book"

    stream = await subscribe(app.asgi_app, "topic=*")
    updates = [
        ("a", "1"),
        {"topic": "b", "data": {"n": 2}},
        Update(topics=("c",), data="3", id="three"),
        Book(),
        "d",
        *(("a", str(number)) for number in range(100)),
    ]
    ids = await app.sse.publish_many(updates)
    data = await stream.received(105)
    assert data == ["1", '{"n": 2}', "3", "a book", "", *map(str, range(100))]
    assert [event.id for event in stream.events] == ids
    assert ids[2] == "three"


async def test_nothing_is_published_when_one_of_several_is_not_valid(app):
    with pytest.raises(InvalidUpdate):
        await app.sse.publish_many([("a", "1"), {"topic": "a", "id": "#"}])
    with pytest.raises(InvalidUpdate):
        await app.sse.publish_many([("a", "1"), (f"{PATH}/x", "2")])
    assert await app.sse.last_event_id() == "earliest"


@pytest.mark.parametrize("topic", [None, []])
async def test_an_update_needs_a_topic(app, topic):
    with pytest.raises((InvalidUpdate, TypeError)):
        await app.sse.publish(topic, "data")


async def test_the_module_level_function_uses_the_current_application(app):
    stream = await subscribe(app.asgi_app, "topic=a")
    async with app.app_context():
        await mercure_publish("a", "x", type="t")
    assert await stream.received(1) == ["x"]


async def test_publishing_from_a_thread_in_the_background(app):
    stream = await subscribe(app.asgi_app, "topic=a")
    await asyncio.to_thread(app.sse.publish_in_background, topic="a", data="from a thread")
    assert await stream.received(1) == ["from a thread"]


async def test_publishing_in_the_background_needs_an_event_loop(app):
    with pytest.raises(RuntimeError, match="event loop"):
        await asyncio.to_thread(app.sse.publish_in_background, topic="a", data="x")


async def test_a_hub_given_with_the_update_is_used_instead():
    app = make_app(publish_retries=0)
    with pytest.raises(PublishError, match=r"no hub answers at http://127\.0\.0\.1:9/"):
        await app.sse.publish("a", "x", hub_url="http://127.0.0.1:9/")
    await app.sse.aclose()


# Signals ----------------------------------------------------------------------------------------


async def signalled(app, signal, sender=None, **sent):
    stream = await subscribe(app.asgi_app, "topic=*")
    signal.send(sender, **sent)
    await stream.received(1)
    [event] = stream.events
    return event.data, event.event


async def test_a_signal_is_published_to_its_name(app):
    signal = NamedSignal("order-placed")
    app.sse.publish_signal(signal)
    stream = await subscribe(app.asgi_app, "topic=order-placed")
    signal.send()
    signal.send()
    assert await stream.received(2) == ["", ""]


@pytest.mark.parametrize(
    ("options", "published"),
    [
        ({"data": "x"}, ("x", "message")),
        ({"topic": "t", "data": {"a": 1}}, ('{"a": 1}', "message")),
        ({"signal_kwargs_as_data": True}, ('{"n": 7}', "message")),
        ({"data": {"a": 1}, "signal_kwargs_as_data": True}, ('{"a": 1, "n": 7}', "message")),
        ({"data": 2, "signal_name_as_type": True}, ("2", "named")),
        ({"signal_kwargs_as_data": True, "marshaler": lambda d: f"n={d['n']}"}, ("n=7", "message")),
        ({"data": "x", "callback": lambda given: given.update(type="t")}, ("x", "t")),
        ({"data": "x", "type": "fixed"}, ("x", "fixed")),
    ],
)
async def test_what_of_a_signal_is_published(app, options, published):
    signal = NamedSignal("named")
    app.sse.publish_signal(signal, **options)
    assert await signalled(app, signal, n=7) == published


async def test_a_sender_may_give_arguments_and_a_callback_may_refuse(app):
    class Sender:
        def __init__(self):
            self.__mercure_publish__ = {"topic": "own", "data": "own"}

    signal = NamedSignal("named")
    app.sse.publish_signal(signal, data="refused", callback=lambda given: given["topic"] == "own")
    stream = await subscribe(app.asgi_app, "topic=*")
    signal.send(None)
    signal.send(Sender())
    assert await stream.received(1) == ["own"]


async def test_the_module_level_function_connects_to_the_current_application(app):
    signal = NamedSignal("named")
    publish_signal(signal, data="x")
    async with app.app_context():
        assert await signalled(app, signal) == ("x", "message")


# URLs, tokens, cookies --------------------------------------------------------------------------


async def test_urls_in_a_request(app):
    async with app.test_request_context("/", root_path="/below"):
        assert app.sse.hub_base_url() == f"http://localhost/below{PATH}"
        assert app.sse.script_url() == "/below/_mercure/mercure.js"
    async with app.test_request_context("/"):
        assert app.sse.hub_url() == f"http://localhost{PATH}"
        assert app.sse.hub_url("a b") == f"http://localhost{PATH}?topic=a+b"
        both = app.sse.hub_url(["a", "b"], "TOKEN")
        assert query(both) == {"topic": ["a", "b"], "authorization": ["TOKEN"]}


def test_urls_outside_a_request(app):
    assert app.sse.hub_url("a") == f"{PATH}?topic=a"
    assert app.sse.script_url() == "/_mercure/mercure.js"


@pytest.mark.parametrize(
    ("options", "public", "internal"),
    [
        ({}, "http://localhost:5500" + PATH, "http://localhost:5500" + PATH),
        ({"hub_url": "http://hub/x"}, "http://hub/x", "http://hub/x"),
        (
            {"hub_url": "http://hub/x", "public_hub_url": "https://example.com/x"},
            "https://example.com/x",
            "http://hub/x",
        ),
        (
            {"public_hub_url": "https://example.com/x"},
            "https://example.com/x",
            "http://localhost:5500" + PATH,
        ),
        ({"hub_url": True}, f"http://localhost{PATH}", f"http://localhost{PATH}"),
        (
            {"hub_url": "http://hub/x", "public_hub_url": True},
            f"http://localhost{PATH}",
            "http://hub/x",
        ),
    ],
)
async def test_urls_of_an_external_hub(options, public, internal):
    app = make_app(hub=False, **options)
    async with app.test_request_context("/"):
        assert app.sse.hub_base_url() == public
        assert app.sse.hub_base_url(public=False) == internal


def test_authentified_urls_grant_what_they_ask_for(app):
    url = app.sse.authentified_hub_url(["a", "b"], payload={"n": 1})
    assert query(url)["topic"] == ["a", "b"]
    token = query(url)["authorization"][0]
    assert claim(token) == {"subscribe": ["a", "b"], "payload": {"n": 1}}
    everything = query(app.sse.authentified_hub_url())["authorization"][0]
    assert claim(everything) == {"subscribe": ["*"]}


def test_with_subscriptions_adds_who_listens(app):
    events = f"{PATH}/subscriptions/a{{/subscriber}}"
    assert query(app.sse.hub_url("a", with_subscriptions=True))["topic"] == ["a", events]
    url = app.sse.authentified_hub_url("a", with_subscriptions=True)
    assert claim(query(url)["authorization"][0])["subscribe"] == ["a", events]


async def test_stream_urls_grant_no_more_than_they_must(app):
    events = f"{PATH}/subscriptions/a{{/subscriber}}"
    public = query(await app.sse.stream_url("a"))
    assert public == {"topic": ["a"], "lastEventID": ["earliest"]}
    watching = query(await app.sse.stream_url("a", presence="a"))
    assert watching["topic"] == ["a", events]
    assert claim(watching["authorization"][0])["subscribe"] == [events]
    private = query(await app.sse.stream_url("a", private=True, presence="a"))
    assert claim(private["authorization"][0])["subscribe"] == ["a", events]


async def test_stream_urls_carry_the_last_event_id(app):
    identifier = await app.sse.publish("a", "x")
    assert query(await app.sse.stream_url("a"))["lastEventID"] == [identifier]
    off = make_app(url_last_event_id=False)
    assert query(await off.sse.stream_url("a")) == {"topic": ["a"]}


def test_the_payload_getter_is_part_of_every_token(app):
    asked = []

    @app.sse.payload_getter
    def payload(topics):
        asked.append(topics)
        return {"user": 1, "n": 0}

    assert claim(app.sse.create_subscription_jwt("a"))["payload"] == {"user": 1, "n": 0}
    token = app.sse.create_subscription_jwt(["a"], payload={"n": 2})
    assert claim(token)["payload"] == {"user": 1, "n": 2}
    assert asked == ["a", ["a"]]


def test_a_payload_getter_cannot_be_async(app):
    async def payload(topics):
        return {}

    with pytest.raises(TypeError, match="plain function"):
        app.sse.payload_getter(payload)


def test_a_token_needs_its_secret():
    app = Quart(__name__)
    sse = MercureSSE(app, hub_url="http://localhost:5500/x", publisher_jwt="TOKEN")
    with pytest.raises(ConfigurationError, match="MERCURE_SUBSCRIBER_SECRET_KEY"):
        sse.create_subscription_jwt("a")


async def test_the_cookie_opens_private_updates_and_can_be_deleted(app):
    @app.get("/login")
    async def login():
        return app.sse.set_authz_cookie(await make_response(""), topics=["a"])

    @app.get("/logout")
    async def logout():
        return app.sse.delete_authz_cookie(await make_response(""))

    response = await app.test_client().get("/login")
    cookie = response.headers["Set-Cookie"]
    assert f"Path={PATH}" in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Domain" not in cookie
    assert "Secure" not in cookie
    stream = await subscribe(app.asgi_app, "topic=a", headers={"cookie": cookie.split(";")[0]})
    await app.sse.publish("a", "private", private=True)
    assert await stream.received(1) == ["private"]
    deleted = (await app.test_client().get("/logout")).headers["Set-Cookie"]
    assert deleted.startswith("mercureAuthorization=;")
    assert "Max-Age=0" in deleted
    assert f"Path={PATH}" in deleted


@pytest.mark.parametrize(
    ("hub_url", "attributes"),
    [
        ("https://hub.example.com/x", ["Domain=example.com", "Secure", "Path=/x"]),
        ("https://www.example.com/x", ["Secure", "Path=/x"]),
        ("https://elsewhere.test/x", ["Domain=elsewhere.test", "Secure"]),
        ("http://www.example.com", ["Path=/"]),
    ],
)
async def test_the_cookie_goes_to_an_external_hub(hub_url, attributes):
    app = make_app(hub=False, public_hub_url=hub_url)
    async with app.test_request_context("/", headers={"host": "www.example.com"}):
        response = app.sse.set_authz_cookie(await make_response(""), jwt="TOKEN")
    cookie = response.headers["Set-Cookie"].split("; ")
    assert cookie[0] == "mercureAuthorization=TOKEN"
    assert set(attributes) <= set(cookie)
    assert ("Secure" in cookie) == hub_url.startswith("https")
    assert any(part.startswith("Domain") for part in cookie) == ("Domain" in str(attributes))


async def test_cookie_options_can_be_given(app):
    async with app.test_request_context("/"):
        response = app.sse.set_authz_cookie(
            await make_response(""), jwt="T", secure=True, samesite="Lax", domain="example.com"
        )
    cookie = response.headers["Set-Cookie"]
    assert all(part in cookie for part in ("Secure", "SameSite=Lax", "Domain=example.com"))


# Presence ---------------------------------------------------------------------------------------


async def test_who_is_connected(app):
    assert not await app.sse.is_connected("a")
    token = app.sse.create_subscription_jwt("a", payload={"user": 1, "role": "x"})
    await subscribe(app.asgi_app, "topic=a")
    assert await app.sse.is_connected("a")
    assert not await app.sse.is_connected("a", user=1)
    await subscribe(app.asgi_app, f"topic=a&authorization={token}")
    assert await app.sse.is_connected("a", user=1)
    assert await app.sse.is_connected("a", user=1, role="x")
    assert not await app.sse.is_connected("a", user=2)
    assert not await app.sse.is_connected("b")
    of_a = await app.sse.get_subscriptions("a")
    assert len(of_a["subscriptions"]) == 2
    one = of_a["subscriptions"][0]
    assert (await app.sse.get_subscriptions("a", one["subscriber"]))["id"] == one["id"]
    assert len((await app.sse.get_subscriptions())["subscriptions"]) == 2
    with pytest.raises(SubscriptionNotFound):
        await app.sse.get_subscriptions("a", "nobody")


def test_subscription_topics(app):
    topic = app.sse.subscription_topic
    assert topic("a b") == f"{PATH}/subscriptions/a%20b{{/subscriber}}"
    assert topic("a", "urn:1") == f"{PATH}/subscriptions/a/urn%3A1"
    assert topic() == f"{PATH}/subscriptions{{/topic,subscriber}}"


# Templates --------------------------------------------------------------------------------------


async def rendered(app, source, **context):
    async with app.test_request_context("/"):
        return await render_template_string(source, **context)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ mercure_hub_url('a') }}", f"http://localhost{PATH}?topic=a&amp;lastEventID=earliest"),
        ("{{ mercure_hub_url() }}", f"http://localhost{PATH}"),
        ("{{ mercure_topic('a') }}", "a"),
        ("{{ mercure_subscription_topic('a') }}", f"{PATH}/subscriptions/a{{/subscriber}}"),
        ("{{ mercure_subscriptions('a') }}", "[]"),
    ],
)
async def test_template_functions(app, source, text):
    assert await rendered(app, source) == text


async def test_template_functions_with_tokens(app):
    token = await rendered(app, "{{ mercure_subscriber_jwt(['a']) }}")
    assert claim(token)["subscribe"] == ["a"]
    url = await rendered(app, "{{ mercure_authentified_hub_url('a', {'n': 1})|safe }}")
    assert claim(query(url)["authorization"][0]) == {"subscribe": ["a"], "payload": {"n": 1}}
    assert query(url)["lastEventID"] == ["earliest"]


async def test_the_subscriptions_api_is_served(app):
    token = app.sse.create_subscription_jwt("*")
    await subscribe(app.asgi_app, "topic=a")
    answer = await request(app.asgi_app, "GET", f"{PATH}/subscriptions?authorization={token}")
    assert len(json.loads(answer.body)["subscriptions"]) == 1


async def test_an_application_does_not_start_without_its_transport(tmp_path):
    app = Quart(__name__)
    app.config["SECRET_KEY"] = SECRET
    folder = tmp_path / "hub.db"
    folder.mkdir()
    MercureSSE(app, hub=True, transport_url=f"sqlite:///{folder}")
    sent = []

    async def receive():
        return {"type": "lifespan.startup"}

    async def send(message):
        sent.append(message)

    await app({"type": "lifespan", "asgi": {}}, receive, send)
    [answer] = sent
    assert answer["type"] == "lifespan.startup.failed"
    assert "SQLite: " in answer["message"]
