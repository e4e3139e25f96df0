"""The hub as an ASGI application: path and method to handler, and errors to answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from ..errors import ConfigurationError, RequestRejected, SubscriptionNotFound, TransportError
from ..tokens import ANONYMOUS, Grants
from ..update import Update
from . import authorization, presence, protocol, servers
from .broker import Broker, Subscriber
from .clock import Clock
from .events import time_to_come_back
from .lifetime import Lifetime
from .limits import StreamLimits
from .matchers import Matcher
from .options import HubOptions
from .policies import queue_rules
from .protocol import Request, Response, SubscribeRequest, SubscriptionsRequest
from .stream import NEVER, ConnectionStream, Pace, Receive, Send, Stream
from .transport import Replay, Transport, transport_from_url
from .transport.memory import MemoryTransport

logger = logging.getLogger("quart_mercure.hub")

Scope = dict[str, Any]

CONNECTION = "quart_mercure.connection"
"""The ASGI extension by which a server offers its connection: see `quart_mercure.uvicorn`."""

_YIELD_EVERY = 32

_RETRY_SOON = (("retry-after", "1"),)

_SHORTEST_PAUSE = 0.01

_LAST_WORD_TIMEOUT = 1.0
"""How long, in seconds, an ended stream may take to send what is left before it is dropped."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What the server hands over with a request."""

    scope: Scope
    receive: Receive
    send: Send

    def connection(self) -> Any | None:
        """Return the server's connection, where it is offered and nothing stands before it."""
        connection = (self.scope.get("extensions") or {}).get(CONNECTION)
        direct = connection is not None and connection.is_sent_to_by(self.send)
        return connection if direct else None


@dataclass(slots=True)
class Opening:
    """A stream that is about to begin."""

    subscriber: Subscriber
    headers: tuple[tuple[str, str], ...]
    replay: Replay | None
    place: Any


