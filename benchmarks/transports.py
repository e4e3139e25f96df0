"""The transports: what they cost publishers, how late updates arrive, what history costs."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from quart_mercure import HubOptions, Update
from quart_mercure.hub.transport import transport_from_url
from quart_mercure.hub.transport.shared import Append, Retention, SharedTransport, Store
from tests.stores import PostgreSQLServer, RedisServer

from .load import event_data
from .processes import running, workers
from .scenarios import FULL, Figures, Size, Trial, quantile, setup_for
from .targets import TARGETS, Target

NAMES = ("memory", "sqlite", "redis", "postgresql")
_BATCH = 500


@contextlib.contextmanager
def place(name: str) -> Iterator[str]:
    """Provide the URL of an empty transport."""
    if name == "memory":
        yield "memory://"
    elif name == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/hub.db?history=0"
    else:
        server = RedisServer() if name == "redis" else PostgreSQLServer()
        try:
            server.start()
            yield f"{server.url}?history=0"
        finally:
            server.remove()


def hub_over(url: str) -> Target:
    """Return our hub under uvicorn with this transport."""
    uvicorn = TARGETS["uvicorn"]
    return replace(uvicorn, command=(*uvicorn.command, "--transport", url))


def publish_and_receive(name: str, size: Size) -> Figures:
    """Publish over HTTP as fast as answers come; then steadily, for the latency."""
    with place(name) as url, running(hub_over(url).start) as server:
        setup = setup_for(hub_over(url), server)
        reading = setup | {"streams": 50, "timed": 50}
        with workers(("read", reading), ("publish", setup | {"connections": 8})) as (
            reader,
            publisher,
        ):
            reader.ask(do="open")
            publisher.ask(do="closed_loop", seconds=min(size.seconds, 1), depth=8)
            result = publisher.ask(do="closed_loop", seconds=size.seconds, depth=8)
            time.sleep(0.5)
            reader.ask(do="reset")
            publisher.tell(do="steady", rate=100, seconds=size.seconds)
            count = int(100 * size.seconds)
            received = reader.ask(do="wait", events=50 * count, timeout=size.seconds + 5)
            publisher.answer()
    return {
        "published/s": result["answers"].get("200", 0) / result["seconds"],
        "complete": received["events"] / (50 * count),
        "p50 ms": quantile(received["latencies"], 0.5),
        "p99 ms": quantile(received["latencies"], 0.99),
    }


def fan_out(processes: int, size: Size) -> Figures:
    """Deliver to clients that are spread over hubs which share Redis, at overload."""
    clients, rate = size.clients, 2000 if size is FULL else 200
    with place("redis") as url, contextlib.ExitStack() as stack:
        hubs = [stack.enter_context(running(hub_over(url).start)) for _ in range(processes)]
        described = [
            (
                "read",
                setup_for(hub_over(url), hub)
                | {"streams": clients // processes, "timed": 20 // processes},
            )
            for hub in hubs
        ]
        publishing = ("publish", setup_for(hub_over(url), hubs[0]) | {"connections": 8})
        readers = stack.enter_context(workers(*described))
        [publisher] = stack.enter_context(workers(publishing))
        for reader in readers:
            reader.ask(do="open")
        publisher.ask(do="steady", rate=100, seconds=min(size.seconds, 1))
        for reader in readers:
            reader.ask(do="reset")
        cpu = [hub.cpu_seconds() for hub in hubs]
        begun = time.monotonic()
        publisher.tell(do="steady", rate=rate, seconds=size.seconds)
        expected = int(clients // processes * rate * size.seconds)
        received = [
            reader.ask(do="wait", events=expected, timeout=size.seconds + 10) for reader in readers
        ]
        publisher.answer()
        used = [hub.cpu_seconds() - before for hub, before in zip(hubs, cpu, strict=True)]
    elapsed = max(each["at"] for each in received) - begun
    events = sum(each["events"] for each in received)
    latencies = sorted(each for part in received for each in part["latencies"])
    return {
        "delivered": events / (expected * processes),
        "deliveries/s": events / elapsed,
        "CPU cores, busiest hub": max(used) / elapsed,
        "p50 ms": quantile(latencies, 0.5),
        "p99 ms": quantile(latencies, 0.99),
    }


def remember(name: str, rows: int, size: Size) -> Figures:
    """Publish with an empty history and a long one; begin replays anywhere in the long one."""
    with place(name) as url:
        return asyncio.run(_remember(url, rows, size.seconds))


async def _remember(url: str, rows: int, seconds: float) -> Figures:
    transport = transport_from_url(url, HubOptions())
    assert isinstance(transport, SharedTransport)
    store = transport.store
    await store.open()
    empty = await _publish_rate(store, seconds)
    await store.trim(Retention(events=1))
    for start in range(0, rows, _BATCH):
        await store.write(
            [
                Append(Update(topics=("a",), id=f"n{number}", data=event_data()))
                for number in range(start, start + _BATCH)
            ]
        )
    long = await _publish_rate(store, seconds)
    await transport.open()
    starts = []
    for _ in range(50):
        begun = time.monotonic()
        replay = await transport.replay(f"n{random.randrange(rows)}", transport.position)
        async for _events in replay.chunks:
            break
        starts.append(1000 * (time.monotonic() - begun))
    await transport.aclose()
    starts.sort()
    return {
        "rows": rows,
        "replay begins, median ms": starts[25],
        "replay begins, worst of 50 ms": starts[-1],
        "published/s, empty": empty,
        "published/s, long": long,
        "long / empty": long / empty,
    }


async def _publish_rate(store: Store, seconds: float) -> float:
    """Write batches of 50 updates one after the other, as a busy hub does."""
    begun = time.monotonic()
    written = 0
    while (elapsed := time.monotonic() - begun) < seconds:
        await store.write([Append(Update(topics=("a",), data=event_data())) for _ in range(50)])
        written += 50
    return written / elapsed


def transport(_targets: list[Target], size: Size) -> Iterator[Trial]:
    """transports: publishing, latency, two processes beside one, a long history"""
    rows = 1_000_000 if size is FULL else 5_000

    def trial(row: str, name: str, measure: Any, seconds: float) -> Trial:
        return Trial(row, replace(TARGETS["uvicorn"], name=name), measure, seconds)

    for name in NAMES:
        yield trial(
            "50 subscribers, published over HTTP",
            name,
            lambda name=name: publish_and_receive(name, size),
            2 * size.seconds + 4,
        )
    for processes in (1, 2):
        yield trial(
            f"fan-out over Redis, {size.clients} clients x {2000 if size is FULL else 200}/s",
            f"{processes} hub{'s' if processes > 1 else ''}",
            lambda processes=processes: fan_out(processes, size),
            size.seconds + 5,
        )
    for name in NAMES[1:]:
        yield trial(
            f"{rows:,} updates kept",
            name,
            lambda name=name: remember(name, rows, size),
            2 * size.seconds + 30,
        )
