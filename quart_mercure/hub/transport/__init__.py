"""Transports: where updates are kept for clients that come back, and how they reach the broker.

A transport gives every update a *position* in one order, calls the broker's `deliver` with each
event in that order, and replays from any identifier it still knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ...update import Update, encode


class Event:
    """An update in its place in the hub's order, encoded when first needed and then shared."""

    __slots__ = ("_wire", "position", "update")

    def __init__(self, position: int, update: Update) -> None:
        self.position = position
        self.update = update
        self._wire: bytes | None = None

    @property
    def wire(self) -> bytes:
        """The server-sent event."""
        if self._wire is None:
            self._wire = encode(self.update)
        return self._wire


Deliver = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Replay:
    """What happened after an identifier, oldest first.

    `preceding_id` is the identifier of the event before the first of `events`: the one asked for,
    or `"earliest"` when that is not known any more (specification: Reconciliation).
    """

    preceding_id: str
    events: Sequence[Event]


class Transport(Protocol):
    """What a hub needs of a transport."""

    @property
    def position(self) -> int:
        """The position of the last event delivered; 0 before the first."""

    @property
    def last_event_id(self) -> str:
        """The identifier of the last event delivered; `"earliest"` before the first."""

    def connect(self, deliver: Deliver) -> None:
        """Call `deliver` with every event from now on, in order, on the hub's event loop."""

    async def publish(self, update: Update) -> None:
        """Keep an application's update and deliver it."""

    async def announce(self, update: Update) -> None:
        """Keep an update of the hub's own, apart from the applications', and deliver it."""

    async def replay(self, after: str, until: int) -> Replay:
        """Return the kept events after the identifier `after`, up to the position `until`.

        When `after` is `"earliest"` or not known, those are all: an identifier is forgotten only
        after every event before it has been.
        """

    async def aclose(self) -> None:
        """Let go of whatever is held open."""
