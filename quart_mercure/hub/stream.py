"""One client's event stream: from its queue to ASGI's `send`, until either side ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from . import servers
from .broker import Subscriber
from .clock import Alarm, Clock
from .queue import nothing
from .transport import Event

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

OPENING = b":\n"
"""A comment that makes proxies and browsers see the open stream before its first event."""

KEEPALIVE = b":\n"

_REPLAY_CHUNK = 64


class Stream:
    """Sends a subscriber what it missed and then what its queue holds."""

    def __init__(
        self, subscriber: Subscriber, clock: Clock, keepalive: float, receive: Receive, send: Send
    ) -> None:
        self.subscriber = subscriber
        self._clock = clock
        self._keepalive = keepalive
        self._receive = receive
        self._send = send
        self._last_sent = 0.0
        self._loop = asyncio.get_running_loop()
        self._pump: asyncio.Task[None] | None = None
        self._alarm: Alarm | None = None

    async def run(self, headers: Sequence[tuple[bytes, bytes]], missed: Sequence[Event]) -> None:
        """Send until the client leaves, the queue is closed, or the client falls behind."""
        servers.limit_silence(self._send)
        self.subscriber.on_evicted = self.drop
        self._pump = self._loop.create_task(self._send_all(headers, missed))
        watch = self._loop.create_task(self._wait_for_disconnect())
        if self._keepalive:
            self._alarm = self._clock.call_later(self._keepalive, self._keep_alive)
        try:
            await asyncio.wait((self._pump, watch), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if self._alarm is not None:
                self._alarm.cancel()
            self.subscriber.on_evicted = nothing
            for task in (self._pump, watch):
                task.cancel()
            await asyncio.gather(self._pump, watch, return_exceptions=True)

    def end(self, retry: int | None = None) -> None:
        """Let the client have what waits for it, then end; `retry` (ms) says when to come back."""
        if retry is not None:
            self.subscriber.queue.put(f"retry: {retry}\n\n".encode())
        self.subscriber.queue.close()

    async def _send_all(
        self, headers: Sequence[tuple[bytes, bytes]], missed: Sequence[Event]
    ) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send_body(OPENING)
        for start in range(0, len(missed), _REPLAY_CHUNK):
            chunk = missed[start : start + _REPLAY_CHUNK]
            await self._send_body(b"".join([event.wire for event in chunk]))
        queue = self.subscriber.queue
        while waiting := await queue.get_all():
            await self._send_body(waiting)
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_body(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        self._last_sent = self._loop.time()

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _keep_alive(self) -> None:
        remaining = self._last_sent + self._keepalive - self._loop.time()
        if remaining <= 0:
            remaining = self._keepalive
            if not self.subscriber.queue:
                self.subscriber.queue.put(KEEPALIVE)
        self._alarm = self._clock.call_later(remaining, self._keep_alive)

    def drop(self) -> None:
        """End a client that fell behind, even in the middle of a `send` that never returns."""
        if self._pump is not None:
            self._pump.cancel()
        servers.abort(self._send)
