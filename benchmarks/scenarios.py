"""What is measured: each scenario puts a target under one kind of load and returns figures.

A scenario is a generator of `Trial`s; a trial measures one target once and returns a dictionary of
figures by name. Trials are run in alternating rounds, and the medians are what counts.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.request import urlopen

from .processes import ServerProcess, Worker, running, workers
from .targets import APPLICATION, Target

Figures = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much load: `full` for the report, `quick` for a smoke test."""

    seconds: float
    clients: int
    streams: int
    rounds: int
    soak: float


FULL = Size(seconds=4, clients=500, streams=5000, rounds=3, soak=600)
QUICK = Size(seconds=0.5, clients=50, streams=100, rounds=1, soak=3)


@dataclass(frozen=True)
class Trial:
    """One measurement: which scenario's row it belongs to, of whom, and how it is made."""

    row: str
    target: Target
    measure: Callable[[], Figures]
    seconds: float
    """About how long it takes."""


def setup_for(target: Target, server: ServerProcess, topic: str = "bench") -> dict[str, Any]:
    return {
        "port": server.port,
        "path": target.path,
        "topic": topic,
        "token": target.token,
        "answers_at_once": target.answers_at_once,
    }


def quantile(ordered: list[int], part: float) -> float:
    """Return a quantile of sorted nanoseconds, in milliseconds."""
    return ordered[int(part * (len(ordered) - 1))] / 1e6 if ordered else math.nan


def histogram(ordered: list[int], points: int = 200) -> list[float]:
    """Return evenly spaced quantiles in milliseconds: enough to draw the distribution."""
    return [round(quantile(ordered, each / points), 3) for each in range(points + 1)]


# Delivery ---------------------------------------------------------------------------------------


def deliver(target: Target, clients: int, rate: float, seconds: float) -> Figures:
    """Publish to all clients at a steady rate."""
    with running(target.start) as server:
        setup = setup_for(target, server)
        reading, publishing = ("read", setup | {"streams": clients}), ("publish", setup)
        with workers(reading, publishing) as (reader, publisher):
            reader.ask(do="open")
            publisher.ask(do="steady", rate=min(rate, 100), seconds=min(seconds, 1))
            return _deliveries(server, [reader], publisher, clients, rate, seconds)


def _deliveries(
    server: ServerProcess,
    readers: list[Worker],
    publisher: Worker,
    clients: int,
    rate: float,
    seconds: float,
) -> Figures:
    """Measure what `clients` streams of the first reader receive."""
    reader = readers[0]
    reader.ask(do="reset")
    expected = int(clients * rate * seconds)
    cpu, begun = server.cpu_seconds(), time.monotonic()
    publisher.tell(do="steady", rate=rate, seconds=seconds)
    received = reader.ask(do="wait", events=expected, timeout=seconds + 8)
    used = server.cpu_seconds() - cpu
    answers = publisher.answer()
    elapsed = received["at"] - begun
    events = received["events"]
    return {
        "delivered": events / expected,
        "deliveries/s": events / elapsed,
        "CPU us/delivery": 1e6 * used / max(events, 1),
        "CPU cores": used / elapsed,
        "p50 ms": quantile(received["latencies"], 0.5),
        "p99 ms": quantile(received["latencies"], 0.99),
        "RSS MB": server.resident_bytes() / 1e6,
        "refused": sum(n for status, n in answers["answers"].items() if status != "200"),
        "streams lost": received["lost"],
        "latency quantiles": histogram(received["latencies"]),
    }


def fanout(targets: list[Target], size: Size) -> Iterator[Trial]:
    """clients x rate, at loads that every target should bear"""
    return _at_rates((20, 100, 1000) if size is FULL else (20,), targets, size)


def overload(targets: list[Target], size: Size) -> Iterator[Trial]:
    """more than most can bear: what comes through, and how late"""
    if size is FULL:
        return _at_rates((2000, 4000), targets, size)
    return _at_rates((500,), [target for target in targets if target.ours], size)


