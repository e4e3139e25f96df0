"""The hub as an ASGI application: path and method to handler, and errors to answers."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote

from ..errors import InvalidUpdate, RequestRejected, SubscriptionNotFound
from ..tokens import ANONYMOUS, Grants
from ..update import Update
from . import authorization, presence, protocol
from .broker import Broker, Subscriber
from .clock import Clock
from .lifetime import Lifetime
from .matchers import parse_selector
from .options import HubOptions
from .protocol import Request, Response
from .stream import Receive, Send, Stream
from .transport import Transport
from .transport.memory import MemoryTransport

logger = logging.getLogger("quart_mercure.hub")

Scope = dict[str, Any]

_YIELD_EVERY = 32

_SHORTEST_PAUSE = 0.01

_LAST_WORD_TIMEOUT = 1.0
"""How long, in seconds, an ended stream may take to send what is left before it is dropped."""


class Hub:
    """A Mercure hub in this process.

    It is an ASGI application that can be served alone or mounted in another one, and a publisher:
    `publish` and `publish_many` may be called from any event loop and, through
    `asyncio.run_coroutine_threadsafe`, from any thread; delivery happens on the loop that serves.
    """

    def __init__(self, options: HubOptions, transport: Transport | None = None) -> None:
        self.options = options
        self._transport = transport or MemoryTransport(options.reconciliation_length)
        self.broker = Broker(self._transport, options.queue_events, options.queue_bytes)
        self._clock = Clock()
        self._streams: set[Stream] = set()
        self._lifetime = Lifetime(self._end_streams)

    # Publishing ---------------------------------------------------------------------------------

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that serves; `None` before and after."""
        return self._lifetime.loop

    @property
    def last_event_id(self) -> str:
        """The identifier of the last event, of whatever kind; `"earliest"` before the first."""
        return self._transport.last_event_id

    async def publish(self, update: Update) -> str:
        """Queue an update for everyone who receives it; return its identifier.

        Gives way to the event loop, so that streams send and requests are answered between
        updates however tightly it is called. Raises `InvalidUpdate` for a topic that is reserved
        for the hub.
        """
        return (await self.publish_many((update,)))[0]

    async def publish_many(self, updates: Iterable[Update]) -> list[str]:
        """Publish several updates in order; return their identifiers."""
        updates = tuple(updates)
        for update in updates:
            self._refuse_reserved(update)
        serving = self.loop
        if serving is None or serving is asyncio.get_running_loop() or not serving.is_running():
            await self._publish_here(updates)
        else:
            there = asyncio.run_coroutine_threadsafe(self._publish_here(updates), serving)
            await asyncio.wrap_future(there)
        return [update.id for update in updates]

    async def _publish_here(self, updates: tuple[Update, ...]) -> None:
        for count, update in enumerate(updates, 1):
            await self.broker.publish(update)
            if count % _YIELD_EVERY == 0 or count == len(updates):
                await asyncio.sleep(0)

    def _refuse_reserved(self, update: Update) -> None:
        try:
            protocol.check_not_reserved(update.topics, self.options.path)
        except RequestRejected as error:
            raise InvalidUpdate("topic", error.reason.removeprefix('"topic" ')) from None

    # Serving ------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the hub: ASGI's HTTP and lifespan protocols."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            raise RuntimeError(f"a hub does not speak {scope['type']}")

    def start(self) -> None:
        """Make the running event loop the hub's own; done by the lifespan or the first request."""
        self._lifetime.start()

    def begin_shutdown(self) -> None:
        """Refuse new streams and end the open ones, spread over `shutdown_timeout` seconds."""
        self._lifetime.begin_shutdown()

    async def aclose(self) -> None:
        """End every stream and wait for that; the hub can be started again afterwards."""
        await self._lifetime.drained()
        await self._transport.aclose()
        self._clock.stop()
        self._lifetime.forget()

    async def _end_streams(self) -> None:
        loop = asyncio.get_running_loop()
        streams = list(self._streams)
        random.shuffle(streams)
        pause = self.options.shutdown_timeout / max(len(streams), 1)
        begun = loop.time()
        for count, stream in enumerate(streams):
            if (ahead := begun + count * pause - loop.time()) > _SHORTEST_PAUSE:
                await asyncio.sleep(ahead)
            stream.end(retry=random.randint(500, 3000))
        deadline = loop.time() + _LAST_WORD_TIMEOUT
        while self._streams and loop.time() < deadline:
            await asyncio.sleep(_SHORTEST_PAUSE)
        for stream in tuple(self._streams):
            stream.drop()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.start()
        headers: tuple[tuple[str, str], ...] = ()
        try:
            request = self._read_request(scope)
            headers = protocol.cors_headers(request, self.options.cors_origins)
            response = await self._answer(request, headers, receive, send)
        except RequestRejected as error:
            response = protocol.text_response(error.status, error.reason, error.headers)
        if response is not None:
            await _send_response(send, response, headers, body=scope["method"] != "HEAD")

    def _read_request(self, scope: Scope) -> Request:
        raw = scope.get("raw_path") or quote(scope["path"]).encode()
        path = raw.partition(b"?")[0].decode("latin-1").removeprefix(scope.get("root_path", ""))
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
        return Request(
            method=scope["method"],
            path=path.removeprefix(self.options.path).rstrip("/"),
            query=protocol.parse_form(scope["query_string"]),
            headers=headers,
        )

    async def _answer(
        self,
        request: Request,
        headers: tuple[tuple[str, str], ...],
        receive: Receive,
        send: Send,
    ) -> Response | None:
        """Call the handler of the request; `None` means that it has answered already."""
        methods = self._methods(request.path)
        if request.method == "OPTIONS":
            return protocol.preflight_response(request, methods)
        if request.method not in methods:
            raise RequestRejected(
                405, f"{request.method} is not allowed here", (("allow", ", ".join(methods)),)
            )
        if request.path:
            return self._list_subscriptions(request)
        if request.method == "POST":
            return await self._publish(request, receive)
        return await self._subscribe(request, headers, receive, send)

    def _methods(self, path: str) -> tuple[str, ...]:
        if not path:
            publishing = ("POST",) if self.options.allow_publish else ()
            return ("GET", "HEAD", "OPTIONS", *publishing)
        if self.options.subscriptions and path.split("/")[1] == "subscriptions":
            return ("GET", "HEAD", "OPTIONS")
        raise RequestRejected(404, "there is nothing at this path")

    # Handlers -----------------------------------------------------------------------------------

    def _grants(self, request: Request, key: str | bytes) -> Grants | None:
        options = self.options
        return authorization.authorize(request, key, options.algorithm, options.cookie_name)

    async def _publish(self, request: Request, receive: Receive) -> Response:
        options = self.options
        authorization.refuse_forgery(request, options.cookie_name, options.publish_origins)
        grants = self._grants(request, options.publisher_key)
        if grants is None:
            raise RequestRejected(401, "publishing needs a token", authorization.CHALLENGE)
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != "application/x-www-form-urlencoded":
            raise RequestRejected(415, "the body must be application/x-www-form-urlencoded")
        update = protocol.parse_publish(await _read_body(receive, self.options.max_body))
        if not grants.may_publish(update.topics):
            raise RequestRejected(
                403,
                "the token does not grant publishing to every topic of the update",
                authorization.INSUFFICIENT_SCOPE,
            )
        protocol.check_not_reserved(update.topics, self.options.path)
        await self.publish(update)
        return protocol.text_response(200, update.id)

    async def _subscribe(
        self,
        request: Request,
        headers: tuple[tuple[str, str], ...],
        receive: Receive,
        send: Send,
    ) -> Response | None:
        grants = self._grants(request, self.options.subscriber_key)
        if grants is None and not self.options.allow_anonymous:
            raise RequestRejected(401, "subscribing needs a token", authorization.CHALLENGE)
        wanted = protocol.parse_subscribe(request)
        if self._lifetime.ending:
            raise RequestRejected(503, "the hub is shutting down", (("retry-after", "1"),))
        if request.method == "HEAD":
            return Response(200, headers=protocol.STREAM_HEADERS)
        self._lifetime.watch_worker(send)
        subscriber, replay = await self.broker.subscribe(wanted, grants or ANONYMOUS)
        head = (*protocol.STREAM_HEADERS, *headers)
        if replay is not None:
            head = (*head, ("last-event-id", protocol.header_value(replay.preceding_id)))
        stream = Stream(subscriber, self._clock, self.options.keepalive_interval, receive, send)
        self._streams.add(stream)
        expiry = self._end_at_expiry(stream)
        try:
            await self._announce(subscriber, active=True)
            await stream.run(_encode_headers(head), replay.events if replay else ())
        finally:
            expiry()
            self._streams.discard(stream)
            self.broker.unsubscribe(subscriber)
            if not self._lifetime.ending:
                await self._announce(subscriber, active=False)
        return None

    def _end_at_expiry(self, stream: Stream) -> Callable[[], None]:
        """End the stream when its token expires; return what takes that back."""
        expires_at = stream.subscriber.grants.expires_at
        if expires_at is None:
            return lambda: None
        return self._clock.call_at_epoch(expires_at, stream.end).cancel

    async def _announce(self, subscriber: Subscriber, *, active: bool) -> None:
        if not self.options.subscriptions:
            return
        for matcher in subscriber.matchers:
            await self._transport.announce(
                presence.subscription_update(
                    self.options.path,
                    subscriber,
                    matcher,
                    self.options.subscription_event_type,
                    active=active,
                )
            )

    def _list_subscriptions(self, request: Request) -> Response:
        grants = self._grants(request, self.options.subscriber_key)
        if grants is None:
            raise RequestRejected(
                401, "reading the subscriptions needs a token", authorization.CHALLENGE
            )
        path = self.options.path + request.path
        if not grants.may_receive((path,)):
            raise RequestRejected(
                403, f"the token does not grant {path}", authorization.INSUFFICIENT_SCOPE
            )
        topic, subscriber_id = protocol.parse_subscriptions_path(request.path)
        try:
            document = self.subscriptions(topic, subscriber_id)
        except SubscriptionNotFound:
            raise RequestRejected(404, "there is no such subscription") from None
        fresh = request.headers.get("if-none-match")
        return protocol.json_response(document, self.last_event_id, fresh)

    def subscriptions(
        self, topic: str | None = None, subscriber_id: str | None = None
    ) -> dict[str, Any]:
        """Return the document of the open subscriptions: all, those to `topic`, or just one.

        Raises `SubscriptionNotFound` when there is no such one.
        """
        path = self.options.path
        if topic is None:
            found = [(one, each) for one in self.broker for each in one.matchers]
        else:
            matcher = parse_selector(topic)
            found = [(one, matcher) for one in self.broker.subscribers_of(matcher)]
        if subscriber_id is None:
            documents = (presence.subscription_document(path, *pair) for pair in found)
            address = presence.collection_path(path, topic)
            return presence.collection_document(address, self.last_event_id, documents)
        for one, each in found:
            if one.id == subscriber_id:
                return presence.single_document(path, one, each, self.last_event_id)
        raise SubscriptionNotFound(f"{subscriber_id} has no subscription to {topic}")


async def _read_body(receive: Receive, limit: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestRejected(400, "the request ended before its body did")
        body += message.get("body", b"")
        if len(body) > limit:
            raise RequestRejected(413, f"the body is larger than {limit} bytes")
        if not message.get("more_body", False):
            return bytes(body)


def _encode_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


async def _send_response(
    send: Send, response: Response, headers: tuple[tuple[str, str], ...], *, body: bool
) -> None:
    head = (*response.headers, ("content-length", str(len(response.body))), *headers)
    await send(
        {
            "type": "http.response.start",
            "status": response.status,
            "headers": _encode_headers(head),
        }
    )
    await send({"type": "http.response.body", "body": response.body if body else b""})
