"""What every transport promises: one suite for all of them, and their ends by force."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
import redis.asyncio as redis_asyncio
from click.testing import CliRunner
from quart import Quart
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from quart_mercure import (
    ConfigurationError,
    HubOptions,
    InvalidUpdate,
    MercureSSE,
    Publisher,
    TransportError,
    Update,
)
from quart_mercure.hub.events import Event
from quart_mercure.hub.transport import Subscription, Transport, shared, transport_from_url
from quart_mercure.hub.transport.shared import Retention
from quart_mercure.main import main
from quart_mercure.update import EARLIEST

from . import publisher_process
from .conftest import ROOT, SECRET
from .stores import PostgreSQLServer, RedisServer, Sentinel, StoreServer, free_port

NAMES = ["memory", "sqlite", "redis", "postgresql"]
SHARED = NAMES[1:]


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, StoreServer]]:
    running: dict[str, StoreServer] = {"redis": RedisServer(), "postgresql": PostgreSQLServer()}
    for server in running.values():
        server.start()
    yield running
    for server in running.values():
        server.remove()


@dataclass
class Place:
    """Where a transport keeps its log: empty for each test."""

    name: str
    url: str
    server: StoreServer | None

    def transport(self, **parameters: Any) -> Transport:
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        separator = "&" if "?" in self.url else "?"
        return transport_from_url(f"{self.url}{separator}{query}" if query else self.url, OPTIONS)


OPTIONS = HubOptions(reconciliation_length=1000)


@pytest.fixture
async def place(request, servers, tmp_path) -> Place:
    name = request.param
    server = servers.get(name)
    if name == "memory":
        url = "memory://"
    elif name == "sqlite":
        url = f"sqlite:///{tmp_path}/hub.db"
    elif name == "redis":
        url = f"{server.url}?prefix={os.urandom(4).hex()}"
    else:
        database = f"test_{os.urandom(4).hex()}"
        connection = await asyncpg.connect(server.url)
        await connection.execute(f"CREATE DATABASE {database}")
        await connection.close()
        url = server.url.removesuffix("/postgres") + f"/{database}"
    return Place(name, url, server)


every_transport = pytest.mark.parametrize("place", NAMES, indirect=True)
every_shared_transport = pytest.mark.parametrize("place", SHARED, indirect=True)


class Follower:
    """A hub as its transport sees it."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.events: list[Event] = []
        self.interruptions = 0
        transport.connect(self._deliver, self._interrupt)

    def _deliver(self, events):
        self.events.extend(events)

    def _interrupt(self):
        self.interruptions += 1

    @property
    def ids(self) -> list[str]:
        return [event.update.id for event in self.events]

    async def until(self, condition, timeout: float = 20) -> None:
        async with asyncio.timeout(timeout):
            while not condition(self):
                await asyncio.sleep(0.005)

    async def received(self, count: int) -> list[str]:
        await self.until(lambda it: len(it.events) >= count)
        return self.ids


@contextlib.asynccontextmanager
async def following(place: Place, **parameters: Any) -> AsyncIterator[Follower]:
    follower = Follower(place.transport(**parameters))
    await follower.transport.open()
    try:
        yield follower
    finally:
        await follower.transport.aclose()


def update(identifier: str, topic: str = "a", **fields: Any) -> Update:
    return Update(topics=(topic,), id=identifier, data=fields.pop("data", identifier), **fields)


def updates(*numbers: int) -> list[Update]:
    return [update(f"id-{number}") for number in numbers]


async def replayed(transport: Transport, after: str, until: int | None = None) -> list[str]:
    """Return `after` as the transport understood it, then the identifiers replayed."""
    replay = await transport.replay(after, transport.position if until is None else until)
    found = [event.update.id async for chunk in replay.chunks for event in chunk]
    return [replay.preceding_id, *found]


# Order and replay -------------------------------------------------------------------------------


