"""Transports: where updates are kept for clients that come back, and how they reach the broker.

A transport gives every update a *position* in one order, calls the broker's `deliver` with each
event in that order, and replays from any identifier it still knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ...update import Update
from ..events import Event

__all__ = ["Deliver", "Event", "Replay", "Transport"]

Deliver = Callable[[Sequence[Event]], None]


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
        """Call `deliver` with all events from now on, in order, on the hub's event loop."""

    async def publish(self, updates: Sequence[Update]) -> None:
        """Keep an application's updates and deliver them, in order and without others between."""

    async def announce(self, updates: Sequence[Update]) -> None:
        """Keep updates of the hub's own, apart from the applications', and deliver them."""

    async def replay(self, after: str, until: int) -> Replay:
        """Return the kept events after the identifier `after`, up to the position `until`.

        When `after` is `"earliest"` or not known, those are all: an identifier is forgotten only
        after every event before it has been.
        """

    async def aclose(self) -> None:
        """Let go of whatever is held open."""
