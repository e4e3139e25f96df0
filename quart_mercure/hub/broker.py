"""The broker: who is subscribed, who receives what, and replay joined to live.

Publishing costs as much as there are subscribers who select the update: see `index`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from ..tokens import Grants
from ..update import Update, new_id
from .index import MatcherIndex, union
from .matchers import Matcher, any_matches
from .protocol import SubscribeRequest
from .queue import ClientQueue, nothing
from .transport import Event, Replay, Transport

logger = logging.getLogger("quart_mercure.hub")

_LONGEST_WAIT = 1.0
"""How long, in seconds, a publisher waits for clients that all fall behind together."""


@dataclass(slots=True)
class Counters:
    """What a broker has done since it began, in events and clients."""

    published: int = 0
    queued: int = 0
    dropped: int = 0
    slow_clients: int = 0


class Subscriber:
    """One open stream: what it wants, what it may see, and the queue that feeds it."""

    __slots__ = ("__weakref__", "grants", "id", "matchers", "on_evicted", "queue")

    def __init__(self, matchers: tuple[Matcher, ...], grants: Grants, queue: ClientQueue) -> None:
        self.id = new_id()
        self.matchers = matchers
        self.grants = grants
        self.queue = queue
        self.on_evicted: Callable[[], None] = nothing

    @property
    def granted(self) -> Iterable[Matcher]:
        """What it may read of private updates, each matcher once."""
        return dict.fromkeys(self.grants.subscribe or ())

    def receives(self, update: Update) -> bool:
        """Return whether `update` is selected and, when private, granted."""
        return any_matches(self.matchers, update.topics) and (
            not update.private or self.grants.may_receive(update.topics)
        )


@dataclass(slots=True, eq=False)
class _Wait:
    """A publisher that goes on when only `enough` of the clients are still behind."""

    behind: set[ClientQueue]
    enough: int
    over: asyncio.Future[None]


class Broker:
    """Owns the subscribers of one hub. Everything here runs on the hub's event loop."""

    def __init__(self, transport: Transport, queue_events: int, queue_bytes: int) -> None:
        self.counters = Counters()
        self._transport = transport
        self._queue_events = queue_events
        self._queue_bytes = queue_bytes
        self._subscribers: dict[str, Subscriber] = {}
        self.index: MatcherIndex[Subscriber] = MatcherIndex()
        self.granted: MatcherIndex[Subscriber] = MatcherIndex()
        self._crowd: set[ClientQueue] = set()
        self._waits: list[_Wait] = []
        transport.connect(self._deliver)

    def __len__(self) -> int:
        return len(self._subscribers)

    def __iter__(self) -> Iterator[Subscriber]:
        return iter(tuple(self._subscribers.values()))

    async def publish(self, update: Update) -> None:
        """Keep an update and queue it for everyone who receives it.

        When most of them fall behind, it is this hub that cannot keep up, and the publisher is
        made to wait; a few slow clients hold nobody up.
        """
        self.counters.published += 1
        await self._transport.publish(update)
        if self._crowd:
            await self._wait_for(self._crowd)

    async def subscribe(
        self, request: SubscribeRequest, grants: Grants
    ) -> tuple[Subscriber, Replay | None]:
        """Add a subscriber; return it with what it missed since its last event id, if it gave one.

        Live events wait in the subscriber's queue from the position on at which the replay ends,
        so that sending one after the other leaves no gap and no duplicate.
        """
        queue = ClientQueue(self._queue_events, self._queue_bytes)
        queue.on_caught_up = partial(self._caught_up, queue)
        subscriber = Subscriber(request.matchers, grants, queue)
        until = self._transport.position
        self._add(subscriber)
        if request.last_event_id is None:
            return subscriber, None
        try:
            replay = await self._transport.replay(request.last_event_id, until)
        except BaseException:
            self.unsubscribe(subscriber)
            raise
        missed = tuple(event for event in replay.events if subscriber.receives(event.update))
        return subscriber, Replay(replay.preceding_id, missed)

    def unsubscribe(self, subscriber: Subscriber) -> bool:
        """Remove a subscriber; return whether it was there. Nothing of it stays behind."""
        if self._subscribers.pop(subscriber.id, None) is None:
            return False
        subscriber.queue.discard()
        subscriber.queue.on_caught_up = nothing
        for matcher in subscriber.matchers:
            self.index.remove(matcher, subscriber)
        for grant in subscriber.granted:
            self.granted.remove(grant, subscriber)
        return True

    def subscribers_of(self, matcher: Matcher) -> Iterable[Subscriber]:
        """Return the subscribers that gave exactly this matcher."""
        return self.index.members(matcher)

    def subscriber(self, identifier: str) -> Subscriber | None:
        """Return the subscriber of this identifier, if it is connected."""
        return self._subscribers.get(identifier)

    def _add(self, subscriber: Subscriber) -> None:
        self._subscribers[subscriber.id] = subscriber
        for matcher in subscriber.matchers:
            self.index.add(matcher, subscriber)
        for grant in subscriber.granted:
            self.granted.add(grant, subscriber)

    def recipients(self, update: Update) -> Iterable[Subscriber]:
        """Return who selects an update and, when it is private, may read it.

        A private one costs as much as there are of whichever are fewer.
        """
        selecting = self.index.groups(update.topics)
        if not update.private:
            return union(selecting)
        fewer, more = sorted(
            (selecting, self.granted.groups(update.topics)),
            key=lambda groups: sum(map(len, groups)),
        )
        return [one for one in union(fewer) if any(one in group for group in more)]

    def _deliver(self, event: Event) -> None:
        update = event.update
        found = self.recipients(update)
        if self._crowd:
            self._crowd = set()
        if not found:
            return
        wire = event.wire
        evicted = []
        reached = behind = 0
        for subscriber in found:
            queue = subscriber.queue
            if queue.put(wire):
                reached += 1
                behind += queue.behind
            elif not queue.closed:
                evicted.append(subscriber)
        self.counters.queued += reached
        if behind * 2 > reached:
            self._crowd = {subscriber.queue for subscriber in found if subscriber.queue.behind}
        for subscriber in evicted:
            self._evict(subscriber)

    async def _wait_for(self, crowd: set[ClientQueue]) -> None:
        """Wait until half of the clients have caught up, or too long for the rest to matter."""
        wait = _Wait(crowd, len(crowd) // 2, asyncio.get_running_loop().create_future())
        self._waits.append(wait)
        try:
            async with asyncio.timeout(_LONGEST_WAIT):
                await wait.over
        except TimeoutError:
            for queue in crowd:
                queue.excuse()
        finally:
            self._waits.remove(wait)

    def _caught_up(self, queue: ClientQueue) -> None:
        for wait in self._waits:
            wait.behind.discard(queue)
            if len(wait.behind) <= wait.enough and not wait.over.done():
                wait.over.set_result(None)

    def _evict(self, subscriber: Subscriber) -> None:
        """Disconnect a client that falls behind: it comes back and is replayed what it missed."""
        dropped = subscriber.queue.discard() + 1
        self.counters.dropped += dropped
        self.counters.slow_clients += 1
        logger.warning("disconnecting slow client %s: %d events waited", subscriber.id, dropped)
        subscriber.on_evicted()
