"""The PostgreSQL transport: updates in a table, beside the application's own data.

    postgresql://user:password@host:5432/database

Parameters: `history`, `max_age`, `max_bytes` (see `Retention`); others are asyncpg's.

Whoever publishes holds an advisory lock until its transaction ends, so that positions become
visible in their order and a follower can never pass one by. With `publish_in` that transaction is
the application's own: publish last in it, for others wait. `NOTIFY` wakes the followers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from ...errors import TransportError
from ...update import EARLIEST, Update
from ..events import Event
from .shared import (
    Append,
    Enter,
    Leave,
    Operation,
    Parameters,
    Retention,
    Summary,
    dump_update,
    failing_as_transport,
    load_update,
)

_CHANNEL = "mercure"
_LOCK = 7236_4852_1103
_LONGEST_SLEEP = 1.0
"""How long, in seconds, a follower relies on being notified before it looks for itself."""

_TIMEOUT = 10.0

_NUL = "\x00"
"""The one character that PostgreSQL's text cannot hold."""

_SCHEMA = f"""
SELECT pg_advisory_xact_lock({_LOCK});
CREATE TABLE IF NOT EXISTS mercure_updates (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL,
    announced boolean NOT NULL,
    private boolean NOT NULL,
    topics text[] NOT NULL,
    data text NOT NULL,
    raw bytea,  -- the data, where it has characters that text cannot hold
    type text,
    retry bigint,
    created timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS mercure_updates_id ON mercure_updates (id, position);
CREATE INDEX IF NOT EXISTS mercure_updates_kind ON mercure_updates (announced, position);
CREATE TABLE IF NOT EXISTS mercure_hubs (node text PRIMARY KEY, seen timestamptz NOT NULL);
CREATE TABLE IF NOT EXISTS mercure_subscriptions (
    number bigint GENERATED ALWAYS AS IDENTITY,
    node text NOT NULL,
    subscriber text NOT NULL,
    version text NOT NULL,
    type text NOT NULL,
    pattern text NOT NULL,
    document text NOT NULL,
    farewell text NOT NULL
);
CREATE INDEX IF NOT EXISTS mercure_subscriptions_of ON mercure_subscriptions (node, subscriber);
CREATE INDEX IF NOT EXISTS mercure_subscriptions_to ON mercure_subscriptions (pattern);
CREATE TABLE IF NOT EXISTS mercure_forgotten (until bigint NOT NULL);
"""

_INSERT = (
    "INSERT INTO mercure_updates (id, announced, private, topics, data, raw, type, retry)"
    " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
)
_ENTER = "INSERT INTO mercure_subscriptions VALUES (DEFAULT, $1, $2, $3, $4, $5, $6, $7)"
_COLUMNS = "position, id, private, topics, data, raw, type, retry"


_translated = failing_as_transport(
    "PostgreSQL",
    (
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,  # what a connection that breaks in the middle may end with
        OSError,
        TimeoutError,
    ),
)