@every_transport
async def test_updates_arrive_whole(place):
    sent = Update(
        topics=("a", "é/☕"),
        data="line\r\nline \x00 ☕",
        private=True,
        id="é",
        type="t",
        retry=7,
    )
    async with following(place) as hub:
        await hub.transport.publish([sent, update("plain")])
        await hub.received(2)
        assert [event.update for event in hub.events] == [sent, update("plain")]
        assert hub.transport.last_event_id == "plain"
        assert await replayed(hub.transport, EARLIEST) == [EARLIEST, "é", "plain"]


@every_transport
async def test_positions_grow_in_the_order_of_delivery(place):
    async with following(place) as hub:
        for number in range(50):
            await hub.transport.publish(updates(number))
        ids = await hub.received(50)
        positions = [event.position for event in hub.events]
        assert ids == [f"id-{number}" for number in range(50)]
        assert positions == sorted(set(positions))
        assert hub.transport.position == positions[-1]


@every_shared_transport
async def test_all_hubs_deliver_everything_in_the_same_order(place):
    async with following(place) as one, following(place) as two, following(place) as three:

        async def publish(hub, name):
            for number in range(40):
                await hub.transport.publish(
                    [update(f"{name}-{number}"), update(f"{name}+{number}")]
                )

        await asyncio.gather(publish(one, "one"), publish(two, "two"), publish(two, "more"))
        orders = [await hub.received(240) for hub in (one, two, three)]
        assert orders[0] == orders[1] == orders[2]
        assert len(set(orders[0])) == 240
        for name in ("one", "two", "more"):
            for number in range(40):
                at = orders[0].index(f"{name}-{number}")
                assert orders[0][at + 1] == f"{name}+{number}", "nothing comes between"


@every_transport
async def test_replay_begins_after_any_identifier(place):
    async with following(place) as hub:
        await hub.transport.publish(updates(*range(20)))
        await hub.received(20)
        for number in range(20):
            after = [f"id-{each}" for each in range(number + 1, 20)]
            assert await replayed(hub.transport, f"id-{number}") == [f"id-{number}", *after]
        everything = [f"id-{each}" for each in range(20)]
        assert await replayed(hub.transport, EARLIEST) == [EARLIEST, *everything]
        assert await replayed(hub.transport, "nobody's") == [EARLIEST, *everything]
        assert await replayed(hub.transport, "id-4", hub.events[6].position) == [
            "id-4",
            "id-5",
            "id-6",
        ]


@every_transport
async def test_an_identifier_used_twice_stands_for_its_first_use(place):
    async with following(place) as hub:
        await hub.transport.publish([update(each) for each in ("x", "y", "x", "z")])
        await hub.received(4)
        assert await replayed(hub.transport, "x") == ["x", "y", "x", "z"]


@every_transport
async def test_replay_and_live_join_without_gap_or_duplicate(place):
    async with following(place) as hub:
        publishing = True

        async def publish():
            for number in range(200):
                await hub.transport.publish(updates(number))
                await asyncio.sleep(0)

        task = asyncio.create_task(publish())
        joined = []
        while publishing:
            publishing = not task.done()
            until, already = hub.transport.position, len(hub.events)
            replay = await replayed(hub.transport, EARLIEST, until)
            joined.append((replay[1:], already))
            await asyncio.sleep(0.005)
        await task
        live = await hub.received(200)
        for replay, already in joined:
            assert replay + live[already:] == live


@every_transport
async def test_a_long_history_is_read_in_parts(place):
    async with following(place) as hub:
        for start in range(0, 900, 300):
            await hub.transport.publish(updates(*range(start, start + 300)))
        await hub.received(900)
        replay = await hub.transport.replay("id-9", hub.transport.position)
        chunks = [chunk async for chunk in replay.chunks]
        assert len(chunks) > 1
        assert [event.update.id for chunk in chunks for event in chunk] == hub.ids[10:]


# Retention --------------------------------------------------------------------------------------


