"""One client's bounded queue: what waits until the client's connection takes more."""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import islice
from typing import Protocol

from .events import Batch, Event
from .policies import QueueRules, SlowClientPolicy

_MOST_AT_ONCE = 256
"""How many waiting events are sent together."""


class Outlet(Protocol):
    """A client's connection, as its queue sees it."""

    def write(self, batch: Batch) -> bool:
        """Send; return whether more may follow at once. If not, call the queue's `resume` later."""

    def finish(self, last: Batch | None) -> None:
        """Send what is last, if anything, and end the response."""

    def drop(self) -> None:
        """End the connection without waiting for the client."""


class ClientQueue:
    """Passes a client what is for it, and holds what its connection does not take yet.

    A client that keeps up has an empty queue: it is handed shared batches as they come. It is
    written by the delivery and emptied by the client's outlet, both on the hub's event loop.
    """

    __slots__ = (
        "_droppable",
        "_excused",
        "_last",
        "_newest",
        "_rules",
        "_size",
        "_waiting",
        "after",
        "behind",
        "closed",
        "outlet",
        "ready",
    )

    def __init__(self, rules: QueueRules, after: int = 0) -> None:
        self._rules = rules
        self._waiting: OrderedDict[int, Event] | None = None
        self._newest: dict[str, int] | None = None
        self._droppable: deque[int] | None = None
        self._size = 0
        self._excused = False
        self._last: Batch | None = None
        self.after = after
        """Events up to this position are not for this client."""
        self.outlet: Outlet | None = None
        self.ready = False
        """Whether the outlet takes more now, which means that nothing waits."""
        self.closed = False
        """Whether nothing more is taken."""
        self.behind = False
        """Whether half of the bound is used: a publisher may wait for that to change."""

    def __len__(self) -> int:
        return len(self._waiting or ())

    # Towards the client -------------------------------------------------------------------------

    def offer(self, batch: Batch) -> int:
        """Take events. Return 0, or how many do not fit of a client that must be disconnected."""
        if self.ready and self.after < batch.first:
            self.ready = self.outlet.write(batch)  # type: ignore[union-attr]
            return 0
        if self.closed:
            return 0
        events = [event for event in batch.events if event.position > self.after]
        if self.ready and events:
            self.ready = self.outlet.write(Batch(events))  # type: ignore[union-attr]
            return 0
        for count, event in enumerate(events):
            if not self._put(event):
                return len(events) - count
        return 0

    def resume(self) -> None:
        """Send what waits: the outlet takes more."""
        outlet = self.outlet
        assert outlet is not None, "a queue is resumed by its outlet"
        while self._waiting:
            if not outlet.write(self._take()):
                return
        self._caught_up()
        if self.closed:
            outlet.finish(self._last)
        else:
            self.ready = True

    def finish(self, last: Batch | None = None) -> None:
        """Take nothing more; let the client have what waits and `last`, then end its stream."""
        if self.closed:
            return
        self.closed = True
        self._last = last
        if self.ready:
            self.ready = False
            self.outlet.finish(last)  # type: ignore[union-attr]

    def discard(self) -> int:
        """Take nothing more, forget what waits, and return how many events that was."""
        forgotten = len(self)
        self.closed = True
        self.ready = False
        self._forget()
        self._caught_up()
        return forgotten

    def excuse(self) -> None:
        """Let nobody wait for this client, until it has taken what is there."""
        self._excused = True
        self.behind = False

    # What waits ---------------------------------------------------------------------------------

    def _put(self, event: Event) -> bool:
        """Add an event by the policy for it; return whether the client may stay."""
        rules = self._rules
        topics = event.update.topics
        policy = rules.policy_of(topics)
        if policy is SlowClientPolicy.CONFLATE:
            self._conflate(topics[0])
        size = len(event.wire)
        while not self._has_room(size):
            if policy is SlowClientPolicy.DROP_OLDEST and self._drop_oldest():
                continue
            if policy in (SlowClientPolicy.DROP_OLDEST, SlowClientPolicy.DROP_NEWEST):
                rules.counters.dropped += 1
                return True
            return False
        if self._waiting is None:
            self._waiting = OrderedDict()
        self._waiting[event.position] = event
        self._size += size
        if policy is SlowClientPolicy.CONFLATE:
            self._newest = self._newest or {}
            self._newest[topics[0]] = event.position
        elif policy is SlowClientPolicy.DROP_OLDEST:
            self._droppable = deque() if self._droppable is None else self._droppable
            self._droppable.append(event.position)
        elif policy is SlowClientPolicy.DISCONNECT:
            self._note_whether_behind()
        return True

    def _has_room(self, size: int) -> bool:
        """Return whether an event fits.

        One that is larger than the whole bound goes into an empty queue: it could never be
        delivered otherwise.
        """
        if not self._waiting:
            return True
        rules = self._rules
        return len(self._waiting) < rules.max_events and self._size + size <= rules.max_bytes

    def _conflate(self, topic: str) -> None:
        position = (self._newest or {}).pop(topic, None)
        if position is not None and self._remove(position):
            self._rules.counters.conflated += 1

    def _drop_oldest(self) -> bool:
        while self._droppable:
            if self._remove(self._droppable.popleft()):
                self._rules.counters.dropped += 1
                return True
        return False

    def _remove(self, position: int) -> bool:
        event = self._waiting.pop(position, None) if self._waiting else None
        if event is None:
            return False
        self._size -= len(event.wire)
        return True

    def _take(self) -> Batch:
        """Take the oldest events out, to be sent together."""
        waiting = self._waiting or OrderedDict()
        if len(waiting) <= _MOST_AT_ONCE:
            events = list(waiting.values())
            self._forget()
        else:
            events = [waiting[position] for position in tuple(islice(waiting, _MOST_AT_ONCE))]
            for event in events:
                self._remove(event.position)
        return Batch(events)

    def _forget(self) -> None:
        self._waiting = self._newest = self._droppable = None
        self._size = 0

    def _note_whether_behind(self) -> None:
        if self.behind or self._excused or self._waiting is None:
            return
        rules = self._rules
        if len(self._waiting) * 2 > rules.max_events or self._size * 2 > rules.max_bytes:
            self.behind = True
            rules.on_change(self)

    def _caught_up(self) -> None:
        self._excused = False
        if self.behind:
            self.behind = False
            self._rules.on_change(self)