class PostgreSQLStore:
    """A log in a table of a PostgreSQL database."""

    def __init__(self, url: str, retention: Retention | None = None) -> None:
        self._url = url
        self._retention = retention or Retention()
        self._pool: asyncpg.Pool[Any] | None = None
        self._listener: asyncpg.Connection[Any] | None = None
        self._notified = asyncio.Event()

    @_translated
    async def open(self) -> None:
        """Connect, and create the tables where they are missing."""
        self._notified = asyncio.Event()
        if self._pool is None:
            self._pool = await asyncpg.create_pool(
                self._url, min_size=0, max_size=4, command_timeout=_TIMEOUT, timeout=_TIMEOUT
            )
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(_SCHEMA)

    async def aclose(self) -> None:
        """Disconnect."""
        pool, self._pool = self._pool, None
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.terminate()
        if pool is not None:
            pool.terminate()

    # The log ------------------------------------------------------------------------------------

    @_translated
    async def write(self, operations: Sequence[Operation]) -> None:
        """Do all operations in one transaction."""
        async with self._connected().acquire() as connection, connection.transaction():
            await _perform(connection, operations)

    @_translated
    async def publish_in(self, connection: Any, updates: Sequence[Update]) -> None:
        """Write updates in a transaction that is not ours: they appear when it is committed."""
        await _perform(await _driver_connection(connection), [Append(update) for update in updates])

    @_translated
    async def follow(self, after: int, limit: int, timeout: float) -> list[Event]:
        """Return the events after a position as soon as there are any."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        await self._listen()
        while True:
            self._notified.clear()
            events = await self._between(after, 2**62, limit)
            remaining = deadline - loop.time()
            if events or remaining <= 0:
                return events
            try:
                async with asyncio.timeout(min(remaining, _LONGEST_SLEEP)):
                    await self._notified.wait()
            except TimeoutError:
                await self._listen()

    async def _listen(self) -> None:
        """Be notified of what others write, on a connection of its own."""
        if self._listener is not None and not self._listener.is_closed():
            return
        self._listener = await asyncpg.connect(self._url, timeout=_TIMEOUT)
        await self._listener.add_listener(_CHANNEL, lambda *_: self.nudge())

    def nudge(self) -> None:
        """Let `follow` look at once."""
        self._notified.set()

    @_translated
    async def read(self, after: int, until: int, limit: int) -> list[Event]:
        """Return the kept events between two positions."""
        return await self._between(after, until, limit)

    async def _between(self, after: int, until: int, limit: int) -> list[Event]:
        rows = await self._connected().fetch(
            f"SELECT {_COLUMNS} FROM mercure_updates WHERE position > $1 AND position <= $2"
            " ORDER BY position LIMIT $3",
            after,
            until,
            limit,
        )
        return [_event(row) for row in rows]

    @_translated
    async def end(self) -> tuple[int, str]:
        """Return the position and the identifier of the last event."""
        last = await self._connected().fetchrow(
            "SELECT position, id FROM mercure_updates ORDER BY position DESC LIMIT 1"
        )
        if last is not None:
            return int(last[0]), str(last[1])
        return await self.forgotten_until(), EARLIEST

    @_translated
    async def position_of(self, identifier: str) -> int | None:
        """Return the position of the first event of this identifier, if it is kept."""
        found: int | None = await self._connected().fetchval(
            "SELECT min(position) FROM mercure_updates WHERE id = $1", identifier
        )
        return found

    @_translated
    async def forgotten_until(self) -> int:
        """Return the position of the last event that is not kept any more."""
        found = await self._connected().fetchval("SELECT max(until) FROM mercure_forgotten")
        return int(found or 0)

    @_translated
    async def trim(self, retention: Retention | None = None) -> int:
        """Forget what is more than the retention allows."""
        kept = retention or self._retention
        async with self._connected().acquire() as connection, connection.transaction():
            return await _trim(connection, kept)

    @_translated
    async def summary(self) -> Summary:
        """Return what the log holds."""
        row = await self._connected().fetchrow(
            "SELECT count(*) FILTER (WHERE NOT announced), count(*) FILTER (WHERE announced),"
            " coalesce(sum(octet_length(data)), 0), coalesce(min(position), 0),"
            " (SELECT count(*) FROM mercure_hubs),"
            " (SELECT count(*) FROM mercure_subscriptions) FROM mercure_updates"
        )
        assert row is not None, "an aggregate has one row"
        updates, announcements, size, first, hubs, subscriptions = map(int, row.values())
        last, identifier = await self.end()
        return Summary(updates, announcements, size, first, last, identifier, hubs, subscriptions)

    # Who is subscribed --------------------------------------------------------------------------

    @_translated
    async def subscriptions(
        self, version: str, matcher: tuple[str, str] | None, subscriber_id: str | None
    ) -> list[dict[str, Any]]:
        """Return the documents of subscriptions."""
        query = "SELECT document FROM mercure_subscriptions WHERE version = $1"
        values = [version]
        if matcher is not None:
            query += " AND type = $2 AND pattern = $3"
            values += matcher
        if subscriber_id is not None:
            values.append(subscriber_id)
            query += f" AND subscriber = ${len(values)}"
        rows = await self._connected().fetch(f"{query} ORDER BY number", *values)
        return [json.loads(row[0]) for row in rows]

    @_translated
    async def beat(self, node: str) -> bool:
        """Note that a hub is alive; return whether it was known to be."""
        updated = await self._connected().execute(
            "UPDATE mercure_hubs SET seen = clock_timestamp() WHERE node = $1", node
        )
        if updated == "UPDATE 1":
            return True
        await self._connected().execute(
            "INSERT INTO mercure_hubs VALUES ($1, clock_timestamp()) ON CONFLICT DO NOTHING", node
        )
        return False

    @_translated
    async def bury(self, node: str | None, silent_for: float) -> list[Update]:
        """Forget a hub, or all that were silent for so long; return their farewells."""
        async with self._connected().acquire() as connection, connection.transaction():
            gone = await connection.fetch(
                "DELETE FROM mercure_hubs WHERE node = $1::text OR ($1::text IS NULL"
                " AND seen < clock_timestamp() - make_interval(secs => $2::float8)) RETURNING node",
                node,
                silent_for,
            )
            rows = await connection.fetch(
                "DELETE FROM mercure_subscriptions WHERE node = ANY($1::text[]) RETURNING farewell",
                [row[0] for row in gone],
            )
        return [load_update(row[0]) for row in rows]

    def _connected(self) -> asyncpg.Pool[Any]:
        if self._pool is None:
            raise TransportError("PostgreSQL: the transport is not open")
        return self._pool


async def _driver_connection(connection: Any) -> Any:
    """Return asyncpg's connection under one of SQLAlchemy's, or under a session."""
    if hasattr(connection, "sync_session"):
        connection = await connection.connection()
    if hasattr(connection, "get_raw_connection"):
        await connection.exec_driver_sql("SELECT 1")  # begins the transaction, if nothing has yet
        return (await connection.get_raw_connection()).driver_connection
    return connection


async def _perform(connection: Any, operations: Sequence[Operation]) -> None:
    """Do operations in the transaction that a connection is in."""
    appended = [each for each in operations if isinstance(each, Append)]
    entered = [each for each in operations if isinstance(each, Enter)]
    left = [each for each in operations if isinstance(each, Leave)]
    if entered:
        await connection.executemany(_ENTER, [row for each in entered for row in _rows(each)])
    if left:
        await connection.execute(
            "DELETE FROM mercure_subscriptions WHERE (node, subscriber) IN"
            " (SELECT * FROM unnest($1::text[], $2::text[]))",
            [each.node for each in left],
            [each.subscriber_id for each in left],
        )
    if appended:
        await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
        await connection.executemany(_INSERT, [_row(each) for each in appended])
        await connection.execute(f"NOTIFY {_CHANNEL}")


def _row(appended: Append) -> tuple[Any, ...]:
    update = appended.update
    return (
        update.id,
        appended.announced,
        update.private,
        update.topics,
        update.data.replace(_NUL, ""),
        update.data.encode() if _NUL in update.data else None,
        update.type,
        update.retry,
    )


def _rows(entered: Enter) -> list[tuple[str, ...]]:
    return [
        (
            entered.node,
            entered.subscriber_id,
            each.version,
            each.type,
            each.pattern,
            json.dumps(each.document),
            dump_update(each.farewell),
        )
        for each in entered.subscriptions
    ]


async def _trim(connection: Any, retention: Retention) -> int:
    first_kept = await connection.fetchval(
        "SELECT greatest("
        " (SELECT position FROM mercure_updates WHERE NOT announced AND $1::bigint > 0"
        "  ORDER BY position DESC LIMIT 1 OFFSET greatest($1 - 1, 0)),"
        " (SELECT max(position) + 1 FROM mercure_updates WHERE NOT announced AND $2::float8 > 0"
        "  AND created < clock_timestamp() - make_interval(secs => $2)),"
        " (SELECT max(position) + 1 FROM (SELECT position, sum(octet_length(data))"
        "  OVER (ORDER BY position DESC) AS total FROM mercure_updates"
        "  WHERE NOT announced AND $3::bigint > 0) AS sized WHERE total > $3))",
        retention.events,
        retention.age,
        retention.size,
    )
    first_announced = await connection.fetchval(
        "SELECT position FROM mercure_updates WHERE announced AND $1::bigint > 0"
        " ORDER BY position DESC LIMIT 1 OFFSET greatest($1 - 1, 0)",
        retention.announcements,
    )
    forgotten = 0
    for announced, first in ((False, first_kept), (True, first_announced)):
        if first is None:
            continue
        result = await connection.execute(
            "DELETE FROM mercure_updates WHERE announced = $1 AND position < $2", announced, first
        )
        deleted = int(result.rpartition(" ")[2])
        if deleted:
            await connection.execute("DELETE FROM mercure_forgotten WHERE until < $1", first - 1)
            await connection.execute("INSERT INTO mercure_forgotten VALUES ($1)", first - 1)
        forgotten += deleted
    return forgotten


def _event(row: Any) -> Event:
    position, identifier, private, topics, data, raw, event_type, retry = row
    update = Update(
        topics=tuple(topics),
        data=data if raw is None else raw.decode(),
        private=private,
        id=identifier,
        type=event_type,
        retry=retry,
    )
    return Event(position, update)


def store_from_url(url: str) -> PostgreSQLStore:
    """Return the store of a PostgreSQL URL. Raises `ValueError` for what cannot be right."""
    parts = urlsplit(url)
    parameters = Parameters(parse_qsl(parts.query))
    retention = parameters.retention()
    address = urlunsplit(parts._replace(query=urlencode(parameters.rest())))
    return PostgreSQLStore(address, retention)