def _at_rates(rates: tuple[int, ...], targets: list[Target], size: Size) -> Iterator[Trial]:
    for rate in rates:
        for target in targets:
            yield Trial(
                f"{size.clients} clients x {rate}/s",
                target,
                lambda target=target, rate=rate: deliver(  # type: ignore[misc]
                    target, size.clients, rate, size.seconds
                ),
                size.seconds + 3,
            )


# Streams ----------------------------------------------------------------------------------------


def hold(target: Target, streams: int, seconds: float, *, subscriptions: bool) -> Figures:
    """Open many streams and let them be idle."""
    with running(lambda: target.start(subscriptions=subscriptions)) as server:
        setup = setup_for(target, server)
        with workers(("read", setup | {"streams": streams})) as (reader,):
            before = server.resident_bytes()
            cpu = server.cpu_seconds()
            opened = reader.ask(do="open")
            cpu_opening = server.cpu_seconds() - cpu
            after = server.resident_bytes()
            cpu, begun = server.cpu_seconds(), time.monotonic()
            time.sleep(seconds)
            idle = (server.cpu_seconds() - cpu) / (time.monotonic() - begun)
            still_open = reader.ask(do="result")["open"]
    return {
        "opened in s": opened["seconds"],
        "streams/s": streams / opened["seconds"],
        "CPU us/stream": 1e6 * cpu_opening / streams,
        "KB/stream": (after - before) / streams / 1024,
        "idle CPU %": 100 * idle,
        "open": still_open,
    }


def idle(targets: list[Target], size: Size) -> Iterator[Trial]:
    """memory and processor time of streams on which nothing happens but heartbeats"""
    seconds = 20 if size is FULL else 0.2
    for target in filter(lambda target: target.answers_at_once, targets):
        yield Trial(
            f"{size.streams} streams",
            target,
            lambda target=target: hold(  # type: ignore[misc]
                target, size.streams, seconds, subscriptions=True
            ),
            seconds + 6,
        )


def connect(targets: list[Target], size: Size) -> Iterator[Trial]:
    """streams accepted per second, with subscription events and without"""
    for subscriptions in (True, False) if size is FULL else (True,):
        for target in filter(lambda target: target.answers_at_once, targets):
            if not subscriptions and not target.quiet:
                continue
            yield Trial(
                f"{size.streams} streams, subscription events {'on' if subscriptions else 'off'}",
                target,
                lambda target=target, on=subscriptions: hold(  # type: ignore[misc]
                    target, size.streams, 0.1, subscriptions=on
                ),
                8,
            )


# Publishing -------------------------------------------------------------------------------------


def publish_over_http(target: Target, clients: int, seconds: float, depth: int) -> Figures:
    """Publish as fast as answers come, while others listen to other topics."""
    with running(target.start) as server:
        setup = setup_for(target, server)
        listening = setup | {"streams": clients, "topic": "elsewhere"}
        publishing = setup | {"connections": 8}
        with workers(("read", listening), ("publish", publishing)) as (reader, publisher):
            reader.ask(do="open")
            publisher.ask(do="closed_loop", seconds=min(seconds, 1), depth=depth)
            cpu = server.cpu_seconds()
            result = publisher.ask(do="closed_loop", seconds=seconds, depth=depth)
            used = server.cpu_seconds() - cpu
    accepted = result["answers"].get("200", 0)
    return {
        "updates/s": accepted / result["seconds"],
        "CPU us/update": 1e6 * used / max(accepted, 1),
        "refused": sum(result["answers"].values()) - accepted,
    }


def publish_in_process(clients: int, seconds: float, how: str) -> Figures:
    """Let an application publish as fast as it can, while others listen to other topics."""
    with running(APPLICATION.start) as server:
        listening = setup_for(APPLICATION, server) | {"streams": clients, "topic": "elsewhere"}
        with workers(("read", listening)) as (reader,):
            reader.ask(do="open")
            url = f"http://127.0.0.1:{server.port}/{how}/{float(seconds)}"
            cpu = server.cpu_seconds()
            with urlopen(url, timeout=seconds + 30) as answer:
                rate: float = json.load(answer)["updates/s"]
            used = server.cpu_seconds() - cpu
    return {"updates/s": rate, "CPU us/update": 1e6 * used / (rate * seconds), "refused": 0}


