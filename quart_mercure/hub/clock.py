"""One clock for all streams: what is due when, without a timer of the event loop per client."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_Entry = TypeVar("_Entry", bound=Hashable)


class Alarm:
    """A callback that is due once. Cancelling it lets go of whatever the callback holds."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Never call back."""
        self.callback = None


class Clock:
    """Calls back at times rounded up to its granularity, with one timer of the event loop.

    All alarms of one tick share a bucket, so setting one costs the same however many there are.
    """

    def __init__(self, granularity: float = 0.25) -> None:
        self._granularity = granularity
        self._buckets: dict[int, list[Alarm]] = {}
        self._ticks: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_tick = 0

    def call_later(self, delay: float, callback: Callable[[], None]) -> Alarm:
        """Call back in `delay` seconds, or up to one granularity later."""
        loop = asyncio.get_running_loop()
        tick = int((loop.time() + max(delay, 0.0)) / self._granularity) + 1
        alarm = Alarm(callback)
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = [alarm]
            heapq.heappush(self._ticks, tick)
            self._set_timer(loop)
        else:
            bucket.append(alarm)
        return alarm

    def stop(self) -> None:
        """Forget every alarm."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._buckets.clear()
        self._ticks.clear()

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            if self._timer_tick <= self._ticks[0]:
                return
            self._timer.cancel()
        self._timer_tick = self._ticks[0]
        self._timer = loop.call_at(self._timer_tick * self._granularity, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        while self._ticks and self._ticks[0] * self._granularity <= now:
            for alarm in self._buckets.pop(heapq.heappop(self._ticks)):
                if alarm.callback is not None:
                    alarm.callback()
        if self._ticks:
            self._set_timer(loop)


class Overdue(Generic[_Entry]):
    """Calls back for every entry that stays in it for longer than `timeout` seconds.

    All have the same time, so the first to enter is the first to be due: entering and leaving cost
    no timer each. With a `timeout` of 0 nothing is ever overdue.
    """

    def __init__(self, clock: Clock, timeout: float, callback: Callable[[_Entry], None]) -> None:
        self._clock = clock
        self._timeout = timeout
        self._callback = callback
        self._entered: dict[_Entry, float] = {}
        self._armed = False

    def __len__(self) -> int:
        return len(self._entered)

    def enter(self, entry: _Entry, now: float) -> None:
        """Begin an entry's time, at the event loop's time `now`."""
        self._entered[entry] = now
        if not self._armed and self._timeout:
            self._arm(self._timeout)

    def leave(self, entry: _Entry) -> None:
        """End an entry's time, if it has begun."""
        self._entered.pop(entry, None)

    def _arm(self, delay: float) -> None:
        self._armed = True
        self._clock.call_later(delay, self._look)

    def _look(self) -> None:
        self._armed = False
        now = asyncio.get_running_loop().time()
        while self._entered:
            entry, begun = next(iter(self._entered.items()))
            if begun + self._timeout > now:
                self._arm(begun + self._timeout - now)
                return
            del self._entered[entry]
            self._callback(entry)
