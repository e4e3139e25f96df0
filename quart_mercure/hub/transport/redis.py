"""The Redis transport: hubs on any number of machines (Redis 6.2 or newer, or Valkey).

    redis://host:6379/0     rediss://user:password@host:6380/0

Parameters: `history`, `max_age`, `max_bytes` (see `Retention`; bytes are those of whole entries);
`prefix` (`mercure`), of all keys; `sentinel=NAME`: the address is a Sentinel's, and NAME the master
to ask it for; `cluster=1`: the address is one of a Redis Cluster's.

Two streams hold the log, one for updates and one for the announcements of subscriptions, so that
each can be trimmed by itself. Their entries are numbered by one counter, in a script that writes
both: that number is the position. What Redis has acknowledged it may lose in a crash unless it is
told otherwise (`appendonly yes`, `appendfsync always`).
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import redis.asyncio as redis_asyncio
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

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
    failing_as_transport,
    load_update,
)

_TIMEOUT = 10.0
"""How long, in seconds, an answer may take; a blocking read has its own time on top."""

_PAUSES = (0.0, 0.1, 0.4)
"""How long, in seconds, to wait before a write is tried again on a new connection."""

_WRITE = """
local updates, announced, ids, counter, hub, done = unpack(KEYS)
if not redis.call('SET', done, '1', 'NX', 'EX', 60) then return redis.status_reply('OK') end
local position = tonumber(redis.call('GET', counter) or '0')
for i = 1, #ARGV, 4 do
  local action, name, value, now = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if action == 'enter' then
    redis.call('HSET', hub, name, value)
  elseif action == 'leave' then
    redis.call('HDEL', hub, name)
  else
    position = position + 1
    local number = string.format('%.0f', position)
    local stream = action == 'announce' and announced or updates
    redis.call('XADD', stream, number .. '-1', 'u', value, 'i', name, 't', now)
    redis.call('HSETNX', ids, name, number)
  end
end
redis.call('SET', counter, string.format('%.0f', position))
return redis.status_reply('OK')
"""

_TRIM = """
local stream, ids = KEYS[1], KEYS[2]
local most, oldest, bytes = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local length = redis.call('XLEN', stream)
local forgotten = 0
while length > 0 and forgotten < 5000 do
  local entry = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  local fields = entry[2]
  local old = oldest ~= '' and tonumber(fields[6]) < tonumber(oldest)
  local heavy = bytes > 0 and redis.call('MEMORY', 'USAGE', stream, 'SAMPLES', 5) > bytes
  if not (most > 0 and length > most) and not old and not heavy then break end
  local number = string.match(entry[1], '^%d+')
  if redis.call('HGET', ids, fields[4]) == number then redis.call('HDEL', ids, fields[4]) end
  redis.call('XDEL', stream, entry[1])
  length = length - 1
  forgotten = forgotten + 1