def publish(targets: list[Target], size: Size) -> Iterator[Trial]:
    """updates accepted per second, over HTTP and in the process, with listeners elsewhere"""
    ways = ((1, "one at a time on 8 connections"), (16, "16 pipelined on each of 8"))
    for depth, how in ways if size is FULL else ways[:1]:
        for target in filter(lambda target: target.topics, targets):
            yield Trial(
                f"{how}, {size.clients} listeners elsewhere",
                target,
                lambda target=target, depth=depth: publish_over_http(  # type: ignore[misc]
                    target, size.clients, size.seconds, depth
                ),
                size.seconds + 4,
            )

    for how, row in (("one-by-one", "one at a time"), ("many", "publish_many, 100 at a time")):
        yield Trial(
            f"in the process, {row}, {size.clients} listeners elsewhere",
            APPLICATION,
            lambda how=how: publish_in_process(  # type: ignore[misc]
                size.clients, size.seconds, how
            ),
            size.seconds + 3,
        )


# Replay -----------------------------------------------------------------------------------------


def come_back(target: Target, clients: int, missed: int) -> Figures:
    """Let many clients come back at once, all of whom missed the last `missed` updates."""
    with running(target.start) as server:
        setup = setup_for(target, server)
        returning = setup | {"streams": clients, "last_event_id": "n0", "timed": 0}
        publishing = setup | {"numbered_ids": True}
        with workers(("read", returning), ("publish", publishing)) as (reader, publisher):
            publisher.ask(do="steady", rate=400, seconds=(missed + 1) / 400)
            cpu, begun = server.cpu_seconds(), time.monotonic()
            reader.ask(do="open")
            received = reader.ask(do="wait", events=clients * missed, timeout=60)
            used = server.cpu_seconds() - cpu
    elapsed = received["at"] - begun
    return {
        "complete": received["events"] / (clients * missed),
        "seconds": elapsed,
        "replayed/s": received["events"] / elapsed,
        "CPU us/event": 1e6 * used / max(received["events"], 1),
    }


def replay(targets: list[Target], size: Size) -> Iterator[Trial]:
    """clients that come back for 400 updates each"""
    for target in targets:
        if target.history:
            yield Trial(
                f"{size.clients} clients, 400 missed",
                target,
                lambda target=target: come_back(target, size.clients, 400),  # type: ignore[misc]
                6,
            )


# Topics -----------------------------------------------------------------------------------------


