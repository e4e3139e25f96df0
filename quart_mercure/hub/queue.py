"""One client's bounded queue of encoded events."""

from __future__ import annotations

import asyncio
from collections import deque


class ClientQueue:
    """Events that wait for one client, bounded in number and in bytes.

    It is written by the broker and read by the client's stream, both on the hub's event loop. The
    bytes it holds are shared with every other client's queue.
    """

    __slots__ = ("_closed", "_events", "_max_bytes", "_max_events", "_size", "_waiter")

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._events: deque[bytes] = deque()
        self._size = 0
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def closed(self) -> bool:
        """Whether nothing more can be put."""
        return self._closed

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: bytes) -> bool:
        """Add an event. Return `False`, and leave the queue as it is, when it is full or closed.

        An event that is larger than the whole bound still goes into an empty queue: it could
        never be delivered otherwise.
        """
        if self._closed or len(self._events) >= self._max_events:
            return False
        size = self._size + len(event)
        if size > self._max_bytes and self._events:
            return False
        self._events.append(event)
        self._size = size
        self._wake()
        return True

    async def get_all(self) -> bytes:
        """Wait until something is there and return all of it; `b""` once closed and empty."""
        while not self._events:
            if self._closed:
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        events = self._events
        if len(events) == 1:
            joined = events.popleft()
        else:
            joined = b"".join(events)
            events.clear()
        self._size = 0
        return joined

    def close(self) -> None:
        """Let the reader take what is left, then end."""
        self._closed = True
        self._wake()

    def discard(self) -> int:
        """Close, drop what is left, and return how many events that was."""
        dropped = len(self._events)
        self._events.clear()
        self._size = 0
        self.close()
        return dropped

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