class Hub:
    """A Mercure hub in this process.

    It is an ASGI application that can be served alone or mounted in another one, and a publisher:
    `publish` and `publish_many` may be called from any event loop and, through
    `asyncio.run_coroutine_threadsafe`, from any thread; delivery happens on the loop that serves.
    """

    def __init__(self, options: HubOptions, transport: Transport | None = None) -> None:
        self.options = options
        self._transport = transport or transport_from_url(options.transport_url, options)
        self.broker = Broker(self._transport, queue_rules(options), options.max_flush_interval)
        self._authorizer = authorization.Authorizer(options)
        self._limits = StreamLimits(options)
        self._clock = Clock()
        self._pace = Pace(
            self._clock, options.keepalive_interval, options.dispatch_timeout, self._time_out
        )
        self._streams: set[Stream] = set()
        self._lifetime = Lifetime(self._end_streams)
        self._alone = isinstance(self._transport, MemoryTransport)

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
        updates = self._allowed(updates)
        await self._dispatch(updates)
        return [update.id for update in updates]

    async def publish_in(self, connection: Any, updates: Iterable[Update]) -> list[str]:
        """Publish updates in a database transaction of the caller's: when, and if, it commits.

        `connection` is one of asyncpg's, or SQLAlchemy's `AsyncConnection` or `AsyncSession` over
        it, in a transaction. Raises `ConfigurationError` unless the transport is PostgreSQL.
        """
        updates = self._allowed(updates)
        publish_in = getattr(getattr(self._transport, "store", None), "publish_in", None)
        if publish_in is None:
            raise ConfigurationError(
                "MERCURE_TRANSPORT_URL",
                "must be postgresql:// for updates that are part of a transaction",
            )
        await publish_in(connection, updates)
        return [update.id for update in updates]

    def _allowed(self, updates: Iterable[Update]) -> tuple[Update, ...]:
        """Return updates that anyone may publish. Raises `InvalidUpdate` when one is not."""
        allowed = tuple(updates)
        for update in allowed:
            protocol.refuse_reserved(update, self.options)
        return allowed

    async def _dispatch(self, updates: tuple[Update, ...]) -> None:
        """Publish updates that are known to be allowed, on the event loop that serves."""
        serving = self.loop
        if serving is None or serving is asyncio.get_running_loop() or not serving.is_running():
            await self._publish_here(updates)
        else:
            there = asyncio.run_coroutine_threadsafe(self._publish_here(updates), serving)
            await asyncio.wrap_future(there)

    async def _publish_here(self, updates: tuple[Update, ...]) -> None:
        for start in range(0, len(updates), _YIELD_EVERY):
            await self.broker.publish(updates[start : start + _YIELD_EVERY])
            await asyncio.sleep(0)

    # Serving ------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the hub: ASGI's HTTP and lifespan protocols."""
        if scope["type"] == "http":
            self.start()
            exchange = Exchange(scope, receive, send)
            answer = await self._answer_or_refuse(exchange)
            if isinstance(answer, Opening):
                await self._serve_stream(answer, exchange)
            else:
                await _send_response(send, answer, body=scope["method"] != "HEAD")
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
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
        self.broker.stop()
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
            stream.end(time_to_come_back())
        deadline = loop.time() + _LAST_WORD_TIMEOUT
        while self._streams and loop.time() < deadline:
            await asyncio.sleep(_SHORTEST_PAUSE)
        for stream in tuple(self._streams):
            stream.drop()

    def _time_out(self, stream: Stream) -> None:
        self.broker.counters.timed_out += 1
        logger.warning(
            "disconnecting client %s: it took nothing for %g seconds",
            stream.subscriber.id,
            self.options.dispatch_timeout,
        )
        stream.drop()

    async def open(self) -> None:
        """Start, and begin to follow the transport. Raises `TransportError` when that cannot be.

        Done by the lifespan; where there is none, the first request or publication does it.
        """
        self.start()
        workers = servers.configured_workers()
        if self._alone and workers > 1:
            logger.error(
                "%d workers, and each has a hub of its own: a subscriber receives only what is "
                "published in its own worker. Use one worker, or set MERCURE_TRANSPORT_URL",
                workers,
            )
        await self._transport.open()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.open()
                except TransportError as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _answer_or_refuse(self, exchange: Exchange) -> Response | Opening:
        headers: tuple[tuple[str, str], ...] = ()
        request: Request | None = None
        try:
            request = self._read_request(exchange.scope)
            headers = protocol.cors_headers(request, self.options.cors_origins)
            answer = await self._answer(request, exchange)
        except RequestRejected as error:
            answer = protocol.error_response(request, error)
        except TransportError as error:
            logger.error("%s", error)
            unavailable = RequestRejected(503, "the hub cannot keep updates now", _RETRY_SOON)
            answer = protocol.error_response(request, unavailable)
        return replace(answer, headers=(*answer.headers, *headers)) if headers else answer

    def _read_request(self, scope: Scope) -> Request:
        raw = scope.get("raw_path") or quote(scope["path"]).encode()
        root = scope.get("root_path", "")
        path = raw.partition(b"?")[0].decode("latin-1").removeprefix(root)
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
        return Request(
            method=scope["method"],
            scheme=scope.get("scheme", "http"),
            client=(scope.get("client") or (None,))[0],
            path=self._below(path, mounted=root != ""),
            query=protocol.parse_form(scope["query_string"]),
            headers=headers,
        )

    async def _answer(self, request: Request, exchange: Exchange) -> Response | Opening:
        """Call the handler of the request."""
        methods = self._methods(request.path)
        if request.method == "OPTIONS":
            return protocol.preflight_response(request, methods)
        if request.method not in methods:
            raise RequestRejected(
                405, f"{request.method} is not allowed here", (("allow", ", ".join(methods)),)
            )
        if request.path == protocol.metadata_path(self.options):
            return protocol.metadata_response(self.options)
        if request.path:
            return await self._list_subscriptions(request)
        if request.method == "POST":
            return await self._publish(request, exchange.receive)
        return await self._subscribe(request, exchange)

    def serves(self, path: str) -> bool:
        """Return whether the hub answers at this path of the server."""
        own = self.options.path
        return path in (own, protocol.metadata_path(self.options)) or path.startswith(f"{own}/")

    def _below(self, path: str, *, mounted: bool) -> str:
        """Return a path below the hub's: the server's path, or what a mount point left of it."""
        own = self.options.path
        if path == own or path.startswith(f"{own}/"):
            return path.removeprefix(own).rstrip("/")
        if mounted or path == protocol.metadata_path(self.options):
            return path.rstrip("/")
        raise RequestRejected(404, "there is nothing at this path")

    def _methods(self, path: str) -> tuple[str, ...]:
        options = self.options
        if not path:
            publishing = ("POST",) if options.allow_publish else ()
            querying = ("QUERY",) if "1.0" in options.protocols else ()
            return ("GET", "HEAD", "OPTIONS", *querying, *publishing)
        listing = options.subscriptions and path.split("/")[1] == "subscriptions"
        if listing or ("1.0" in options.protocols and path == protocol.metadata_path(options)):
            return ("GET", "HEAD", "OPTIONS")
        raise RequestRejected(404, "there is nothing at this path")

    # Handlers -----------------------------------------------------------------------------------

    async def _publish(self, request: Request, receive: Receive) -> Response:
        options = self.options
        credential = authorization.find_credential(request, options)
        authorization.refuse_forgery(credential, request, options)
        grants = await self._authorizer.authorize(credential, request, "publisher")
        if grants is None:
            headers = protocol.challenge(request, options)
            raise RequestRejected(401, "publishing needs a token", headers)
        body = await self._read_form(request, receive)
        update = protocol.parse_publish(body, options, grants.version)
        if not grants.may_publish(update.topics):
            raise RequestRejected(
                403,
                "the token does not grant publishing to every topic of the update",
                protocol.challenge(request, options, error="insufficient_scope"),
            )
        if self.broker.waiting >= options.publish_backlog:
            raise RequestRejected(
                503, "subscribers are falling behind; publish again later", _RETRY_SOON
            )
        await self._dispatch((update,))
        return protocol.text_response(200, update.id)

    async def _read_form(self, request: Request, receive: Receive) -> bytes:
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != protocol.FORM:
            raise RequestRejected(415, f"the body must be {protocol.FORM}")
        return await _read_body(receive, self.options.max_body)

    async def _subscribe(self, request: Request, exchange: Exchange) -> Response | Opening:
        options = self.options
        credential = authorization.find_credential(request, options)
        grants = await self._authorizer.authorize(credential, request, "subscriber")
        if grants is None and not options.allow_anonymous:
            headers = protocol.challenge(request, options)
            raise RequestRejected(401, "subscribing needs a token", headers)
        querying = request.method == "QUERY"
        body = await self._read_form(request, exchange.receive) if querying else b""
        wanted = protocol.parse_subscribe(request, options, protocol.parse_form(body))
        if self._lifetime.ending:
            raise RequestRejected(503, "the hub is shutting down", _RETRY_SOON)
        if request.method == "HEAD":
            return Response(200, headers=protocol.STREAM_HEADERS)
        self._lifetime.watch_worker(exchange.send)
        place = self._limits.take(request.client, credential and credential.token)
        try:
            subscriber, replay = await self._add_subscriber(wanted, grants or ANONYMOUS)
        except BaseException:
            self._limits.release(place)
            raise
        headers = protocol.STREAM_HEADERS
        if replay is not None:
            headers = (*headers, *protocol.event_id_headers(wanted, replay.preceding_id))
        return Opening(subscriber, headers, replay, place)

    async def _serve_stream(self, opening: Opening, exchange: Exchange) -> None:
        subscriber = opening.subscriber
        stream = self._stream_to(subscriber, exchange)
        missed = opening.replay.chunks if opening.replay else None
        self._streams.add(stream)
        try:
            await stream.run(
                _encode_headers(opening.headers), missed, self._lifetime_of(subscriber)
            )
        finally:
            self._streams.discard(stream)
            self.broker.unsubscribe(subscriber)
            self._limits.release(opening.place)
            await self._leave(subscriber)

    def _stream_to(self, subscriber: Subscriber, exchange: Exchange) -> Stream:
        connection = exchange.connection()
        if connection is None:
            return Stream(subscriber, self._pace, exchange.receive, exchange.send)
        return ConnectionStream(connection, subscriber, self._pace, exchange.receive, exchange.send)

    def _lifetime_of(self, subscriber: Subscriber) -> float:
        """Return after how many seconds a stream is ended, at the latest.

        That is when its token expires or it has been open for long enough. The latter is spread,
        so that streams that began together do not come back together.
        """
        lifetime = NEVER
        expires_at = subscriber.grants.expires_at
        if expires_at is not None:
            lifetime = expires_at - time.time()
        if self.options.write_timeout:
            lifetime = min(lifetime, self.options.write_timeout * random.uniform(0.8, 1.0))
        return lifetime

    async def _add_subscriber(
        self, wanted: SubscribeRequest, grants: Grants
    ) -> tuple[Subscriber, Replay | None]:
        subscriber, replay = await self.broker.subscribe(wanted, grants)
        try:
            await self._enter(subscriber)
        except BaseException:
            self.broker.unsubscribe(subscriber)
            raise
        return subscriber, replay

    async def _enter(self, subscriber: Subscriber) -> None:
        """Announce a subscriber, and let other hubs know of it."""
        if self.options.subscriptions:
            options = self.options
            announced = tuple(presence.announcements(options, subscriber, active=True))
            known = () if self._alone else tuple(presence.subscriptions_of(options, subscriber))
            await self._transport.enter(subscriber.id, known, announced)

    async def _leave(self, subscriber: Subscriber) -> None:
        """Announce that a subscriber has left; a hub that ends lets its transport do that."""
        if self.options.subscriptions and not self._lifetime.ending:
            announced = tuple(presence.announcements(self.options, subscriber, active=False))
            with contextlib.suppress(TransportError):
                await self._transport.leave(subscriber.id, announced)

    async def _list_subscriptions(self, request: Request) -> Response:
        options = self.options
        credential = authorization.find_credential(request, options)
        grants = await self._authorizer.authorize(credential, request, "subscriber")
        if grants is None:
            headers = protocol.challenge(request, options)
            raise RequestRejected(401, "reading the subscriptions needs a token", headers)
        path = options.path + request.path
        if not grants.may_receive((path,)):
            headers = protocol.challenge(request, options, error="insufficient_scope")
            raise RequestRejected(403, f"the token does not grant {path}", headers)
        asked = protocol.parse_subscriptions_path(request.path, options, grants.version)
        try:
            document = await self._answer_about(asked)
        except SubscriptionNotFound as error:
            raise RequestRejected(404, str(error)) from None
        return protocol.document_response(
            request, options, document, self.last_event_id, asked.version
        )

    async def subscriptions(
        self,
        matcher: Matcher | None = None,
        subscriber_id: str | None = None,
        version: str = "0.x",
    ) -> dict[str, Any]:
        """Return the document of the open subscriptions: all, those of a matcher, or just one.

        It is in the form of a version of the protocol, and tells of all hubs that share a
        transport. Raises `SubscriptionNotFound` when there is no such one.
        """
        return await self._answer_about(SubscriptionsRequest(version, matcher, subscriber_id))

    async def _answer_about(self, asked: SubscriptionsRequest) -> dict[str, Any]:
        matcher = asked.matcher
        named = None if matcher is None else (matcher.type.value, matcher.pattern)
        documents = await self._transport.subscriptions(asked.version, named, asked.subscriber_id)
        if documents is None:
            documents = presence.documents_here(self.broker, self.options, asked)
        return presence.answer(documents, self.options, asked, self.last_event_id)


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


@lru_cache(maxsize=1024)
def _encode_headers(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[bytes, bytes], ...]:
    """Return headers as ASGI has them; most streams share theirs."""
    return tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers)


async def _send_response(send: Send, response: Response, *, body: bool) -> None:
    head = (*response.headers, ("content-length", str(len(response.body))))
    await send(
        {
            "type": "http.response.start",
            "status": response.status,
            "headers": list(_encode_headers(head)),
        }
    )
    await send({"type": "http.response.body", "body": response.body if body else b""})
