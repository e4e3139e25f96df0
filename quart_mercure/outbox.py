"""Updates that wait for a SQLAlchemy session's transaction: sent when it commits, else never."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from .update import Update

_KEY = "quart_mercure.outbox"


@dataclass(slots=True)
class Outbox:
    """What one session has to send, each with the savepoint in which it was put there."""

    send: Callable[[Sequence[Update]], None]
    waiting: list[tuple[SessionTransaction | None, Update]] = field(default_factory=list)

    def note_commit(self, session: Session) -> None:
        """Send everything, or leave it to the transaction around a savepoint."""
        savepoint = session.get_nested_transaction()
        if savepoint is not None:
            outer = savepoint.parent if savepoint.parent and savepoint.parent.nested else None
            self.waiting = [
                (outer if within is savepoint else within, update)
                for within, update in self.waiting
            ]
            return
        waiting, self.waiting = self.waiting, []
        if waiting:
            self.send([update for _, update in waiting])

    def note_rollback(self, _session: Session, ended: SessionTransaction) -> None:
        """Forget what was put there within the transaction or savepoint that has ended."""
        self.waiting = [
            (within, update)
            for within, update in self.waiting
            if ended.nested and not _is_within(within, ended)
        ]


def _is_within(within: SessionTransaction | None, ended: SessionTransaction) -> bool:
    while within is not None:
        if within is ended:
            return True
        within = within.parent
    return False


def wait_for_commit(
    session: Any, updates: Sequence[Update], send: Callable[[Sequence[Update]], None]
) -> None:
    """Call `send` with updates after the session's transaction has committed.

    `session` is a `Session` or an `AsyncSession`. What it sends, it sends together and in order.
    """
    own: Session = getattr(session, "sync_session", session)
    outbox: Outbox | None = own.info.get(_KEY)
    if outbox is None:
        outbox = own.info[_KEY] = Outbox(send)
        event.listen(own, "after_commit", outbox.note_commit)
        event.listen(own, "after_soft_rollback", outbox.note_rollback)
    savepoint = own.get_nested_transaction()
    outbox.waiting.extend((savepoint, update) for update in updates)