def match(target: Target, streams: int, topics: int, template: str, seconds: float) -> Figures:
    """Publish to one topic, which one stream of many has, among many topics."""
    with running(target.start) as server:
        setup = setup_for(target, server)
        per_stream = max(topics // streams, 1)
        reading = setup | {"topic": template, "streams": streams, "topics_per_stream": per_stream}
        published = "topic/{n}/x" if "{" in template.replace("{n}", "") else template
        publishing = setup | {"topic": published, "topics": topics}
        with workers(("read", reading), ("publish", publishing)) as (reader, publisher):
            reader.ask(do="open")
            publisher.ask(do="closed_loop", seconds=min(seconds, 1), depth=4)
            reader.ask(do="reset")
            cpu = server.cpu_seconds()
            result = publisher.ask(do="closed_loop", seconds=seconds, depth=4)
            used = server.cpu_seconds() - cpu
            accepted = result["answers"].get("200", 0)
            received = reader.ask(do="wait", events=accepted, timeout=5)
    return {
        "updates/s": accepted / result["seconds"],
        "CPU us/update": 1e6 * used / max(accepted, 1),
        "delivered": received["events"] / max(accepted, 1),
    }


def topics(targets: list[Target], size: Size) -> Iterator[Trial]:
    """the cost of an update for one subscriber, among few and many topics and patterns"""
    many = 10_000 if size is FULL else 500
    streams = size.clients // 5
    for count, kind, template in (
        (100, "topics", "topic/{n}"),
        (many, "topics", "topic/{n}"),
        (100, "URI templates", "topic/{n}/{x}"),
        (many, "URI templates", "topic/{n}/{x}"),
    ):
        for target in targets:
            if target.name == "uvicorn":
                yield Trial(
                    f"{count} {kind} on {streams} streams",
                    target,
                    lambda target=target, n=count, t=template: match(  # type: ignore[misc]
                        target, streams, n, t, size.seconds
                    ),
                    size.seconds + 5,
                )


# Slow clients -----------------------------------------------------------------------------------


def beside_stalled(
    target: Target, clients: int, stalled: int, rate: float, seconds: float
) -> Figures:
    """Deliver to clients that read, beside others that have stopped to."""
    with running(target.start) as server:
        setup = setup_for(target, server)
        reading = setup | {"streams": clients - stalled, "timed": 100}
        described = [("read", reading), ("publish", setup)]
        if stalled:
            described.append(("read", setup | {"streams": stalled, "stalled": True}))
        with workers(*described) as (reader, publisher, *others):
            for each in (reader, *others):
                each.ask(do="open")
            publisher.ask(do="steady", rate=20, seconds=min(seconds, 1))
            return _deliveries(server, [reader], publisher, clients - stalled, rate, seconds)


def slow(targets: list[Target], size: Size) -> Iterator[Trial]:
    """1,000 clients, of whom none or 10 % do not read"""
    clients = size.clients * 2
    for stalled in (0, clients // 10) if size is FULL else (clients // 10,):
        for target in targets if size is FULL else filter(lambda target: target.ours, targets):
            yield Trial(
                f"{clients} clients x 100/s, {stalled} stalled",
                target,
                lambda target=target, stalled=stalled: beside_stalled(  # type: ignore[misc]
                    target, clients, stalled, 100, size.seconds
                ),
                size.seconds + 4,
            )


# Endurance --------------------------------------------------------------------------------------


def endure(target: Target, clients: int, seconds: float) -> Figures:
    """Publish steadily for minutes while clients come and go; watch the memory."""
    churned = max(clients // 50, 1)
    samples: list[tuple[float, float]] = []
    with running(target.start) as server:
        setup = setup_for(target, server)
        reading = setup | {"streams": clients}
        with workers(("read", reading), ("publish", setup)) as (reader, publisher):
            before = server.resident_bytes()
            reader.ask(do="open")
            publisher.tell(do="steady", rate=50, seconds=seconds)
            cpu, begun = server.cpu_seconds(), time.monotonic()
            while (elapsed := time.monotonic() - begun) < seconds:
                reader.ask(do="churn", streams=churned)
                reader.ask(do="reset")
                samples.append((elapsed, server.resident_bytes() / 1e6))
                time.sleep(1)
            used = server.cpu_seconds() - cpu
            publisher.answer()
        deadline = time.monotonic() + 10
        while (connections := len(server.connections())) and time.monotonic() < deadline:
            time.sleep(0.1)
    settled = [mb for at, mb in samples if at >= min(120, seconds / 2)]
    tenth = max(len(settled) // 10, 1)
    early, late = sorted(settled[:tenth])[tenth // 2], sorted(settled[-tenth:])[tenth // 2]
    return {
        "minutes": seconds / 60,
        "streams opened": clients + churned * len(samples),
        "RSS MB before": before / 1e6,
        "RSS MB after 2 min": early,
        "RSS MB at the end": late,
        "growth %": 100 * (late / early - 1),
        "CPU cores": used / seconds,
        "connections left": connections,
        "memory": [(round(at, 1), round(mb, 2)) for at, mb in samples],
    }


def soak(targets: list[Target], size: Size) -> Iterator[Trial]:
    """minutes of steady publishing with clients that come and go"""
    for target in targets:
        if target.name == "uvicorn":
            yield Trial(
                f"{size.clients} clients, 2 % replaced each second, 50/s",
                target,
                lambda target=target: endure(target, size.clients, size.soak),  # type: ignore[misc]
                size.soak + 5,
            )


SCENARIOS: dict[str, Callable[[list[Target], Size], Iterator[Trial]]] = {
    scenario.__name__: scenario
    for scenario in (fanout, overload, idle, connect, publish, replay, topics, slow, soak)
}