@every_shared_transport
@pytest.mark.parametrize(
    ("retention", "kept"),
    [
        (Retention(), 30),
        (Retention(events=10), 10),
        (Retention(events=0, age=1000), 30),
        (Retention(events=0, age=0.000001), 0),
    ],
)
async def test_history_is_bounded(place, retention, kept):
    async with following(place) as hub:
        await hub.transport.publish(updates(*range(30)))
        await hub.received(30)
        await asyncio.sleep(0.01)
        assert await hub.transport.store.trim(retention) == 30 - kept
        assert await hub.transport.store.trim(retention) == 0
        rest = [f"id-{number}" for number in range(30 - kept, 30)]
        assert await replayed(hub.transport, EARLIEST) == [EARLIEST, *rest]
        if kept < 30:
            assert await replayed(hub.transport, "id-1") == [EARLIEST, *rest]
            forgotten = await hub.transport.store.forgotten_until()
            assert forgotten == hub.events[29 - kept].position
        summary = await hub.transport.store.summary()
        assert (summary.updates, summary.last_position) == (kept, hub.transport.position)


@every_shared_transport
async def test_history_is_bounded_in_bytes(place):
    async with following(place) as hub:
        for number in range(20):
            await hub.transport.publish([update(f"id-{number}", data="x" * 10_000)])
        await hub.received(20)
        assert await hub.transport.store.trim(Retention(size=100_000)) >= 9
        summary = await hub.transport.store.summary()
        assert 1 <= summary.updates <= 11
        assert summary.bytes <= 130_000


@every_shared_transport
async def test_announcements_push_no_update_out(place):
    async with following(place) as hub:
        await hub.transport.publish(updates(1))
        for number in range(20):
            await hub.transport.enter(f"s{number}", [], [update(f"announced-{number}")])
        await hub.transport.publish(updates(2))
        await hub.received(22)
        await hub.transport.store.trim(Retention(events=2, announcements=3))
        assert await replayed(hub.transport, "id-1") == [
            "id-1",
            *(f"announced-{number}" for number in (17, 18, 19)),
            "id-2",
        ]


@every_shared_transport
async def test_who_follows_too_slowly_for_the_history_is_told(place):
    async with following(place) as hub:
        await hub.transport.publish(updates(1))
        await hub.received(1)
        slow = Follower(place.transport())
        await slow.transport.open()
        await slow.transport._stop()
        await hub.transport.publish(updates(*range(2, 30)))
        await hub.received(29)
        await hub.transport.store.trim(Retention(events=5))
        slow.transport._tasks = [asyncio.create_task(slow.transport._follow())]
        await slow.received(5)
        assert (slow.interruptions, hub.interruptions) == (1, 0)
        await slow.transport.aclose()


# Restarts and failures --------------------------------------------------------------------------


@every_shared_transport
async def test_a_restart_forgets_nothing(place):
    async with following(place) as hub:
        await hub.transport.publish(updates(*range(10)))
        await hub.received(10)
        position = hub.transport.position
    async with following(place) as again:
        assert (again.transport.position, again.transport.last_event_id) == (position, "id-9")
        assert (await replayed(again.transport, "id-6"))[1:] == ["id-7", "id-8", "id-9"]
        await again.transport.publish(updates(10))
        assert await again.received(1) == ["id-10"]
        assert again.transport.position > position


@every_shared_transport
async def test_a_log_that_is_all_forgotten_goes_on_where_it_was(place):
    async with following(place) as hub:
        await hub.transport.publish(updates(*range(5)))
        await hub.received(5)
        position = hub.transport.position
        await asyncio.sleep(0.01)
        await hub.transport.store.trim(Retention(age=0.000001))
    async with following(place) as again:
        assert again.transport.position == position
        await again.transport.publish(updates(6))
        assert await again.received(1) == ["id-6"]


@every_shared_transport
async def test_a_transport_can_be_opened_again(place):
    transport = place.transport()
    for number in range(3):
        follower = Follower(transport)
        await transport.publish(updates(number))
        assert await follower.received(1) == [f"id-{number}"]
        await transport.aclose()


