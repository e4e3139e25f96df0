"""The memory transport: one process, bounded history, nothing survives a restart."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import takewhile

from ...update import EARLIEST, Update
from ..events import Event
from . import Deliver, Replay, Subscription

_REMEMBERED_IDS = 10
"""How many identifiers are remembered for each event that is kept."""

_CHUNK = 64


class _Log:
    """A bounded number of events, and the places of more identifiers in the hub's order."""

    def __init__(self, length: int) -> None:
        self._events: deque[Event] = deque(maxlen=length)
        self._positions: dict[str, int] = {}
        self._max_positions = length * _REMEMBERED_IDS

    def append(self, event: Event) -> None:
        self._events.append(event)
        # An identifier used twice stands for its first use (specification: Reconciliation).
        self._positions.setdefault(event.update.id, event.position)
        if len(self._positions) > self._max_positions:
            del self._positions[next(iter(self._positions))]

    def position_of(self, identifier: str) -> int | None:
        return self._positions.get(identifier)

    def between(self, after: int, until: int) -> list[Event]:
        newest_first = takewhile(lambda event: event.position > after, reversed(self._events))
        return [event for event in newest_first if event.position <= until][::-1]


class MemoryTransport:
    """Keeps the last `length` updates of the application, and as many of the hub's own.

    The two are bounded apart so that clients coming and going push no message out. Identifiers
    are remembered for longer than the events that bore them, as a place in the order.
    """

    def __init__(self, length: int) -> None:
        self._published = _Log(length)
        self._announced = _Log(length)
        self._deliver: Deliver = lambda _events: None
        self.position = 0
        self.last_event_id = EARLIEST

    def connect(self, deliver: Deliver, interrupt: Callable[[], None]) -> None:  # noqa: ARG002
        """Call `deliver` with all events from now on, in order; none is ever missing."""
        self._deliver = deliver

    async def open(self) -> None:
        """Nothing needs to be opened."""

    async def publish(self, updates: Sequence[Update]) -> None:
        """Keep an application's updates and deliver them."""
        self._append(updates, self._published)

    async def enter(
        self,
        subscriber_id: str,  # noqa: ARG002
        subscriptions: Sequence[Subscription],  # noqa: ARG002
        announcements: Sequence[Update],
    ) -> None:
        """Announce a subscriber, whom no other hub needs to know of."""
        self._append(announcements, self._announced)

    async def leave(self, subscriber_id: str, announcements: Sequence[Update]) -> None:  # noqa: ARG002
        """Announce that a subscriber has left."""
        self._append(announcements, self._announced)

    async def subscriptions(
        self,
        version: str,  # noqa: ARG002
        matcher: tuple[str, str] | None,  # noqa: ARG002
        subscriber_id: str | None,  # noqa: ARG002
    ) -> None:
        """Return `None`: the hub itself knows all subscriptions there are."""
        return

    async def replay(self, after: str, until: int) -> Replay:
        """Return the kept events after the identifier `after`, up to the position `until`."""
        position = self._published.position_of(after) or self._announced.position_of(after)
        merged = heapq.merge(
            self._published.between(position or 0, until),
            self._announced.between(position or 0, until),
            key=lambda event: event.position,
        )
        return Replay(after if position else EARLIEST, _in_chunks(tuple(merged)))

    async def aclose(self) -> None:
        """Nothing is held open."""

    def _append(self, updates: Sequence[Update], log: _Log) -> None:
        if not updates:
            return
        events = [Event(self.position + count, each) for count, each in enumerate(updates, 1)]
        self.position += len(events)
        self.last_event_id = updates[-1].id
        for event in events:
            log.append(event)
        self._deliver(events)


async def _in_chunks(events: Sequence[Event]) -> AsyncIterator[Sequence[Event]]:
    for start in range(0, len(events), _CHUNK):
        yield events[start : start + _CHUNK]
