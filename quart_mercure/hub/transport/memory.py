"""The memory transport: one process, bounded history, nothing survives a restart."""

from __future__ import annotations

import heapq
from collections import deque
from itertools import takewhile

from ...update import EARLIEST, Update
from . import Deliver, Event, Replay

_REMEMBERED_IDS = 20
"""How many identifiers are remembered for each event that is kept."""


class MemoryTransport:
    """Keeps the last `length` updates of the application, and as many of the hub's own.

    The two are bounded apart so that clients coming and going push no message out. Identifiers
    are remembered for longer than the events that bore them, as a place in the order.
    """

    def __init__(self, length: int) -> None:
        self._published: deque[Event] = deque(maxlen=length)
        self._announced: deque[Event] = deque(maxlen=length)
        self._positions: dict[str, int] = {}
        self._max_positions = length * _REMEMBERED_IDS
        self._deliver: Deliver = lambda _event: None
        self.position = 0
        self.last_event_id = EARLIEST

    def connect(self, deliver: Deliver) -> None:
        """Call `deliver` with every event from now on, in order."""
        self._deliver = deliver

    async def publish(self, update: Update) -> None:
        """Keep an application's update and deliver it."""
        self._append(update, self._published)

    async def announce(self, update: Update) -> None:
        """Keep an update of the hub's own, apart from the applications', and deliver it."""
        self._append(update, self._announced)

    async def replay(self, after: str, until: int) -> Replay:
        """Return the kept events after the identifier `after`, up to the position `until`."""
        position = self._positions.get(after)
        events = heapq.merge(
            _newer(self._published, position or 0, until),
            _newer(self._announced, position or 0, until),
            key=lambda event: event.position,
        )
        return Replay(EARLIEST if position is None else after, tuple(events))

    async def aclose(self) -> None:
        """Nothing is held open."""

    def _append(self, update: Update, log: deque[Event]) -> None:
        self.position += 1
        self.last_event_id = update.id
        # An identifier used twice stands for its first use (specification: Reconciliation).
        self._positions.setdefault(update.id, self.position)
        if len(self._positions) > self._max_positions:
            del self._positions[next(iter(self._positions))]
        event = Event(self.position, update)
        log.append(event)
        self._deliver(event)


def _newer(log: deque[Event], after: int, until: int) -> list[Event]:
    newest_first = takewhile(lambda event: event.position > after, reversed(log))
    return [event for event in newest_first if event.position <= until][::-1]
