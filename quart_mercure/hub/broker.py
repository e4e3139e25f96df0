"""The broker: who is subscribed, who receives what, and replay joined to live.

Publishing costs as much as there are subscribers who select the update: see `index`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..tokens import Grants
from ..update import Update, new_id
from .delivery import Delivery
from .events import Event, time_to_come_back
from .index import MatcherIndex, union
from .matchers import Matcher, any_matches
from .policies import Counters, QueueRules
from .protocol import SubscribeRequest
from .queue import ClientQueue
from .transport import Replay, Transport

logger = logging.getLogger("quart_mercure.hub")

_LONGEST_WAIT = 1.0
"""How long, in seconds, a publisher waits for clients that all fall behind together."""

_MAX_REMEMBERED = 1_000
"""For how many sets of topics it is remembered who receives them."""


class Subscriber:
    """One open stream: what it wants, what it may see, and the queue that feeds it."""

    __slots__ = ("__weakref__", "grants", "id", "matchers", "queue")

    def __init__(self, matchers: tuple[Matcher, ...], grants: Grants, queue: ClientQueue) -> None:
        self.id = new_id()
        self.matchers = matchers
        self.grants = grants
        self.queue = queue

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

    def __init__(
        self, transport: Transport, rules: QueueRules, max_flush_interval: float = 0.01
    ) -> None:
        self._transport = transport
        self._rules = rules
        rules.on_change = self._note_change
        self._delivery = Delivery(max_flush_interval, rules.counters, self._evict)
        self._subscribers: dict[str, Subscriber] = {}
        self.index: MatcherIndex[Subscriber] = MatcherIndex()
        self.granted: MatcherIndex[Subscriber] = MatcherIndex()
        self._remembered: dict[tuple[tuple[str, ...], bool], Collection[Subscriber]] = {}
        self._behind: set[ClientQueue] = set()
        self._waits: list[_Wait] = []
        self.waiting = 0
        """How many publishers wait for subscribers to catch up."""
        transport.connect(self._deliver, self._interrupt)

    @property
    def counters(self) -> Counters:
        """What has been done since the broker began."""
        return self._rules.counters

    def __len__(self) -> int:
        return len(self._subscribers)

    def __iter__(self) -> Iterator[Subscriber]:
        return iter(tuple(self._subscribers.values()))

    async def publish(self, updates: Sequence[Update]) -> None:
        """Keep updates and send them, in order, to everyone who receives them.

        When more is unsent than one flush should hold, or when most of an update's recipients
        fall behind, it is this hub that cannot keep up, and the publisher is made to wait; a few
        slow clients hold nobody up.
        """
        await self._transport.publish(updates)
        self.counters.published += len(updates)
        if not self._delivery.full and not self._behind:
            return
        self.waiting += 1
        try:
            while self._delivery.full:
                await self._delivery.flushed()
            crowd = self._crowd_among(self.recipients(updates[-1]))
            if crowd:
                await self._wait_for(crowd)
        finally:
            self.waiting -= 1

    async def subscribe(
        self, request: SubscribeRequest, grants: Grants
    ) -> tuple[Subscriber, Replay | None]:
        """Add a subscriber; return it with what it missed since its last event id, if it gave one.

        The subscriber's queue takes events from the position on at which the replay ends, and
        holds them until it is resumed, so that sending one after the other leaves no gap and no
        duplicate.
        """
        await self._transport.open()
        until = self._transport.position
        subscriber = Subscriber(request.matchers, grants, ClientQueue(self._rules, until))
        self._add(subscriber)
        if request.last_event_id is None:
            return subscriber, None
        try:
            replay = await self._transport.replay(request.last_event_id, until)
        except BaseException:
            self.unsubscribe(subscriber)
            raise
        return subscriber, Replay(replay.preceding_id, _for(subscriber, replay.chunks))

    def unsubscribe(self, subscriber: Subscriber) -> bool:
        """Remove a subscriber; return whether it was there. Nothing of it stays behind."""
        if self._subscribers.pop(subscriber.id, None) is None:
            return False
        subscriber.queue.discard()
        self._remembered.clear()
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
        self._remembered.clear()
        for matcher in subscriber.matchers:
            self.index.add(matcher, subscriber)
        for grant in subscriber.granted:
            self.granted.add(grant, subscriber)

    def recipients(self, update: Update) -> Collection[Subscriber]:
        """Return who selects an update and, when it is private, may read it.

        The same collection is returned for the same topics until somebody comes or goes.
        """
        key = (update.topics, update.private)
        found = self._remembered.get(key)
        if found is None:
            selecting = self.index.groups(update.topics)
            if not update.private:
                found = union(selecting)
            else:
                found = _in_both(selecting, self.granted.groups(update.topics))
            if len(found) > 1:
                if len(self._remembered) >= _MAX_REMEMBERED:
                    self._remembered.clear()
                self._remembered[key] = found
        return found

    def _deliver(self, events: Sequence[Event]) -> None:
        for event in events:
            found = self.recipients(event.update)
            if found:
                self._delivery.add(found, event)
        self._delivery.flush_when_due()

    def _interrupt(self) -> None:
        """End all streams: they come back with their last event id, and are told of the gap."""
        self.counters.gaps += 1
        for subscriber in self:
            subscriber.queue.finish(time_to_come_back())

    # Publishers that wait -----------------------------------------------------------------------

    def _crowd_among(self, recipients: Collection[Subscriber]) -> set[ClientQueue]:
        """Return the clients that fall behind, if they are most of the recipients."""
        if len(self._behind) * 2 <= len(recipients):
            return set()
        behind = {subscriber.queue for subscriber in recipients if subscriber.queue.behind}
        return behind if len(behind) * 2 > len(recipients) else set()

    async def _wait_for(self, crowd: set[ClientQueue]) -> None:
        """Wait until half of the clients have caught up, or too long for the rest to matter."""
        wait = _Wait(crowd, len(crowd) // 2, asyncio.get_running_loop().create_future())
        self._waits.append(wait)
        try:
            async with asyncio.timeout(_LONGEST_WAIT):
                await wait.over
        except TimeoutError:
            for queue in tuple(crowd):
                queue.excuse()
                self._behind.discard(queue)
        finally:
            self._waits.remove(wait)

    def _note_change(self, queue: ClientQueue) -> None:
        """Remember a queue while it is behind; let those go on who waited for it."""
        if queue.behind:
            self._behind.add(queue)
            return
        self._behind.discard(queue)
        for wait in self._waits:
            wait.behind.discard(queue)
            if len(wait.behind) <= wait.enough and not wait.over.done():
                wait.over.set_result(None)

    def stop(self) -> None:
        """Let go of the event loop."""
        self._delivery.stop()

    def _evict(self, subscriber: Subscriber, unfit: int) -> None:
        """Disconnect a client that falls behind: it comes back and is replayed what it missed."""
        dropped = subscriber.queue.discard() + unfit
        self.counters.dropped += dropped
        self.counters.slow_clients += 1
        logger.warning("disconnecting slow client %s: %d events waited", subscriber.id, dropped)
        if subscriber.queue.outlet is not None:
            subscriber.queue.outlet.drop()


async def _for(
    subscriber: Subscriber, chunks: AsyncIterator[Sequence[Event]]
) -> AsyncIterator[Sequence[Event]]:
    """Yield the events that a subscriber receives."""
    async for events in chunks:
        received = [event for event in events if subscriber.receives(event.update)]
        if received:
            yield received


def _in_both(
    selecting: list[dict[Subscriber, None]], granted: list[dict[Subscriber, None]]
) -> Collection[Subscriber]:
    """Return who is in a group of either list, asking those of whichever are fewer."""
    fewer, more = sorted((selecting, granted), key=lambda groups: sum(map(len, groups)))
    return [one for one in union(fewer) if any(one in group for group in more)]
