"""One client's bounded queue of encoded events."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class ClientQueue:
    """Events that wait for one client, bounded in number and in bytes.

    It is written by the broker and read by the client's stream, both on the hub's event loop. The
    bytes it holds are shared with every other client's queue.
    """

    __slots__ = (
        "_closed",
        "_events",
        "_excused",
        "_max_bytes",
        "_max_events",
        "_size",
        "_waiter",
        "behind",
        "on_caught_up",
    )

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._events: deque[bytes] = deque()
        self._size = 0
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._closed = False
        self._excused = False
        self._waiter: asyncio.Future[None] | None = None
        self.behind = False
        """Whether half of the bound is used: a publisher may wait for that to change."""
        self.on_caught_up: Callable[[], None] = nothing

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
        if not (self.behind or self._excused) and (
            len(self._events) * 2 > self._max_events or size * 2 > self._max_bytes
        ):
            self.behind = True
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
        self._caught_up()
        return joined

    def excuse(self) -> None:
        """Let nobody wait for this client, until it has taken what is there."""
        self._excused = True
        self.behind = False

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
        self._caught_up()
        return dropped

    def _caught_up(self) -> None:
        self._excused = False
        if self.behind:
            self.behind = False
            self.on_caught_up()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def nothing() -> None:
    """Stand in where nobody is to be called."""
