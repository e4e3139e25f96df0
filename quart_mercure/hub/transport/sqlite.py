"""The SQLite transport: durable, embedded, for any number of processes on one machine.

    sqlite:///relative/path.db     sqlite:////absolute/path.db

Parameters: `history`, `max_age`, `max_bytes` (see `Retention`); `poll` (0.02), how often in seconds
a process looks for what others have written; `synchronous` (`normal`): with `full`, what was
acknowledged survives a power failure, too, and not just the end of any process.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from ...errors import TransportError
from ...update import EARLIEST, Update
from ..events import Event
from .shared import (
    Append,
    Enter,
    Operation,
    Parameters,
    Retention,
    Summary,
    dump_update,
    load_update,
)

_T = TypeVar("_T")

_BUSY_TIMEOUT = 10.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS mercure_updates (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    announced INTEGER NOT NULL,
    private INTEGER NOT NULL,
    topics TEXT NOT NULL,
    data TEXT NOT NULL,
    type TEXT,
    retry INTEGER,
    created REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS mercure_updates_id ON mercure_updates (id, position);
CREATE INDEX IF NOT EXISTS mercure_updates_kind ON mercure_updates (announced, position);
CREATE TABLE IF NOT EXISTS mercure_hubs (node TEXT PRIMARY KEY, seen REAL NOT NULL);
CREATE TABLE IF NOT EXISTS mercure_subscriptions (
    node TEXT NOT NULL,
    subscriber TEXT NOT NULL,
    version TEXT NOT NULL,
    type TEXT NOT NULL,
    pattern TEXT NOT NULL,
    document TEXT NOT NULL,
    farewell TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS mercure_subscriptions_of ON mercure_subscriptions (node, subscriber);
CREATE INDEX IF NOT EXISTS mercure_subscriptions_to ON mercure_subscriptions (pattern);
CREATE TABLE IF NOT EXISTS mercure_forgotten (until INTEGER NOT NULL);
"""

_COLUMNS = "position, id, private, topics, data, type, retry"


