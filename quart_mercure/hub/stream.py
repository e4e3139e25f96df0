"""One client's event stream: from its queue to the connection, until either side ends it.

A stream is one task, the request's own, which waits for the client to leave. What the queue hands
over is sent from where it was published: in a short task of its own through ASGI's `send`, or
directly where the server offers its connection.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

from . import servers
from .broker import Subscriber
from .clock import Alarm, Clock, Overdue
from .events import COMMENT, Batch, Event

logger = logging.getLogger("quart_mercure.hub")

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

NEVER = float("inf")

_EARLIEST_KEEPALIVE = 0.8
"""Comments are sent after 80 to 100 % of the longest silence, so that they spread."""

if sys.version_info >= (3, 12):

    def _begin(work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> Any:
        """Run a coroutine at once, as far as it comes without waiting, and on in a task."""
        return asyncio.Task(work, loop=loop, eager_start=True)

else:

    def _begin(work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> Any:
        """Run a coroutine in a task."""
        return loop.create_task(work)


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None, "a server handles each request in a task"
    return task


class Connection(Protocol):
    """An HTTP/1.1 connection as a server may offer it: see `quart_mercure.uvicorn`."""

    stream: ConnectionStream | None
    """Told when the connection takes more again, and when it is lost."""

    def write_chunk(self, chunk: bytes) -> bool:
        """Write a chunk of the body; return whether the connection takes more now."""


class Pace:
    """What all streams of a hub have in common: the clock, and how long things may take.

    Attributes:
        keepalive: the longest silence of a stream, in seconds; 0 for any.
        overdue: the streams whose client has not taken what was sent to it yet.
    """

    def __init__(
        self,
        clock: Clock,
        keepalive: float,
        dispatch_timeout: float,
        on_timeout: Callable[[Stream], None],
    ) -> None:
        self.clock = clock
        self.keepalive = keepalive
        self.overdue: Overdue[Stream] = Overdue(clock, dispatch_timeout, on_timeout)


class Stream:
    """Sends a subscriber what it missed and then what its queue holds, through ASGI's `send`."""

    __slots__ = (
        "_alarm",
        "_ended",
        "_ends_at",
        "_last_sent",
        "_listening",
        "_loop",
        "_pace",
        "_receive",
        "_send",
        "_sending",
        "_task",
        "subscriber",
    )

    def __init__(self, subscriber: Subscriber, pace: Pace, receive: Receive, send: Send) -> None:
        self.subscriber = subscriber
        self._pace = pace
        self._receive = receive
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._alarm: Alarm | None = None
        self._last_sent = self._loop.time()
        self._ends_at = NEVER
        self._ended = False
        self._listening = False

    async def run(
        self,
        headers: Sequence[tuple[bytes, bytes]],
        missed: AsyncIterator[Sequence[Event]] | None,
        lifetime: float = NEVER,
    ) -> None:
        """Send until the client leaves, the queue is finished, or the client falls behind.

        After `lifetime` seconds the stream is ended.
        """
        servers.limit_silence(self._send)
        self._task = _current_task()
        self._ends_at = self._loop.time() + lifetime
        self.subscriber.queue.outlet = self
        self._tend()
        try:
            await self._open(headers, missed)
            self.subscriber.queue.resume()
            self._listening = True
            while not self._ended:
                if (await self._receive())["type"] == "http.disconnect":
                    break
        except asyncio.CancelledError:
            if not self._ended:
                raise
            self._task.uncancel()
        except Exception:
            logger.debug("a client went while its stream began", exc_info=True)
        finally:
            self._task = None
            self._let_go()

    def end(self, last: Batch | None = None) -> None:
        """Let the client have what waits for it and `last`, then end."""
        self.subscriber.queue.finish(last)

    # The queue's outlet -------------------------------------------------------------------------

    def write(self, batch: Batch) -> bool:
        """Send a batch; return whether that is done already. If not, the queue is told later."""
        self._last_sent = now = self._loop.time()
        task = _begin(self._send_wire(batch.wire), self._loop)
        if task.done():
            return True
        self._sending = task
        self._pace.overdue.enter(self, now)
        return False

    def finish(self, last: Batch | None) -> None:
        """Send what is last, then the end of the response."""
        self._pace.overdue.enter(self, self._loop.time())
        self._sending = _begin(self._send_end(last), self._loop)

    def drop(self) -> None:
        """End a client that fell behind, even in the middle of a `send` that never returns."""
        self._ended = True
        servers.abort(self._send)
        if self._task is not None:
            self._task.cancel()

    # Sending ------------------------------------------------------------------------------------

    async def _open(
        self,
        headers: Sequence[tuple[bytes, bytes]],
        missed: AsyncIterator[Sequence[Event]] | None,
    ) -> None:
        """Send the head, a comment that shows that the stream is open, and what was missed."""
        head = {"type": "http.response.start", "status": 200, "headers": list(headers)}
        await self._send(head)
        await self._send_in_time(COMMENT.wire)
        if missed is not None:
            async for events in missed:
                await self._send_in_time(Batch(events).wire)

    async def _send_in_time(self, wire: bytes) -> None:
        self._last_sent = now = self._loop.time()
        self._pace.overdue.enter(self, now)
        try:
            await self._send_body(wire)
        finally:
            self._pace.overdue.leave(self)

    async def _send_wire(self, wire: bytes) -> None:
        try:
            await self._send_body(wire)
        except Exception:  # the server's way to say that the client is gone
            self._stop()
            return
        if self._sending is not None:
            self._sending = None
            self._pace.overdue.leave(self)
            self.subscriber.queue.resume()

    async def _send_end(self, last: Batch | None) -> None:
        try:
            if last is not None:
                await self._send_body(last.wire)
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        except Exception:  # the client went first
            pass
        finally:
            self._stop()

    async def _send_body(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    # The end ------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """End the wait for the client to leave."""
        self._ended = True
        if self._listening and self._task is not None:
            self._task.cancel()

    def _let_go(self) -> None:
        self._pace.overdue.leave(self)
        self.subscriber.queue.discard()
        self.subscriber.queue.outlet = None  # or the two would keep each other
        if self._alarm is not None:
            self._alarm.cancel()
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    def _tend(self) -> None:
        """Do what is due: end the stream, or break its silence. Then wait for the next."""
        now = self._loop.time()
        if now >= self._ends_at:
            self.end()
            return
        due = self._ends_at
        keepalive = self._pace.keepalive
        if keepalive:
            queue = self.subscriber.queue
            if now >= self._last_sent + keepalive * _EARLIEST_KEEPALIVE and queue.ready:
                queue.ready = self.write(COMMENT)
            silence = keepalive * random.uniform(_EARLIEST_KEEPALIVE, 1.0)
            due = min(due, max(self._last_sent + silence, now))
        if due != NEVER:
            self._alarm = self._pace.clock.call_later(due - now, self._tend)


class ConnectionStream(Stream):
    """Sends what is live to the connection itself: chunks that all recipients share."""

    __slots__ = ("_connection",)

    def __init__(
        self,
        connection: Connection,
        subscriber: Subscriber,
        pace: Pace,
        receive: Receive,
        send: Send,
    ) -> None:
        super().__init__(subscriber, pace, receive, send)
        self._connection = connection

    async def _open(
        self,
        headers: Sequence[tuple[bytes, bytes]],
        missed: AsyncIterator[Sequence[Event]] | None,
    ) -> None:
        await super()._open(headers, missed)
        # Only now: what is live must wait until all that was missed has been sent.
        self._connection.stream = self

    def write(self, batch: Batch) -> bool:
        """Write a batch; return whether the connection takes more."""
        self._last_sent = now = self._loop.time()
        if self._connection.write_chunk(batch.chunk):
            return True
        self._pace.overdue.enter(self, now)
        return False

    def writable(self) -> None:
        """Go on: the connection takes more again."""
        if not self.subscriber.queue.ready:
            self._pace.overdue.leave(self)
            self.subscriber.queue.resume()

    def lost(self) -> None:
        """Write nothing more."""
        self.subscriber.queue.discard()

    def _let_go(self) -> None:
        self._connection.stream = None
        super()._let_go()