@pytest.mark.parametrize("place", ["redis", "postgresql"], indirect=True)
async def test_a_server_that_is_gone_is_an_error_and_one_that_is_back_is_caught_up_with(place):
    async with following(place) as hub, following(place) as other:
        await hub.transport.publish(updates(1))
        await other.received(1)
        place.server.kill()
        with pytest.raises(TransportError, match=r"Redis: |PostgreSQL: "):
            await hub.transport.publish(updates(2))
        with pytest.raises(TransportError):
            await replayed(hub.transport, "id-1")
        place.server.start()
        await hub.transport.publish(updates(3))
        assert await hub.received(2) == await other.received(2) == ["id-1", "id-3"]
        assert (hub.interruptions, other.interruptions) == (0, 0)


@pytest.mark.parametrize("place", ["redis", "postgresql"], indirect=True)
async def test_a_server_that_is_not_there_cannot_be_begun_with(place):
    place.server.kill()
    try:
        transport = place.transport()
        with pytest.raises(TransportError):
            await transport.open()
    finally:
        place.server.start()
    await transport.open()
    await transport.aclose()


@pytest.mark.parametrize("place", ["redis"], indirect=True)
async def test_a_server_that_has_lost_the_end_of_its_log_interrupts_the_subscribers(place):
    async with following(place) as hub:
        await hub.transport.publish(updates(*range(10)))
        await hub.received(10)
        store = hub.transport.store
        await store._redis.delete(store._updates, store._announced, store._ids, store._counter)
        place.server.kill()
        place.server.start()
        await hub.until(lambda it: it.interruptions == 1)
        await hub.transport.publish(updates(11))
        await hub.received(11)
        assert hub.ids[-1] == "id-11"


async def test_a_locked_sqlite_file_is_an_error_to_the_publisher(tmp_path, monkeypatch):
    monkeypatch.setattr("quart_mercure.hub.transport.sqlite._BUSY_TIMEOUT", 0.05)
    place = Place("sqlite", f"sqlite:///{tmp_path}/hub.db", None)
    async with following(place) as hub:
        other = sqlite3.connect(tmp_path / "hub.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TransportError, match="locked"):
            await hub.transport.publish(updates(1, 2))
        other.execute("ROLLBACK")
        await hub.transport.publish(updates(3))
        assert await hub.received(1) == ["id-3"]
        other.close()


async def test_a_full_disk_publishes_no_half_update(tmp_path):
    place = Place("sqlite", f"sqlite:///{tmp_path}/hub.db", None)
    async with following(place) as hub:
        await hub.transport.publish(updates(1))

        def fill_up(connection):
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages + 10}")

        await hub.transport.store._writer.run(fill_up)
        with pytest.raises(TransportError, match="full"):
            await hub.transport.publish([update("small"), update("large", data="x" * 200_000)])
        await hub.transport.publish(updates(2))
        assert await hub.received(2) == ["id-1", "id-2"]


# Who is subscribed, anywhere --------------------------------------------------------------------


def subscription(subscriber: str, pattern: str = "a") -> Subscription:
    document = {"id": f"/{pattern}/{subscriber}", "topic": pattern, "active": True}
    farewell = Update(topics=(document["id"],), data="gone", id=f"farewell-{subscriber}-{pattern}")
    return Subscription("0.x", "exact", pattern, document, farewell)


async def listed(hub: Follower, *asked: Any) -> list[str]:
    documents = await hub.transport.subscriptions("0.x", *(asked or (None, None)))
    return sorted(document["id"] for document in documents)


