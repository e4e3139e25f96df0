"""When updates are sent: at once while the hub is idle, in batches while it is loaded.

What has been published since the last flush is kept as runs: events in a row that the same
subscribers receive. A flush makes one batch of each run, whose bytes all its recipients share, so
its cost depends on the clients and hardly on the events. The pause after a flush grows with what
the flush has cost, up to a bound: the more there is to do, the more goes out together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from .events import Batch, Event
from .policies import Counters

if TYPE_CHECKING:
    from .broker import Subscriber

_PAUSE_PER_COST = 2.0
"""How long the pause after a flush is, in times of what the flush took."""

_SLICE = 256
"""How many clients are served before requests and other tasks get their turn."""

_MOST_EVENTS = 2_000
_MOST_BYTES = 2 * 1024 * 1024
"""How many events and bytes may be unsent, before publishers wait for the next flush."""

_TURNS_UNTIL_SENT = 2
"""Turns of the event loop after which a flush has done all its work: the tasks that it started
have run in the next, and uvloop has written what they sent by the one after."""


class Delivery:
    """Hands each subscriber's queue the events that are for it.

    `evict` is called with a subscriber that must be disconnected and how many events did not fit.
    """

    def __init__(
        self,
        max_interval: float,
        counters: Counters,
        evict: Callable[[Subscriber, int], None],
    ) -> None:
        self._max_interval = max_interval
        self._counters = counters
        self._evict = evict
        self._runs: list[tuple[Collection[Subscriber], list[Event]]] = []
        self._events = 0
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._work: Iterator[tuple[Subscriber, Batch]] | None = None
        self._begun = 0.0
        self._next_at = 0.0
        self._flushed: list[asyncio.Future[None]] = []

    @property
    def full(self) -> bool:
        """Whether publishers should wait: more is unsent than one flush should hold."""
        return self._events >= _MOST_EVENTS or self._bytes >= _MOST_BYTES

    def add(self, recipients: Collection[Subscriber], event: Event) -> None:
        """Take an event for those who receive it; `flush_when_due` sends it."""
        runs = self._runs
        if runs and runs[-1][0] is recipients:
            runs[-1][1].append(event)
        else:
            runs.append((recipients, [event]))
        self._events += 1
        self._bytes += len(event.wire)

    def flush_when_due(self) -> None:
        """Send what was added: now, or when the pause after the last flush is over."""
        if self._work is not None or not self._runs:
            return
        loop = asyncio.get_running_loop()
        if self.full or self._next_at <= loop.time():
            self._flush()
        elif self._timer is None:
            self._timer = loop.call_at(self._next_at, self._flush)

    async def flushed(self) -> None:
        """Wait until what was added has been handed over."""
        if self._runs or self._work is not None:
            over = asyncio.get_running_loop().create_future()
            self._flushed.append(over)
            await over

    def stop(self) -> None:
        """Forget the event loop: what is unsent is handed over by the next flush, if any."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._work = None
        self._next_at = 0.0
        self._let_publishers_go_on()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        runs, self._runs = self._runs, []
        self._events = self._bytes = 0
        self._begun = asyncio.get_running_loop().time()
        self._work = _offers(runs)
        self._serve_some()

    def _serve_some(self) -> None:
        """Serve the next clients, then let everything else have its turn."""
        if self._work is None:
            return
        served = tuple(islice(self._work, _SLICE))
        for subscriber, batch in served:
            self._counters.delivered += len(batch.events)
            unfit = subscriber.queue.offer(batch)
            if unfit:
                self._evict(subscriber, unfit)
        loop = asyncio.get_running_loop()
        if len(served) == _SLICE:
            loop.call_soon(self._serve_some)
        elif self._max_interval:
            loop.call_soon(self._settle, _TURNS_UNTIL_SENT)
        else:
            self._end_flush(0.0)

    def _settle(self, turns: int) -> None:
        """Wait until what the flush has begun is done, to know what it cost."""
        loop = asyncio.get_running_loop()
        if turns > 1:
            loop.call_soon(self._settle, turns - 1)
        else:
            self._end_flush(loop.time() - self._begun)

    def _end_flush(self, cost: float) -> None:
        self._work = None
        if self._max_interval:
            pause = min(cost * _PAUSE_PER_COST, self._max_interval)
            self._next_at = asyncio.get_running_loop().time() + pause
        self._let_publishers_go_on()
        self.flush_when_due()

    def _let_publishers_go_on(self) -> None:
        flushed, self._flushed = self._flushed, []
        for over in flushed:
            if not over.done():
                over.set_result(None)


def _offers(
    runs: Iterable[tuple[Collection[Subscriber], list[Event]]],
) -> Iterator[tuple[Subscriber, Batch]]:
    for recipients, events in runs:
        batch = Batch(events)
        # Sending may end streams, which leave their groups: those must not change underneath.
        for subscriber in tuple(recipients):
            yield subscriber, batch
