"""Publishing to an external hub over HTTP: a real one, and one that fails on purpose."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs

import pytest
from hypercorn.asyncio import serve
from hypercorn.config import Config
from quart import Quart, render_template_string, request

from quart_mercure import (
    Hub,
    HubOptions,
    HubUnavailable,
    MercureSSE,
    PublishError,
    SubscriptionNotFound,
)
from quart_mercure import publisher as publisher_module

from .asgi import PATH, subscribe
from .conftest import SECRET, free_port


@asynccontextmanager
async def served(app) -> AsyncIterator[str]:
    """Serve an ASGI application on this event loop; yield its hub's URL."""
    port = free_port()
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.accesslog = config.errorlog = None
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait))
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            await asyncio.sleep(0)
    try:
        yield f"http://127.0.0.1:{port}{PATH}"
    finally:
        stop.set()
        await serving


def make_app(hub_url, **options):
    app = Quart(__name__)
    app.config["SECRET_KEY"] = SECRET
    MercureSSE(app, hub_url=hub_url, **options)
    return app


def make_hub(**options):
    return Hub(HubOptions(subscriber_key=SECRET, publisher_key=SECRET, **options))


@pytest.fixture
def no_pauses(monkeypatch):
    monkeypatch.setattr(publisher_module, "_FIRST_PAUSE", 0.001)