@every_shared_transport
async def test_all_hubs_know_of_all_subscribers(place):
    async with following(place) as one, following(place) as two:
        first, second = subscription("s1"), subscription("s1", "b")
        await one.transport.enter("s1", [first, second], [update("s1 came")])
        await two.transport.enter("s2", [subscription("s2")], [update("s2 came")])
        for hub in (one, two):
            assert await listed(hub) == ["/a/s1", "/a/s2", "/b/s1"]
            assert await listed(hub, ("exact", "a"), None) == ["/a/s1", "/a/s2"]
            assert await listed(hub, ("exact", "a"), "s2") == ["/a/s2"]
            assert await listed(hub, ("exact", "c"), None) == []
            assert await listed(hub, ("uritemplate", "a"), None) == []
            assert await hub.transport.subscriptions("1.0", None, None) == []
        await one.transport.leave("s1", [update("s1 left")])
        assert await listed(two) == ["/a/s2"]
        assert await two.received(3) == ["s1 came", "s2 came", "s1 left"]


@every_shared_transport
async def test_a_hub_that_ends_takes_its_subscribers_along(place):
    async with following(place) as staying:
        async with following(place) as ending:
            await ending.transport.enter("s1", [subscription("s1")], [])
            await ending.transport.enter("s2", [subscription("s2")], [])
        assert await listed(staying) == []
        assert sorted(await staying.received(2)) == ["farewell-s1-a", "farewell-s2-a"]


@every_shared_transport
async def test_a_hub_that_dies_is_buried_once(place, monkeypatch):
    monkeypatch.setattr(shared, "BEAT_INTERVAL", 0.05)
    monkeypatch.setattr(shared, "DEAD_AFTER", 0.5)
    async with following(place) as one, following(place) as two:
        dying = Follower(place.transport())
        await dying.transport.enter("s1", [subscription("s1")], [])
        await dying.transport._stop()
        assert await listed(one) == ["/a/s1"]
        assert await one.received(1) == await two.received(1) == ["farewell-s1-a"]
        assert await listed(one) == []
        await asyncio.sleep(0.3)
        assert one.ids == ["farewell-s1-a"], "by one of the two"
        await dying.transport.store.aclose()


@every_shared_transport
async def test_a_hub_that_was_taken_for_dead_makes_its_subscribers_known_again(place, monkeypatch):
    monkeypatch.setattr(shared, "BEAT_INTERVAL", 0.05)
    async with following(place) as hub:
        await hub.transport.enter("s1", [subscription("s1")], [update("came")])
        [farewell] = await hub.transport.store.bury(None, -60.0)
        assert farewell.id == "farewell-s1-a"
        await hub.received(2)
        assert await listed(hub) == ["/a/s1"]
        assert [event.update.data for event in hub.events] == ["came", "came"]
        assert len(set(hub.ids)) == 2
        await hub.transport.leave("s1", [])
        assert await listed(hub) == []


@pytest.mark.parametrize("place", ["redis", "postgresql"], indirect=True)
async def test_who_leaves_while_the_server_is_gone_is_forgotten_when_it_is_back(place, monkeypatch):
    monkeypatch.setattr(shared, "BEAT_INTERVAL", 0.05)
    async with following(place) as hub:
        await hub.transport.enter("s1", [subscription("s1")], [])
        place.server.kill()
        await hub.transport.leave("s1", [update("left")])
        place.server.start()
        assert await hub.received(1) == ["left"]
        assert await listed(hub) == []


async def test_memory_leaves_the_question_to_the_hub():
    transport = transport_from_url("memory://", OPTIONS)
    assert await transport.subscriptions("0.x", None, None) is None


# URLs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("carrier-pigeon://loft", "memory, postgres, postgresql, redis, rediss, sqlite"),
        ("sqlite://hub.db", "sqlite:///relative/path"),
        ("sqlite:///", "sqlite:///relative/path"),
        ("sqlite:////no/such/folder/hub.db", "no folder"),
        ("sqlite:///hub.db?histroy=1", "no parameter histroy"),
        ("sqlite:///hub.db?history=-1", "history must be a number"),
        ("sqlite:///hub.db?history=many", "history must be a number"),
        ("sqlite:///hub.db?synchronous=off", "normal or full"),
        ("redis://localhost?max_age=x", "max_age must be a number"),
        ("postgresql://localhost?max_bytes=nan", "max_bytes must be a number"),
    ],
)
def test_a_url_that_cannot_be_right_is_refused(url, reason):
    with pytest.raises(ConfigurationError, match=reason) as caught:
        transport_from_url(url, OPTIONS)
    assert caught.value.key == "MERCURE_TRANSPORT_URL"


