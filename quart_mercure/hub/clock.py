"""One clock for all streams: heartbeats and token expiry without a timer per client."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable


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
