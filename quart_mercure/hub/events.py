"""Updates in the hub's order, and their bytes: encoded once, shared by all recipients."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ..update import Update, encode


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


class Batch:
    """Events that are sent together, and the bytes that all of their recipients share."""

    __slots__ = ("_chunk", "_wire", "events", "first")

    def __init__(self, events: Sequence[Event], wire: bytes | None = None) -> None:
        self.events = events
        self.first = events[0].position if events else 0
        self._wire = wire
        self._chunk: bytes | None = None

    @property
    def wire(self) -> bytes:
        """The events as they stand in an event stream."""
        if self._wire is None:
            events = self.events
            wires = [event.wire for event in events]
            self._wire = wires[0] if len(wires) == 1 else b"".join(wires)
        return self._wire

    @property
    def chunk(self) -> bytes:
        """The same as one chunk of an HTTP/1.1 response (RFC 9112, section 7.1)."""
        if self._chunk is None:
            wire = self.wire
            self._chunk = b"%x\r\n%b\r\n" % (len(wire), wire)
        return self._chunk


COMMENT = Batch((), b":\n")
"""A line that receivers ignore: it shows proxies and browsers that the stream is open."""


def time_to_come_back() -> Batch:
    """Return what tells a client when to come back: by chance, so that not all do so at once."""
    return Batch((), b"retry: %d\n\n" % random.randint(500, 3000))
