"""A transport for hubs in several processes: one log, which every hub appends to and follows.

What is published is delivered only when it is read back from the log, by the hub that wrote it as
by all others. So all subscribers of all hubs receive the same updates in the same order, which is
the log's, and what one has received can be replayed by any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar

from ...errors import TransportError
from ...update import EARLIEST, Update, new_id
from ..events import Event
from . import Deliver, Replay, Subscription

logger = logging.getLogger("quart_mercure.hub")

_P = ParamSpec("_P")
_T = TypeVar("_T")

BEAT_INTERVAL = 3.0
"""How often, in seconds, a hub shows that it is alive."""

DEAD_AFTER = 9.0
"""How old, in seconds, a hub's last sign of life becomes before others end its subscriptions."""

_TRIM_EVERY = 4
"""After how many beats the log is trimmed."""

_MOST_WRITTEN = 1000
"""How many operations are written together."""

_FIRST_READ = 50
_MOST_READ = 500
_LONGEST_WAIT = 5.0
_LONGEST_PAUSE = 2.0


@dataclass(frozen=True, slots=True)
class Append:
    """Put an update at the end of the log; `announced` when it is a hub's own."""

    update: Update
    announced: bool = False


@dataclass(frozen=True, slots=True)
class Enter:
    """Let a subscriber of a hub (`node`) be known."""

    node: str
    subscriber_id: str
    subscriptions: Sequence[Subscription]


@dataclass(frozen=True, slots=True)
class Leave:
    """Let a subscriber of a hub be forgotten."""

    node: str
    subscriber_id: str


Operation = Append | Enter | Leave


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much of a log is kept: updates by number, age in seconds and bytes of data; 0: any.

    Announcements of subscriptions are bounded by number alone, and apart.
    """

    events: int = 100_000
    age: float = 0.0
    size: int = 0
    announcements: int = 10_000


@dataclass(frozen=True, slots=True)
class Summary:
    """What a log holds: updates, their bytes, positions, hubs and subscriptions."""

    updates: int
    announcements: int
    bytes: int
    first_position: int
    last_position: int
    last_event_id: str
    hubs: int
    subscriptions: int


def failing_as_transport(
    service: str, failures: tuple[type[Exception], ...]
) -> Callable[[Callable[_P, Coroutine[Any, Any, _T]]], Callable[_P, Coroutine[Any, Any, _T]]]:
    """Return a decorator of a store's methods: their `failures` become `TransportError`."""

    def decorate(
        method: Callable[_P, Coroutine[Any, Any, _T]],
    ) -> Callable[_P, Coroutine[Any, Any, _T]]:
        @wraps(method)
        async def translating(*arguments: _P.args, **named: _P.kwargs) -> _T:
            try:
                return await method(*arguments, **named)
            except failures as error:
                raise TransportError(f"{service}: {error or type(error).__name__}") from error

        return translating

    return decorate


class Store(Protocol):
    """A log with one total order, and who is subscribed where.

    Every method raises `TransportError` for what goes wrong outside the process, and can be called
    again afterwards: a store reconnects by itself.
    """

    async def open(self) -> None:
        """Connect, and create what is missing."""

    async def write(self, operations: Sequence[Operation]) -> None:
        """Do all operations, in order and atomically, and return when they last."""

    async def follow(self, after: int, limit: int, timeout: float) -> list[Event]:
        """Return the events after a position, in order, as soon as there are any.

        At most `limit`; none when nothing comes within `timeout` seconds.
        """

    def nudge(self) -> None:
        """Let `follow` look again: this process has written."""

    async def read(self, after: int, until: int, limit: int) -> list[Event]:
        """Return the kept events after a position up to another, in order, at most `limit`."""

    async def end(self) -> tuple[int, str]:
        """Return the position and the identifier of the last event that was ever written."""

    async def position_of(self, identifier: str) -> int | None:
        """Return the position of the first event of this identifier, if it is kept."""

    async def forgotten_until(self) -> int:
        """Return the position of the last event of those that are not kept any more."""

    async def trim(self, retention: Retention | None = None) -> int:
        """Forget what is more than the retention allows; return how many events that was."""

    async def subscriptions(
        self, version: str, matcher: tuple[str, str] | None, subscriber_id: str | None
    ) -> list[dict[str, Any]]:
        """Return the documents of subscriptions: see `Transport.subscriptions`."""

    async def beat(self, node: str) -> bool:
        """Note that a hub is alive; return whether it was known to be."""

    async def bury(self, node: str | None, silent_for: float) -> list[Update]:
        """Forget a hub, or all that were silent for so long; return their farewells.

        Each farewell is returned once, to one caller.
        """

    async def summary(self) -> Summary:
        """Return what the log holds."""

    async def aclose(self) -> None:
        """Disconnect."""