class Failing:
    """A hub that gives the answers it is told, one after the other, and remembers the updates."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.forms = []
        self.app = Quart(__name__)
        self.app.post(PATH)(self.publish)

    async def publish(self):
        self.forms.append(parse_qs(await request.get_data(as_text=True)))
        status, text, *headers = self.answers.pop(0)
        return text, status, dict(headers)


async def test_publishing_and_presence_over_http():
    hub = make_hub()
    stream = await subscribe(hub, "topic=a&topic=b")
    async with served(hub) as url:
        app = make_app(url)
        async with app.test_app():
            first = await app.sse.publish("a", "hello", type="t", retry=7)
            await app.sse.publish(["x", "b"], {"n": 1}, id="given")
            await app.sse.publish("a", "private", private=True)
            ids = await app.sse.publish_many([("a", "1"), ("b", "2")])
            assert await stream.received(4) == ["hello", '{"n": 1}', "1", "2"]
            events = stream.events
            assert (events[0].id, events[0].event, events[0].retry) == (first, "t", 7)
            assert [event.id for event in events[1:]] == ["given", *ids]
            assert await app.sse.is_connected("a")
            assert not await app.sse.is_connected("nobody")
            assert await app.sse.last_event_id() == hub.last_event_id
            everything = await app.sse.get_subscriptions()
            one = everything["subscriptions"][0]
            found = await app.sse.get_subscriptions("a", one["subscriber"])
            assert found["id"] == one["id"]
            with pytest.raises(SubscriptionNotFound):
                await app.sse.get_subscriptions("a", "nobody")


async def test_pages_carry_the_external_hubs_last_event_id():
    hub = make_hub()
    async with served(hub) as url:
        app = make_app(url)
        identifier = await app.sse.publish("a", "x")
        async with app.test_request_context("/"):
            page = await render_template_string(
                "{{ mercure_hub_url('a')|safe }} {{ mercure_subscriptions('a') }}"
            )
        expected = identifier.replace(":", "%3A")
        assert page == f"{url}?topic=a&lastEventID={expected} []"
        await app.sse.aclose()


async def test_a_page_asks_for_the_last_event_id_once():
    asked = []
    hub = Quart(__name__)

    @hub.get(f"{PATH}/subscriptions/<topic>")
    async def subscriptions(topic):
        asked.append(topic)
        return {"lastEventID": str(len(asked))}

    async with served(hub) as url:
        app = make_app(url)
        async with app.test_request_context("/"):
            page = await render_template_string(
                "{{ mercure_hub_url('a') }} {{ mercure_hub_url('b') }}"
            )
        assert page.count("lastEventID=1") == 2
        assert len(asked) == 1
        await app.sse.aclose()


async def test_pages_are_served_when_the_hub_is_down(caplog):
    app = make_app("http://127.0.0.1:9/.well-known/mercure")
    async with app.test_request_context("/"):
        page = await render_template_string("{{ mercure_hub_url('a') }}")
    assert page == "http://127.0.0.1:9/.well-known/mercure?topic=a"
    assert "without a last event id" in caplog.text
    with pytest.raises(HubUnavailable, match="no hub answers"):
        await app.sse.get_subscriptions("a")
    await app.sse.aclose()


async def test_a_hub_without_the_subscriptions_api_is_no_error():
    async with served(make_hub(subscriptions=False)) as url:
        app = make_app(url)
        assert await app.sse.stream_url("a") == f"{url}?topic=a"
        with pytest.raises(HubUnavailable, match="404"):
            await app.sse.get_subscriptions("a")
        await app.sse.aclose()


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_server_errors_are_tried_again_under_the_same_identifier(no_pauses, status):
    hub = Failing((status, "busy"), (status, "busy"), (200, "accepted"))
    async with served(hub.app) as url:
        app = make_app(url)
        assert await app.sse.publish("a", "x", private=True) == "accepted"
        await app.sse.aclose()
    assert len({form["id"][0] for form in hub.forms}) == 1
    assert hub.forms[0].keys() == {"topic", "data", "id", "private"}


async def test_a_hub_says_how_long_to_wait(no_pauses):
    hub = Failing((503, "busy", ("Retry-After", "0")), (200, ""))
    async with served(hub.app) as url:
        app = make_app(url)
        assert await app.sse.publish("a", "x", id="mine") == "mine"
        await app.sse.aclose()


async def test_tries_are_bounded(no_pauses):
    hub = Failing(*[(503, "busy")] * 3)
    async with served(hub.app) as url:
        app = make_app(url, publish_retries=2)
        with pytest.raises(PublishError, match="the hub answered 503: busy") as error:
            await app.sse.publish("a", "x")
        await app.sse.aclose()
    assert (error.value.status, error.value.text) == (503, "busy")
    assert hub.answers == []


async def test_connection_errors_are_tried_again(no_pauses):
    app = make_app("http://127.0.0.1:9/hub")
    with pytest.raises(PublishError, match=r"no hub answers at http://127\.0\.0\.1:9/hub") as error:
        await app.sse.publish("a", "x")
    assert error.value.status is None
    assert "MERCURE_HUB" in str(error.value)
    await app.sse.aclose()


@pytest.mark.parametrize(("status", "text"), [(400, "bad"), (413, ""), (404, "nothing")])
async def test_other_errors_are_not_tried_again(status, text):
    hub = Failing((status, text))
    async with served(hub.app) as url:
        app = make_app(url)
        with pytest.raises(PublishError) as error:
            await app.sse.publish("a", "x")
        await app.sse.aclose()
    assert (error.value.status, error.value.text) == (status, text)


@pytest.mark.parametrize("jwt", ["x" * 60, None])
async def test_a_refusal_says_which_grant_is_missing(jwt):
    async with served(make_hub()) as url:
        app = make_app(url)
        token = jwt or app.sse.create_jwt("publisher_secret_key", publish=["other"])
        with pytest.raises(PublishError, match='grant "publish" on a, b') as error:
            await app.sse.publish(["a", "b"], "x", jwt=token)
        assert error.value.status == (401 if jwt else 403)
        await app.sse.aclose()


async def test_each_event_loop_has_a_client_of_its_own():
    hub = make_hub()
    stream = await subscribe(hub, "topic=a")
    async with served(hub) as url:
        app = make_app(url, publisher_jwt=None)

        def elsewhere():
            async def run():
                await app.sse.publish("a", "from another loop")
                await app.sse.aclose()

            asyncio.run(run())

        await app.sse.publish("a", "from this loop")
        await asyncio.to_thread(elsewhere)
        await app.sse.publish("a", "from this loop again")
        assert len(await stream.received(3)) == 3
        await app.sse.aclose()
        await app.sse.aclose()
