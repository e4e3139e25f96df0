"""When a hub begins and ends: the event loop that is its own, and the server's shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from . import servers
from .servers import Send


class Lifetime:
    """Ties a hub to the event loop that serves it, and begins its shutdown once it can be known.

    `drain` ends what is open; it is started once, by whoever learns first of the shutdown.
    """

    def __init__(self, drain: Callable[[], Awaitable[None]]) -> None:
        self._drain = drain
        self._loop: asyncio.AbstractEventLoop | None = None
        self._signals: servers.SignalListener | None = None
        self._looked_for_worker = False
        self._worker_watch: asyncio.Task[None] | None = None
        self._draining: asyncio.Future[None] | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that serves; `None` before and after."""
        return self._loop

    @property
    def ending(self) -> bool:
        """Whether the shutdown has begun."""
        return self._draining is not None

    def start(self) -> None:
        """Make the running event loop the hub's own and listen for the server's shutdown.

        A loop that has ended is replaced. Raises `RuntimeError` while another one is running: a
        hub's subscribers belong to one event loop.
        """
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None and self._loop.is_running():
            raise RuntimeError("this hub is served by another event loop; one loop, one hub")
        self.forget()
        self._loop = loop
        self._signals = servers.SignalListener(self.begin_shutdown, loop)
        self._signals.start()

    def begin_shutdown(self) -> None:
        """Start draining, unless that has begun."""
        if self._draining is None and self._loop is not None:
            self._draining = asyncio.ensure_future(self._drain())

    def watch_worker(self, send: Send) -> None:
        """Begin the shutdown when hypercorn's worker ends, which no signal tells it.

        The first stream's `send` says whether there is such a worker, and which.
        """
        if self._looked_for_worker:
            return
        self._looked_for_worker = True
        terminated = servers.termination_event(send)
        if terminated is None:
            return

        async def watch() -> None:
            await terminated.wait()
            self.begin_shutdown()

        self._worker_watch = asyncio.create_task(watch())

    async def drained(self) -> None:
        """Begin the shutdown and wait until nothing is open."""
        self.start()
        self.begin_shutdown()
        if self._draining is not None:
            await self._draining

    def forget(self) -> None:
        """Let go of the event loop: the hub can be started again."""
        if self._signals is not None:
            self._signals.stop()
        if self._worker_watch is not None and self._loop is not None and self._loop.is_running():
            self._worker_watch.cancel()
        self._loop = self._signals = self._draining = None
        self._worker_watch = None
        self._looked_for_worker = False
