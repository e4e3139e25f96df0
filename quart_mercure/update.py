"""One update and its encoding as a server-sent event. Pure: nothing here waits."""

from __future__ import annotations

import re
import unicodedata
import uuid
from dataclasses import dataclass, field

from .errors import InvalidUpdate

EARLIEST = "earliest"
"""The reserved identifier that stands before every event (specification: Reconciliation)."""

_LINE_END = re.compile("\r\n|\r|\n")
# C0, DEL and C1; the format characters (category Cf) are looked for only in non-ASCII text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def new_id() -> str:
    """Return a fresh, opaque identifier: a random UUID as an IRI."""
    return f"urn:uuid:{uuid.uuid4()}"


def check_text(field_name: str, value: str) -> None:
    """Raise `InvalidUpdate` when `value` holds a character that no identifier may hold.

    Specification: Terminology (topic) and Publication (id, type): control and invisible
    format characters could forge fields or look-alike identifiers.
    """
    if _CONTROL.search(value):
        raise InvalidUpdate(field_name, "must not contain control characters")
    if not value.isascii():
        if any(unicodedata.category(character) == "Cf" for character in value):
            raise InvalidUpdate(field_name, "must not contain invisible format characters")
        check_utf8(field_name, value)


def check_utf8(field_name: str, value: str) -> None:
    """Raise `InvalidUpdate` when `value` cannot be encoded (it holds a lone surrogate)."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidUpdate(field_name, "must be valid Unicode text") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A message for the subscribers of its topics (specification: Publication).

    The first of `topics` is canonical, the others are alternates. `private` updates reach only
    subscribers whose token grants one of the topics. `retry` is the reconnection time that
    browsers are told, in milliseconds. Making one with a field that breaks a rule raises
    `InvalidUpdate`.
    """

    topics: tuple[str, ...]
    data: str = ""
    private: bool = False
    id: str = field(default_factory=new_id)
    type: str | None = None
    retry: int | None = None

    def __post_init__(self) -> None:
        if not self.topics:
            raise InvalidUpdate("topic", "is missing: an update needs at least one")
        for topic in self.topics:
            check_topic(topic)
        check_utf8("data", self.data)
        check_id(self.id)
        if self.type is not None:
            check_text("type", self.type)
        if self.retry is not None and self.retry < 0:
            raise InvalidUpdate("retry", "must be a number of milliseconds, zero or more")


def check_topic(topic: str) -> None:
    """Raise `InvalidUpdate` when nothing may be published to `topic`."""
    if not topic:
        raise InvalidUpdate("topic", "must not be empty")
    if topic == "*":
        raise InvalidUpdate("topic", 'must not be "*", which is the matcher for every topic')
    check_text("topic", topic)


def check_id(identifier: str) -> None:
    """Raise `InvalidUpdate` when a publisher may not choose `identifier`."""
    if not identifier:
        raise InvalidUpdate("id", "must not be empty")
    if identifier.startswith("#"):
        raise InvalidUpdate("id", 'must not start with "#"')
    if identifier == EARLIEST:
        raise InvalidUpdate("id", f'must not be the reserved value "{EARLIEST}"')
    check_text("id", identifier)


def encode(update: Update) -> bytes:
    """Return the server-sent event of `update`, ready to be sent to any number of clients.

    Every line of the data, whichever way it ends, becomes a `data` field of its own
    (HTML Living Standard, 9.2.6), so a receiver sees each line end as LF.
    """
    lines = []
    if update.type:
        lines.append(f"event: {update.type}")
    if update.retry is not None:
        lines.append(f"retry: {update.retry}")
    lines.append(f"id: {update.id}")
    lines.extend(f"data: {line}" for line in _LINE_END.split(update.data))
    return "\n".join(lines).encode() + b"\n\n"