class SharedTransport:
    """Follows a store's log for one hub, and writes to it many operations at a time."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.position = 0
        self.last_event_id = EARLIEST
        self._deliver: Deliver = lambda _events: None
        self._interrupt: Callable[[], None] = lambda: None
        self._node = ""
        self._opening: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._waiting: list[tuple[Sequence[Operation], asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._entered: dict[str, list[Operation]] = {}
        self._owed: list[Operation] = []
        self._in_touch_since = 0.0

    def connect(self, deliver: Deliver, interrupt: Callable[[], None]) -> None:
        """Call `deliver` with all events from now on, in order."""
        self._deliver = deliver
        self._interrupt = interrupt

    async def open(self) -> None:
        """Begin to follow the log at its end. Raises `TransportError` when that cannot be."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        opening = self._opening
        try:
            await asyncio.shield(opening)
        except TransportError:
            if self._opening is opening:
                self._opening = None
            raise

    async def _open(self) -> None:
        await self.store.open()
        self.position, self.last_event_id = await self.store.end()
        self._node = uuid.uuid4().hex
        await self.store.beat(self._node)
        self._in_touch_since = asyncio.get_running_loop().time()
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._tend())]

    # Writing ------------------------------------------------------------------------------------

    async def publish(self, updates: Sequence[Update]) -> None:
        """Write an application's updates; every hub delivers them."""
        await self._write([Append(update) for update in updates])

    async def enter(
        self,
        subscriber_id: str,
        subscriptions: Sequence[Subscription],
        announcements: Sequence[Update],
    ) -> None:
        """Let all hubs know of a subscriber."""
        await self.open()
        operations: list[Operation] = [
            Enter(self._node, subscriber_id, subscriptions),
            *_announced(announcements),
        ]
        await self._write(operations)
        self._entered[subscriber_id] = operations

    async def leave(self, subscriber_id: str, announcements: Sequence[Update]) -> None:
        """Let all hubs forget a subscriber: now, or when the store can be reached again."""
        self._entered.pop(subscriber_id, None)
        operations: list[Operation] = [
            Leave(self._node, subscriber_id),
            *_announced(announcements),
        ]
        try:
            await self._write(operations)
        except TransportError:
            self._owed += operations

    async def _write(self, operations: Sequence[Operation]) -> None:
        """Write operations, together with what else wants to be written at the time."""
        if not operations:
            return
        await self.open()
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((operations, written))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_what_waits())
        await written

    async def _write_what_waits(self) -> None:
        try:
            while self._waiting:
                together = self._next_to_write()
                error: Exception | None = None
                try:
                    await self.store.write([each for part, _ in together for each in part])
                except Exception as problem:  # whoever waits is told, whatever it is
                    error = problem
                self.store.nudge()
                for _, written in together:
                    if not written.done():
                        _settle(written, error)
        finally:
            self._writing = None
            for _, written in self._waiting:
                written.cancel()
            self._waiting.clear()

    def _next_to_write(self) -> list[tuple[Sequence[Operation], asyncio.Future[None]]]:
        together, count = [], 0
        while self._waiting and count < _MOST_WRITTEN:
            together.append(self._waiting.pop(0))
            count += len(together[-1][0])
        return together

    # Reading ------------------------------------------------------------------------------------

    async def replay(self, after: str, until: int) -> Replay:
        """Return the kept events after the identifier `after`, up to the position `until`."""
        await self.open()
        position = None if after == EARLIEST else await self.store.position_of(after)
        return Replay(EARLIEST if position is None else after, self._chunks(position or 0, until))

    async def _chunks(self, after: int, until: int) -> AsyncIterator[Sequence[Event]]:
        limit = _FIRST_READ  # a replay begins soon, and goes on in larger steps
        while after < until:
            events = await self.store.read(after, until, limit)
            if not events:
                return
            after = events[-1].position
            yield events
            limit = min(limit * 2, _MOST_READ)

    async def subscriptions(
        self, version: str, matcher: tuple[str, str] | None, subscriber_id: str | None
    ) -> list[dict[str, Any]]:
        """Return the documents of the subscriptions of all hubs."""
        await self.open()
        return await self.store.subscriptions(version, matcher, subscriber_id)

    async def _follow(self) -> None:
        """Deliver what is new, for as long as the transport is open."""
        failures = 0
        while True:
            try:
                if failures:
                    await self._rejoin()
                events = await self.store.follow(self.position, _MOST_READ, _LONGEST_WAIT)
                if events:
                    await self._note_what_is_missing(events[0].position)
                failures = 0
            except Exception as error:  # following must go on, or every subscriber falls silent
                logger.log(
                    logging.DEBUG if failures else logging.ERROR,
                    "cannot follow the transport, trying again: %s",
                    error,
                    exc_info=not isinstance(error, TransportError),
                )
                failures += 1
                await asyncio.sleep(_pause(failures))
                continue
            self._pass_on(events)

    def _pass_on(self, events: Sequence[Event]) -> None:
        if events:
            self.position = events[-1].position
            self.last_event_id = events[-1].update.id
            self._deliver(events)

    async def _note_what_is_missing(self, next_position: int) -> None:
        """Interrupt the subscribers when events have been forgotten before they were read."""
        if next_position > self.position + 1:
            forgotten = await self.store.forgotten_until()
            if forgotten > self.position:
                logger.error("%d events were lost to subscribers", forgotten - self.position)
                self._interrupt()

    async def _rejoin(self) -> None:
        """Go back with a log that has lost its end, as one without durable writes may."""
        position, identifier = await self.store.end()
        if position < self.position:
            logger.error("the transport has lost %d events", self.position - position)
            self.position, self.last_event_id = position, identifier
            self._interrupt()

    # Being alive --------------------------------------------------------------------------------

    async def _tend(self) -> None:
        """Show that this hub is alive, bury those that are not, and trim the log."""
        beats = random.randrange(_TRIM_EVERY)
        while True:
            await asyncio.sleep(BEAT_INTERVAL * random.uniform(0.9, 1.0))
            beats += 1
            try:
                await self._beat()
                if beats % _TRIM_EVERY == 0:
                    await self.store.trim()
            except TransportError as error:
                logger.debug("cannot tend the transport: %s", error)
                self._in_touch_since = asyncio.get_running_loop().time()

    async def _beat(self) -> None:
        if not await self.store.beat(self._node):
            await self._write(self._again())
        owed, self._owed = self._owed, []
        try:
            await self._write(owed)
        except TransportError:
            self._owed = owed + self._owed
            raise
        # After a time without the store, the others get theirs to show that they are alive.
        if asyncio.get_running_loop().time() - self._in_touch_since >= DEAD_AFTER:
            await self._say_farewell(await self.store.bury(None, DEAD_AFTER))

    def _again(self) -> list[Operation]:
        """Return what lets all subscribers of this hub be known: others took it for dead."""
        return [
            Append(replace(each.update, id=new_id()), announced=True)
            if isinstance(each, Append)
            else each
            for operations in self._entered.values()
            for each in operations
        ]

    async def _say_farewell(self, farewells: Sequence[Update]) -> None:
        await self._write(_announced(farewells))

    async def aclose(self) -> None:
        """End this hub's subscriptions for others, and disconnect."""
        if self._opening is None:
            return
        with contextlib.suppress(TransportError):
            await self._opening
            await self._say_farewell(await self.store.bury(self._node, 0.0))
        if self._writing is not None:
            await asyncio.wait([self._writing])
        await self._stop()
        self._opening = None
        self._entered.clear()
        self._owed.clear()
        await self.store.aclose()

    async def _stop(self) -> None:
        """End the tasks, also where a library lets a first cancellation get lost."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            _, pending = await asyncio.wait(self._tasks, timeout=0.1)
            self._tasks = list(pending)


def _announced(updates: Sequence[Update]) -> list[Operation]:
    return [Append(update, announced=True) for update in updates]


def _settle(written: asyncio.Future[None], error: Exception | None) -> None:
    if error is None:
        written.set_result(None)
    else:
        written.set_exception(error)


def _pause(failures: int) -> float:
    longest: float = min(0.05 * 2**failures, _LONGEST_PAUSE)
    return random.uniform(longest / 2, longest)


# Updates as text --------------------------------------------------------------------------------


def dump_update(update: Update) -> str:
    """Return an update as JSON."""
    return json.dumps(
        {
            "topics": update.topics,
            "data": update.data,
            "private": update.private,
            "id": update.id,
            "type": update.type,
            "retry": update.retry,
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )


def load_update(text: str | bytes) -> Update:
    """Return the update of what `dump_update` made."""
    fields = json.loads(text)
    return Update(**(fields | {"topics": tuple(fields["topics"])}))


# Options in URLs --------------------------------------------------------------------------------


class Parameters:
    """The parameters of a transport's URL, each taken once, so that what is left is unknown."""

    def __init__(self, given: Sequence[tuple[str, str]]) -> None:
        self._given = dict(given)

    def number(self, name: str, default: float) -> float:
        """Return a number, 0 or more. Raises `ValueError` for anything else."""
        text = self._given.pop(name, None)
        if text is None:
            return default
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if not 0 <= number < float("inf"):
            raise ValueError(f"{name} must be a number, 0 or more, not {text!r}")
        return number

    def text(self, name: str, default: str = "") -> str:
        """Return a text."""
        return self._given.pop(name, default)

    def retention(self) -> Retention:
        """Return how much is to be kept: `history`, `max_age`, `max_bytes`, `announcements`."""
        default = Retention()
        return Retention(
            events=int(self.number("history", default.events)),
            age=self.number("max_age", default.age),
            size=int(self.number("max_bytes", default.size)),
            announcements=int(self.number("announcements", default.announcements)),
        )

    def rest(self) -> dict[str, str]:
        """Return the parameters that nobody has taken, for another library to take."""
        return dict(self._given)

    def refuse_others(self) -> None:
        """Raise `ValueError` for parameters that nobody has taken."""
        if self._given:
            raise ValueError(f"there is no parameter {', '.join(sorted(self._given))}")
