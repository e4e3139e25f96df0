"""Several hubs that are one: workers of one server, and processes of which one is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from quart_mercure import HTTPPublisher, Update, subscribe
from quart_mercure.publisher import Clients
from quart_mercure.tokens import mint

from .conftest import (
    ROOT,
    SECRET,
    Server,
    coverage_environment,
    eventually,
    free_port,
    wait_until_it_listens,
)
from .sse import RawSubscriber, parse
from .stores import RedisServer

HUB = "/.well-known/mercure"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[object]:
    """Start a Python module that listens on a port; it is gone when the test ends."""
    started: list[Server] = []

    def start(port: int, *command: str, **environment: str) -> Server:
        log = tmp_path / f"server-{len(started)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=ROOT,
                env=coverage_environment() | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        started.append(Server(command[0], f"http://127.0.0.1:{port}", process, log))
        wait_until_it_listens(started[-1], port)
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.stop(15)
            server.process.kill()


def four_workers(launch, app: str, url: str, **environment: str) -> Server:
    port = free_port()
    command = ("hypercorn", "--workers", "4", "--bind", f"127.0.0.1:{port}")
    server = launch(
        port,
        *(*command, "--graceful-timeout", "5", app),
        QUART_MERCURE_HUB="true",
        QUART_MERCURE_TRANSPORT_URL=url,
        **environment,
    )
    eventually(lambda: len(workers_of(server)) == 4)
    return server


def workers_of(server: Server) -> list[psutil.Process]:
    family = psutil.Process(server.process.pid).children(recursive=True)
    return [each for each in family if "resource_tracker" not in " ".join(each.cmdline())]


def workers_with_streams(server: Server) -> int:
    """Return how many of a server's processes hold a connection."""
    return sum(
        any(each.status == psutil.CONN_ESTABLISHED for each in worker.net_connections("tcp"))
        for worker in workers_of(server)
    )


def transport_url(name: str, redis: RedisServer, tmp_path: Path) -> str:
    if name == "sqlite":
        return f"sqlite:///{tmp_path}/hub.db"
    return f"{redis.url}?prefix={os.urandom(4).hex()}"


def streams_on_several_workers(server: Server) -> list[RawSubscriber]:
    """Open streams, many at a time, until the kernel has given some to another worker."""
    streams: list[RawSubscriber] = []
    url = f"{server.url}{HUB}?topic=a"
    with ThreadPoolExecutor(20) as threads:
        while workers_with_streams(server) < 2:
            assert len(streams) < 400, "all are given to the same worker"
            streams += threads.map(RawSubscriber, [url] * 40)
    return streams


@pytest.mark.parametrize("name", ["sqlite", "redis"])
def test_four_workers_are_one_hub(launch, redis, tmp_path, name):
    url = transport_url(name, redis, tmp_path)
    server = four_workers(launch, "tests.apps.push:app", url)
    streams = streams_on_several_workers(server)
    sent = []
    for number in range(20):  # each on a connection, and so perhaps a worker, of its own
        answer = httpx.post(f"{server.url}/publish/a", content=f"{number};")
        sent.append(answer.raise_for_status().text)
    for stream in streams:
        assert [event.id for event in parse(stream.until(b"19;\n\n"))] == sent
    listed = {tuple(sorted(httpx.get(f"{server.url}/connected/a").json())) for _ in range(10)}
    assert len(listed) == 1, "all workers list the same"
    assert len(listed.pop()) == len(streams)
    back = RawSubscriber(f"{server.url}{HUB}?topic=a", headers={"Last-Event-ID": sent[9]})
    assert [event.id for event in parse(back.until(b"19;\n\n"))] == sent[10:]
    for stream in (*streams, back):
        stream.close()
    eventually(lambda: httpx.get(f"{server.url}/connected/a").json() == [])


def test_many_workers_with_a_memory_transport_say_so(launch):
    server = four_workers(launch, "tests.apps.push:app", "memory://")
    eventually(lambda: "4 workers" in server.log.read_text())
    assert "MERCURE_TRANSPORT_URL" in server.log.read_text()


class RoundRobin:
    """A load balancer that knows nothing but TCP."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self._turn = 0

    async def __aenter__(self) -> RoundRobin:
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}{HUB}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _pass_on(self, reader, writer) -> None:
        for _ in self._ports:
            self._turn += 1
            port = self._ports[self._turn % len(self._ports)]
            with contextlib.suppress(OSError):
                there = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))
                return
        writer.close()


async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()


async def test_a_hub_of_three_is_killed_under_load_and_nobody_misses_anything(launch, redis):
    ports = [free_port() for _ in range(3)]
    url = f"{redis.url}?prefix=three"
    hubs = [
        launch(
            port,
            *("quart_mercure", "hub", "--bind", f"127.0.0.1:{port}", "--transport", url),
            *("--server", "uvicorn", "--log-level", "warning"),
            MERCURE_PUBLISHER_SECRET_KEY=SECRET,
            MERCURE_SUBSCRIBER_SECRET_KEY=SECRET,
        )
        for port in ports
    ]
    count, listeners = 400, 30
    token = mint(SECRET, {"publish": ["*"]})
    clients = Clients(10, 10)
    publisher = HTTPPublisher(f"{hubs[0].url}{HUB}", token, clients)
    received: list[list[str]] = [[] for _ in range(listeners)]

    async def listen(own: list[str], hub: str) -> None:
        async for update in subscribe(hub, ["a"]):
            own.append(update.id)
            if update.id == "the end":
                return

    async with RoundRobin(ports) as balancer:
        listening = [asyncio.create_task(listen(own, balancer.url)) for own in received]
        await subscriptions_become(hubs[0], listeners)
        for number in range(count):
            await publisher.publish(Update(topics=("a",), id=f"n{number}"))
            if number == count // 2:
                hubs[2].process.kill()
                killed_at = time.monotonic()
        await subscriptions_become(hubs[1], listeners)
        assert time.monotonic() - killed_at < 15, "presence is right again in time"
        await publisher.publish(Update(topics=("a",), id="the end"))
        async with asyncio.timeout(30):
            await asyncio.gather(*listening)
    expected = [*(f"n{number}" for number in range(count)), "the end"]
    assert received == [expected] * listeners
    await clients.aclose()


async def subscriptions_become(hub: Server, count: int) -> None:
    """Wait until a hub lists so many subscriptions to the topic."""
    token = mint(SECRET, {"subscribe": ["*"]})
    async with httpx.AsyncClient() as http, asyncio.timeout(30):
        while True:
            answer = await http.get(
                f"{hub.url}{HUB}/subscriptions/a", headers={"authorization": f"Bearer {token}"}
            )
            if len(answer.raise_for_status().json()["subscriptions"]) == count:
                return
            await asyncio.sleep(0.1)