end
return forgotten
"""

_BURY = """
local hubs, prefix = KEYS[1], KEYS[2]
local names = ARGV[1] ~= '' and {ARGV[1]} or redis.call('ZRANGEBYSCORE', hubs, '-inf', ARGV[2])
local found = {}
for _, name in ipairs(names) do
  for _, value in ipairs(redis.call('HVALS', prefix .. name)) do found[#found + 1] = value end
  redis.call('DEL', prefix .. name)
  redis.call('ZREM', hubs, name)
end
return found
"""


_translated = failing_as_transport("Redis", (RedisError, OSError, TimeoutError))


class RedisStore:
    """A log in two Redis streams with one numbering."""

    def __init__(
        self,
        connect: Callable[[], Any],
        retention: Retention | None = None,
        prefix: str = "mercure",
    ) -> None:
        self._connect = connect
        self._retention = retention or Retention()
        # Braces keep all keys in one slot of a cluster.
        tag = f"{{{prefix}}}"
        self._updates, self._announced = f"{tag}:updates", f"{tag}:announced"
        self._ids, self._counter = f"{tag}:ids", f"{tag}:position"
        self._hubs, self._hub_prefix = f"{tag}:hubs", f"{tag}:hub:"
        self._done_prefix = f"{tag}:done:"
        self._redis: Any = None
        self._node = ""

    @_translated
    async def open(self) -> None:
        """Connect; nothing needs to be created."""
        if self._redis is None:
            self._redis = self._connect()
            self._write = self._redis.register_script(_WRITE)
            self._trim = self._redis.register_script(_TRIM)
            self._bury = self._redis.register_script(_BURY)
        await self._redis.get(self._counter)

    async def aclose(self) -> None:
        """Disconnect."""
        connected, self._redis = self._redis, None
        if connected is not None:
            await connected.aclose()

    # The log ------------------------------------------------------------------------------------

    @_translated
    async def write(self, operations: Sequence[Operation]) -> None:
        """Do all operations in one script, which Redis runs as a whole."""
        now = f"{time.time():.3f}"
        arguments: list[str] = []
        node = self._node
        for operation in operations:
            if isinstance(operation, Append):
                action = "announce" if operation.announced else "publish"
                update = operation.update
                arguments += (action, update.id, dump_update(update), now)
            elif isinstance(operation, Enter):
                node = operation.node
                arguments += ("enter", operation.subscriber_id, _dump_entry(operation), now)
            else:
                node = operation.node
                arguments += ("leave", operation.subscriber_id, "", now)
        keys = [self._updates, self._announced, self._ids, self._counter, self._hub_prefix + node]
        await self._write_once([*keys, self._done_prefix + uuid.uuid4().hex], arguments)

    async def _write_once(self, keys: list[str], arguments: list[str]) -> None:
        """Run the script, again if need be: its last key tells whether it has run already.

        So a connection that broke since it was last used is no error.
        """
        for pause in _PAUSES:
            try:
                await self._write(keys=keys, args=arguments)
            except (RedisConnectionError, OSError):
                await asyncio.sleep(pause)
            else:
                return
        await self._write(keys=keys, args=arguments)

    @_translated
    async def follow(self, after: int, limit: int, timeout: float) -> list[Event]:
        """Return the events after a position as soon as there are any."""
        since = dict.fromkeys((self._updates, self._announced), f"{after}-1")
        found = await self._redis.xread(since, count=limit, block=max(int(timeout * 1000), 1))
        named = found.items() if isinstance(found, dict) else found
        return _merged([_flat(entries) for _, entries in named], limit)

    def nudge(self) -> None:
        """Do nothing: Redis itself ends a blocking read."""

    @_translated
    async def read(self, after: int, until: int, limit: int) -> list[Event]:
        """Return the kept events between two positions."""
        first, last = f"({after}-1", f"{until}-1"
        both = [
            await self._redis.xrange(stream, first, last, count=limit)
            for stream in (self._updates, self._announced)
        ]
        return _merged(both, limit)

    @_translated
    async def end(self) -> tuple[int, str]:
        """Return the position and the identifier of the last event."""
        position = int(await self._redis.get(self._counter) or 0)
        last = [
            await self._redis.xrevrange(stream, count=1)
            for stream in (self._updates, self._announced)
        ]
        newest = max((_event(entries[0]) for entries in last if entries), key=_place, default=None)
        return position, EARLIEST if newest is None else newest.update.id

    @_translated
    async def position_of(self, identifier: str) -> int | None:
        """Return the position of the first event of this identifier, if it is kept."""
        found = await self._redis.hget(self._ids, identifier)
        return None if found is None else int(found)

    @_translated
    async def forgotten_until(self) -> int:
        """Return the position of the last update that is not kept any more."""
        oldest = await self._redis.xrange(self._updates, count=1)
        if oldest:
            return _event(oldest[0]).position - 1
        announced = await self._redis.xlen(self._announced)
        return 0 if announced else int(await self._redis.get(self._counter) or 0)

    @_translated
    async def trim(self, retention: Retention | None = None) -> int:
        """Forget what is more than the retention allows."""
        kept = retention or self._retention
        oldest = f"{time.time() - kept.age:.3f}" if kept.age else ""
        forgotten = 0
        for stream, bounds in (
            (self._updates, (kept.events, oldest, kept.size)),
            (self._announced, (kept.announcements, "", 0)),
        ):
            while part := int(await self._trim(keys=[stream, self._ids], args=list(bounds))):
                forgotten += part
        return forgotten

    @_translated
    async def summary(self) -> Summary:
        """Return what the log holds."""
        position, identifier = await self.end()
        oldest = await self._redis.xrange(self._updates, count=1)
        hubs = await self._redis.zrange(self._hubs, 0, -1)
        entered = [await self._redis.hvals(self._hub_prefix + hub) for hub in hubs]
        return Summary(
            updates=await self._redis.xlen(self._updates),
            announcements=await self._redis.xlen(self._announced),
            bytes=int(await self._redis.memory_usage(self._updates) or 0),
            first_position=_event(oldest[0]).position if oldest else 0,
            last_position=position,
            last_event_id=identifier,
            hubs=len(hubs),
            subscriptions=sum(len(json.loads(each)) for group in entered for each in group),
        )

    # Who is subscribed --------------------------------------------------------------------------

    @_translated
    async def subscriptions(
        self, version: str, matcher: tuple[str, str] | None, subscriber_id: str | None
    ) -> list[dict[str, Any]]:
        """Return the documents of subscriptions."""
        found: list[str] = []
        for hub in await self._redis.zrange(self._hubs, 0, -1):
            if subscriber_id is None:
                found += await self._redis.hvals(self._hub_prefix + hub)
            else:
                entry = await self._redis.hget(self._hub_prefix + hub, subscriber_id)
                found += () if entry is None else (entry,)
        return [
            each["document"]
            for entry in found
            for each in json.loads(entry)
            if each["version"] == version
            and (matcher is None or (each["type"], each["pattern"]) == matcher)
        ]

    @_translated
    async def beat(self, node: str) -> bool:
        """Note that a hub is alive; return whether it was known to be."""
        self._node = node
        added = await self._redis.zadd(self._hubs, {node: time.time()})
        return not added

    @_translated
    async def bury(self, node: str | None, silent_for: float) -> list[Update]:
        """Forget a hub, or all that were silent for so long; return their farewells."""
        found = await self._bury(
            keys=[self._hubs, self._hub_prefix],
            args=[node or "", f"{time.time() - silent_for:.3f}"],
        )
        return [load_update(each["farewell"]) for entry in found for each in json.loads(entry)]


def _dump_entry(operation: Enter) -> str:
    return json.dumps(
        [
            {
                "version": each.version,
                "type": each.type,
                "pattern": each.pattern,
                "document": each.document,
                "farewell": dump_update(each.farewell),
            }
            for each in operation.subscriptions
        ]
    )


def _flat(entries: Any) -> list[Any]:
    """Return a stream's entries, which come in one more list in RESP 3."""
    if entries and isinstance(entries[0], list) and entries[0] and isinstance(entries[0][0], tuple):
        return [entry for part in entries for entry in part]
    return list(entries)


def _event(entry: Any) -> Event:
    number, fields = entry
    return Event(int(number.partition("-")[0]), load_update(fields["u"]))


def _place(event: Event) -> int:
    return event.position


def _merged(streams: Sequence[Sequence[Any]], limit: int) -> list[Event]:
    """Return the events of several streams in order, as far as nothing is missing between.

    A stream that gave as many as were asked for may have more, before the others' next.
    """
    parts = [[_event(entry) for entry in entries] for entries in streams]
    full = [part[-1].position for part in parts if len(part) >= limit]
    until = min(full, default=2**62)
    return sorted(
        (event for part in parts for event in part if event.position <= until), key=_place
    )


def store_from_url(url: str) -> RedisStore:
    """Return the store of a Redis URL. Raises `ValueError` for what cannot be right."""
    parts = urlsplit(url)
    parameters = Parameters(parse_qsl(parts.query))
    retention = parameters.retention()
    prefix = parameters.text("prefix", "mercure")
    service, cluster = parameters.text("sentinel"), parameters.text("cluster")
    address = urlunsplit(parts._replace(query=urlencode(parameters.rest())))
    options: dict[str, Any] = {"decode_responses": True, "socket_connect_timeout": _TIMEOUT}

    def connect() -> Any:
        # What is tried again, and when, is decided here and in `shared`.
        once = Retry(NoBackoff(), 0)
        if cluster:
            return redis_asyncio.RedisCluster.from_url(address, **options)
        if service:
            sentinel: Any = Sentinel([(parts.hostname or "localhost", parts.port or 26379)])  # type: ignore[no-untyped-call]
            return sentinel.master_for(service, retry=once, **options)
        return redis_asyncio.Redis.from_url(address, retry=once, **options)

    return RedisStore(connect, retention, prefix)