def test_another_package_can_add_a_transport(monkeypatch):
    class Found:
        name = "pigeon"

        def load(self):
            return lambda url, options: (url, options)

    monkeypatch.setattr(
        "quart_mercure.hub.transport.entry_points", lambda group: [Found()] if group else []
    )
    assert transport_from_url("pigeon://loft", OPTIONS) == ("pigeon://loft", OPTIONS)


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "asyncpg", None)
    monkeypatch.delitem(
        __import__("sys").modules, "quart_mercure.hub.transport.postgresql", raising=False
    )
    with pytest.raises(ConfigurationError, match=r"quart-mercure\[postgresql\]"):
        transport_from_url("postgresql://localhost", OPTIONS)


# The end by force -------------------------------------------------------------------------------

KILLS = 200
"""How often a publishing process is killed, for each transport; its server in every tenth."""


class Victim:
    """A process that publishes until it is killed, and says what was acknowledged."""

    def __init__(self, url: str, name: str, context: Any) -> None:
        self.acknowledged: list[str] = []
        self._pipe, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=publisher_process.run, args=(url, name, theirs))
        self.process.start()
        theirs.close()

    def let_live(self, acknowledgements: int, seconds: float) -> None:
        """Let it publish so many updates, and for some time more."""
        while len(self.acknowledged) < acknowledgements:
            assert self._pipe.poll(20), "the publisher is stuck"
            self._read()
        self._pipe.poll(seconds)

    def kill(self) -> list[str]:
        """Kill it and return the identifiers that were acknowledged to it."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        with contextlib.suppress(EOFError):
            while True:
                self._read()
        self._pipe.close()
        return self.acknowledged

    def _read(self) -> None:
        self.acknowledged.append(self._pipe.recv_bytes().decode())


@every_shared_transport
async def test_what_was_acknowledged_survives_any_kill(place):
    """Kill publishers and servers at random; followers and a newcomer agree on every update."""
    chance = random.Random(place.name)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.publisher_process"])
    acknowledged: list[str] = []
    async with following(place) as hub:
        for number in range(KILLS):
            victim = Victim(place.url, f"p{number}", context)
            await asyncio.to_thread(victim.let_live, chance.randrange(4), chance.random() * 0.01)
            if place.server is not None and number % 10 == 9:
                place.server.kill()
                acknowledged += victim.kill()
                place.server.start()
            else:
                acknowledged += victim.kill()
        await publish_at_last(hub, update("the end"))
        await hub.until(lambda it: "the end" in it.ids, timeout=60)
        everything = await replayed(hub.transport, EARLIEST)
    assert hub.interruptions == 0
    assert hub.ids == everything[1:], "everybody sees one order"
    assert len(set(hub.ids)) == len(hub.ids), "nothing comes twice"
    assert set(acknowledged) <= set(hub.ids), "nothing acknowledged is lost"
    assert len(acknowledged) > KILLS / 2
    for number in range(KILLS):
        own = [each for each in hub.ids if each.startswith(f"p{number}-")]
        assert own == [f"p{number}-{each}" for each in range(len(own))]


async def publish_at_last(hub: Follower, last: Update) -> None:
    """Publish when the server has come back."""
    async with asyncio.timeout(30):
        while True:
            try:
                await hub.transport.publish([last])
            except TransportError:
                await asyncio.sleep(0.05)
            else:
                return


# Publishing from anywhere -----------------------------------------------------------------------


@every_shared_transport
async def test_a_process_without_a_hub_publishes_to_the_transport(place):
    async with following(place) as hub, Publisher.from_url(place.url) as publisher:
        assert await publisher.publish(update("one")) == "one"
        assert await publisher.publish_many(updates(2, 3)) == ["id-2", "id-3"]
        with pytest.raises(InvalidUpdate, match="reserved"):
            await publisher.publish(update("x", "/.well-known/mercure/subscriptions/a/b"))
        assert await hub.received(3) == ["one", "id-2", "id-3"]
        await publisher.aclose()
        await publisher.publish(update("four"))
        assert (await hub.received(4))[-1] == "four"
        summary = await hub.transport.store.summary()
        assert summary.hubs == 1, "a publisher is no hub"


def test_memory_cannot_be_published_to_from_elsewhere():
    with pytest.raises(ConfigurationError, match="other processes"):
        Publisher.from_url("memory://")


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
@pytest.mark.parametrize("how", ["asyncpg", "sqlalchemy connection", "sqlalchemy session"])
async def test_an_update_can_be_part_of_the_applications_transaction(place, how):
    app = Quart(__name__)
    app.config["SECRET_KEY"] = SECRET
    sse = MercureSSE(app, hub=True, transport_url=place.url)

    @contextlib.asynccontextmanager
    async def transaction():
        if how == "asyncpg":
            connection = await asyncpg.connect(place.url)
            async with connection.transaction():
                yield connection, connection.execute
            await connection.close()
            return
        engine = create_async_engine(place.url.replace("postgresql:", "postgresql+asyncpg:"))
        opening = engine.begin() if "connection" in how else AsyncSession(engine).begin()
        async with opening as entered:
            connection = entered if "connection" in how else opening.session
            yield connection, lambda query: connection.execute(text(query))
        await engine.dispose()

    async with following(place) as hub:
        async with transaction() as (connection, execute):
            await execute("CREATE TABLE things (name text)")
        async with transaction() as (connection, execute):
            await execute("INSERT INTO things VALUES ('kept')")
            await sse.publish("a", "kept", id="kept", connection=connection)
            await asyncio.sleep(0.1)
            assert hub.ids == [], "not before the commit"
        assert await hub.received(1) == ["kept"]
        with contextlib.suppress(ZeroDivisionError):
            async with transaction() as (connection, execute):
                await sse.publish("a", "lost", id="lost", connection=connection)
                raise ZeroDivisionError
        await sse.publish("a", "after", id="after")
        assert await hub.received(2) == ["kept", "after"]
        await sse.hub.aclose()


@pytest.mark.parametrize("options", [{"hub": True}, {"hub_url": "http://127.0.0.1:9/hub"}])
async def test_without_postgresql_no_update_is_part_of_a_transaction(options):
    app = Quart(__name__)
    app.config["SECRET_KEY"] = SECRET
    sse = MercureSSE(app, **options)
    with pytest.raises(ConfigurationError):
        await sse.publish("a", "x", connection=object())


async def test_updates_wait_for_a_sessions_commit():
    app = Quart(__name__)
    app.config["SECRET_KEY"] = SECRET
    sse = MercureSSE(app, hub=True)
    published = []
    sse.hub._transport.connect(
        lambda events: published.extend(event.update.data for event in events), lambda: None
    )
    engine = create_async_engine("sqlite+aiosqlite://")

    async def come(*expected: str) -> None:
        async with asyncio.timeout(10):
            while len(published) < len(expected):
                await asyncio.sleep(0.005)
        assert published == [*expected]

    async with app.app_context(), AsyncSession(engine) as session:
        await session.execute(text("SELECT 1"))
        await sse.publish_after_commit(session, "a", "one")
        await sse.publish_after_commit(session, "a", "two", private=True)
        await asyncio.sleep(0.02)
        assert published == []
        await session.commit()
        await come("one", "two")
        await session.execute(text("SELECT 1"))
        await sse.publish_after_commit(session, "a", "rolled back")
        await session.rollback()
        await session.execute(text("SELECT 1"))
        await sse.publish_after_commit(session, "a", "outer")
        async with session.begin_nested():
            await sse.publish_after_commit(session, "a", "savepoint")
        with contextlib.suppress(ZeroDivisionError):
            async with session.begin_nested():
                await sse.publish_after_commit(session, "a", "lost savepoint")
                raise ZeroDivisionError
        await session.commit()
        await come("one", "two", "outer", "savepoint")
        await session.execute(text("SELECT 1"))
        await session.commit()
    assert published == ["one", "two", "outer", "savepoint"]
    await engine.dispose()


# Operations -------------------------------------------------------------------------------------


def command(*arguments: str, url: str | None = None, **options: Any) -> Any:
    given = ["transport", *(("--url", url) if url else ()), *arguments]
    return CliRunner().invoke(main, given, **options)


@pytest.mark.parametrize("name", SHARED)
def test_a_transport_is_looked_into_copied_and_trimmed(servers, tmp_path, name):
    url = f"sqlite:///{tmp_path}/hub.db"
    if name != "sqlite":
        url = servers[name].url + ("?prefix=commands" if name == "redis" else "")
    lines = [shared.dump_update(each) for each in updates(*range(1200))]
    (tmp_path / "in").write_text("\n".join(lines) + "\n")
    result = command("import", f"{tmp_path}/in", url=url)
    assert result.exit_code == 0, result.output
    summary = json.loads(command("info", url=url).output)
    assert (summary["updates"], summary["last_event_id"]) == (1200, "id-1199")
    assert command("export", f"{tmp_path}/out", url=url).exit_code == 0
    assert (tmp_path / "out").read_text() == (tmp_path / "in").read_text()
    assert command("trim", "--history", "100", url=url).output == "1100 forgotten\n"
    exported = command("export", url=url).output
    assert exported.splitlines() == lines[1100:]


@pytest.mark.parametrize(
    ("arguments", "url", "reason"),
    [
        (["info"], None, "--url: is missing"),
        (["info"], "memory://", "not shared"),
        (["info"], "pigeon://", "is no transport"),
        (["info"], "redis://127.0.0.1:9", "Redis: "),
        (["import", "pyproject.toml"], "sqlite:///hub.db", "this is no export"),
    ],
)
def test_a_command_that_cannot_be_done_says_why(tmp_path, monkeypatch, arguments, url, reason):
    arguments = [str(ROOT / each) if each == "pyproject.toml" else each for each in arguments]
    monkeypatch.chdir(tmp_path)
    result = command(*arguments, url=url)
    assert result.exit_code == 1
    assert reason in result.output


def test_the_url_is_read_from_the_environment(tmp_path):
    result = command("info", env={"MERCURE_TRANSPORT_URL": f"sqlite:///{tmp_path}/hub.db"})
    assert json.loads(result.output)["updates"] == 0


# Sentinel and Cluster ---------------------------------------------------------------------------


async def carries_updates(url: str) -> None:
    place = Place("redis", url, None)
    async with following(place) as one, following(place) as two:
        await one.transport.enter("s1", [subscription("s1")], [update("came")])
        await one.transport.publish(updates(1, 2))
        assert await two.received(3) == ["came", "id-1", "id-2"]
        assert await replayed(two.transport, "id-1") == ["id-1", "id-2"]
        assert await listed(two) == ["/a/s1"]
        assert await two.transport.store.trim(Retention(events=1)) == 1


async def test_redis_cluster():
    server = RedisServer("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    server.start()
    try:
        client = redis_asyncio.Redis.from_url(server.url)
        await client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        async with asyncio.timeout(20):
            while b"cluster_state:ok" not in await client.execute_command("CLUSTER", "INFO"):
                await asyncio.sleep(0.05)
        await client.aclose()
        await carries_updates(f"redis://127.0.0.1:{server.port}?cluster=1")
    finally:
        server.remove()


async def test_redis_sentinel(servers):
    sentinel = Sentinel(servers["redis"].port)
    sentinel.start()
    try:
        await carries_updates(
            f"redis://127.0.0.1:{sentinel.port}?sentinel=ours&prefix=through-sentinel"
        )
    finally:
        sentinel.remove()