class SQLiteStore:
    """A log in a SQLite file, in WAL mode: readers and the writer do not block each other."""

    def __init__(
        self,
        path: str,
        retention: Retention | None = None,
        *,
        poll: float = 0.02,
        synchronous: str = "normal",
    ) -> None:
        self._path = path
        self._retention = retention or Retention()
        self._poll = poll
        self._synchronous = synchronous
        self._writer = _Connection(self._connect)
        self._reader = _Connection(self._connect)
        self._seen_version = -1
        self._written = asyncio.Event()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        return connection

    async def open(self) -> None:
        """Open the file, and create it and its tables where they are missing."""
        self._written = asyncio.Event()
        await self._writer.run(lambda connection: connection.executescript(_SCHEMA))

    async def aclose(self) -> None:
        """Close the file."""
        await self._writer.aclose()
        await self._reader.aclose()

    # The log ------------------------------------------------------------------------------------

    async def write(self, operations: Sequence[Operation]) -> None:
        """Do all operations in one transaction."""
        await self._transaction(lambda connection: _perform(connection, operations))

    async def follow(self, after: int, limit: int, timeout: float) -> list[Event]:
        """Return the events after a position as soon as there are any."""
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            self._written.clear()
            events = await self.read(after, 2**62, limit)
            if events or not await self._changed_before(deadline):
                return events

    async def _changed_before(self, deadline: float) -> bool:
        """Wait until somebody has written; return whether that was before the deadline."""
        loop = asyncio.get_running_loop()
        while (remaining := deadline - loop.time()) > 0:
            try:
                async with asyncio.timeout(min(self._poll, remaining)):
                    await self._written.wait()
            except TimeoutError:
                version = await self._reader.run(_data_version)
                if version == self._seen_version:
                    continue
                self._seen_version = version
            return True
        return False

    def nudge(self) -> None:
        """Let `follow` look at once."""
        self._written.set()

    async def read(self, after: int, until: int, limit: int) -> list[Event]:
        """Return the kept events between two positions."""
        query = (
            f"SELECT {_COLUMNS} FROM mercure_updates WHERE position > ? AND position <= ?"
            " ORDER BY position LIMIT ?"
        )
        rows = await self._reader.run(
            lambda connection: connection.execute(query, (after, until, limit)).fetchall()
        )
        return [_event(row) for row in rows]

    async def end(self) -> tuple[int, str]:
        """Return the position and the identifier of the last event."""
        query = "SELECT position, id FROM mercure_updates ORDER BY position DESC LIMIT 1"
        last = await self._one(query)
        if last is not None:
            return int(last[0]), str(last[1])
        return await self.forgotten_until(), EARLIEST

    async def position_of(self, identifier: str) -> int | None:
        """Return the position of the first event of this identifier, if it is kept."""
        query = "SELECT min(position) FROM mercure_updates WHERE id = ?"
        found = await self._one(query, identifier)
        return None if found is None or found[0] is None else int(found[0])

    async def forgotten_until(self) -> int:
        """Return the position of the last event that is not kept any more."""
        found = await self._one("SELECT max(until) FROM mercure_forgotten")
        return int(found[0] or 0) if found else 0

    async def trim(self, retention: Retention | None = None) -> int:
        """Forget what is more than the retention allows."""
        kept = retention or self._retention
        return await self._transaction(lambda connection: _trim(connection, kept))

    async def summary(self) -> Summary:
        """Return what the log holds."""
        counted = await self._one(
            "SELECT coalesce(sum(1 - announced), 0), coalesce(sum(announced), 0),"
            " coalesce(sum(length(CAST(data AS BLOB))), 0), coalesce(min(position), 0),"
            " (SELECT count(*) FROM mercure_hubs),"
            " (SELECT count(*) FROM mercure_subscriptions) FROM mercure_updates"
        )
        assert counted is not None, "an aggregate has one row"
        updates, announcements, size, first, hubs, subscriptions = map(int, counted)
        last, identifier = await self.end()
        return Summary(updates, announcements, size, first, last, identifier, hubs, subscriptions)

    # Who is subscribed --------------------------------------------------------------------------

    async def subscriptions(
        self, version: str, matcher: tuple[str, str] | None, subscriber_id: str | None
    ) -> list[dict[str, Any]]:
        """Return the documents of subscriptions."""
        query = "SELECT document FROM mercure_subscriptions WHERE version = ?"
        values = [version]
        if matcher is not None:
            query += " AND type = ? AND pattern = ?"
            values += matcher
        if subscriber_id is not None:
            query += " AND subscriber = ?"
            values.append(subscriber_id)
        rows = await self._reader.run(
            lambda connection: connection.execute(f"{query} ORDER BY rowid", values).fetchall()
        )
        return [json.loads(document) for (document,) in rows]

    async def beat(self, node: str) -> bool:
        """Note that a hub is alive; return whether it was known to be."""

        def beat(connection: sqlite3.Connection) -> bool:
            known = connection.execute(
                "UPDATE mercure_hubs SET seen = ? WHERE node = ?", (time.time(), node)
            ).rowcount
            if not known:
                connection.execute("INSERT INTO mercure_hubs VALUES (?, ?)", (node, time.time()))
            return bool(known)

        return await self._transaction(beat)

    async def bury(self, node: str | None, silent_for: float) -> list[Update]:
        """Forget a hub, or all that were silent for so long; return their farewells."""
        if node is None:
            silent = "SELECT node FROM mercure_hubs WHERE seen < ?"
            value: Any = time.time() - silent_for
        else:
            silent, value = "SELECT ?", node

        def bury(connection: sqlite3.Connection) -> list[Any]:
            rows = connection.execute(
                f"DELETE FROM mercure_subscriptions WHERE node IN ({silent}) RETURNING farewell",
                (value,),
            ).fetchall()
            connection.execute(f"DELETE FROM mercure_hubs WHERE node IN ({silent})", (value,))
            return rows

        if node is None and await self._one(f"{silent} LIMIT 1", value) is None:
            return []
        return [load_update(farewell) for (farewell,) in await self._transaction(bury)]

    async def _one(self, query: str, *values: Any) -> Any:
        return await self._reader.run(
            lambda connection: connection.execute(query, values).fetchone()
        )

    async def _transaction(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        def within(connection: sqlite3.Connection) -> _T:
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result

        return await self._writer.run(within)


class _Connection:
    """A SQLite connection, and the one thread that uses it."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._thread: ThreadPoolExecutor | None = None

    async def run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run a function in the thread. SQLite's errors become `TransportError`."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="mercure-sqlite")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)

    def _run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            if self._connection is None:
                self._connection = self._connect()
            return work(self._connection)
        except sqlite3.Error as error:
            raise TransportError(f"SQLite: {error}") from error

    async def aclose(self) -> None:
        """Close the connection and end the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._close)
            thread.shutdown(wait=False)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _perform(connection: sqlite3.Connection, operations: Sequence[Operation]) -> None:
    now = time.time()
    for operation in operations:
        if isinstance(operation, Append):
            update = operation.update
            connection.execute(
                "INSERT INTO mercure_updates"
                " (id, announced, private, topics, data, type, retry, created)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    update.id,
                    operation.announced,
                    update.private,
                    json.dumps(update.topics, ensure_ascii=False),
                    update.data,
                    update.type,
                    update.retry,
                    now,
                ),
            )
        elif isinstance(operation, Enter):
            connection.executemany(
                "INSERT INTO mercure_subscriptions VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        operation.node,
                        operation.subscriber_id,
                        each.version,
                        each.type,
                        each.pattern,
                        json.dumps(each.document),
                        dump_update(each.farewell),
                    )
                    for each in operation.subscriptions
                ],
            )
        else:
            connection.execute(
                "DELETE FROM mercure_subscriptions WHERE node = ? AND subscriber = ?",
                (operation.node, operation.subscriber_id),
            )


def _trim(connection: sqlite3.Connection, retention: Retention) -> int:
    forgotten = 0
    limits = [(0, _first_kept(connection, retention))]
    if retention.announcements:
        limits.append((1, _nth_newest(connection, 1, retention.announcements)))
    for announced, first_kept in limits:
        deleted = connection.execute(
            "DELETE FROM mercure_updates WHERE announced = ? AND position < ?",
            (announced, first_kept),
        ).rowcount
        if deleted:
            until = first_kept - 1
            connection.execute("DELETE FROM mercure_forgotten WHERE until < ?", (until,))
            connection.execute("INSERT INTO mercure_forgotten VALUES (?)", (until,))
        forgotten += deleted
    return forgotten


def _first_kept(connection: sqlite3.Connection, retention: Retention) -> int:
    """Return the position of the oldest update that may stay."""
    bounds = [0]
    if retention.events:
        bounds.append(_nth_newest(connection, 0, retention.events))
    if retention.age:
        bounds.append(
            _position(
                connection,
                "SELECT max(position) + 1 FROM mercure_updates WHERE announced = 0 AND created < ?",
                time.time() - retention.age,
            )
        )
    if retention.size:
        bounds.append(
            _position(
                connection,
                "SELECT max(position) + 1 FROM (SELECT position, sum(length(CAST(data AS BLOB)))"
                " OVER (ORDER BY position DESC) AS total FROM mercure_updates WHERE announced = 0)"
                " WHERE total > ?",
                retention.size,
            )
        )
    return max(bounds)


def _nth_newest(connection: sqlite3.Connection, announced: int, number: int) -> int:
    return _position(
        connection,
        "SELECT position FROM mercure_updates WHERE announced = ?"
        " ORDER BY position DESC LIMIT 1 OFFSET ?",
        announced,
        number - 1,
    )


def _position(connection: sqlite3.Connection, query: str, *values: Any) -> int:
    found = connection.execute(query, values).fetchone()
    return 0 if found is None or found[0] is None else int(found[0])


def _data_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def _event(row: tuple[Any, ...]) -> Event:
    position, identifier, private, topics, data, event_type, retry = row
    update = Update(
        topics=tuple(json.loads(topics)),
        data=data,
        private=bool(private),
        id=identifier,
        type=event_type,
        retry=retry,
    )
    return Event(position, update)


def store_from_url(url: str) -> SQLiteStore:
    """Return the store of a `sqlite:///` URL. Raises `ValueError` for what cannot be right."""
    parts = urlsplit(url)
    path = unquote(parts.path)[1:]
    if parts.netloc or not path:
        raise ValueError("must be sqlite:///relative/path or sqlite:////absolute/path")
    if not Path(path).absolute().parent.is_dir():
        raise ValueError(f"there is no folder {Path(path).absolute().parent}")
    parameters = Parameters(parse_qsl(parts.query))
    synchronous = parameters.text("synchronous", "normal").lower()
    if synchronous not in ("normal", "full"):
        raise ValueError("synchronous must be normal or full")
    store = SQLiteStore(
        path,
        parameters.retention(),
        poll=parameters.number("poll", 0.02) or 0.001,
        synchronous=synchronous,
    )
    parameters.refuse_others()
    return store
