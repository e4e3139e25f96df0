"""Real servers and real sockets: floods, clients that die or stall, and shutdowns."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import threading
import time

import httpx
import pytest

from .conftest import WAYS, eventually
from .sse import RawSubscriber, parse

HUB = "/.well-known/mercure"
every_server = pytest.mark.parametrize("server", WAYS)


def stream_url(server, topic, **parameters):
    return str(httpx.URL(f"{server.url}{HUB}", params={"topic": topic, **parameters}))


@every_server
def test_ten_thousand_updates_reach_fifty_subscribers_in_order(serve, http, server):
    app = serve("tests.apps.push:app", server)
    subscribers = [RawSubscriber(stream_url(app, "flood")) for _ in range(50)]
    flooded = threading.Event()
    answered = 0

    def flood():
        http.post(f"{app.url}/flood/flood/10000", timeout=120).raise_for_status()
        flooded.set()

    received = {}

    def read(index):
        received[index] = subscribers[index].until(b"data: 9999\n\n")

    threads = [threading.Thread(target=read, args=(index,)) for index in range(50)]
    threads.append(threading.Thread(target=flood))
    for thread in threads:
        thread.start()
    with httpx.Client() as other:
        while not flooded.is_set():
            assert other.get(f"{app.url}/", timeout=60).text == "ok"
            answered += 0 if flooded.is_set() else 1
    for thread in threads:
        thread.join()
    assert answered > 1, "a view answers between the updates of a tight loop"
    expected = [(f"n{number}", str(number)) for number in range(10_000)]
    streams = set(received.values())
    assert len(received) == 50
    for stream in streams:
        assert [(event.id, event.data) for event in parse(stream)] == expected


@every_server
def test_a_killed_client_is_gone_and_a_returning_one_misses_nothing(serve, http, server):
    app = serve("tests.apps.push:app", server)

    def publish(text):
        return http.post(f"{app.url}/publish/a", content=text).raise_for_status().text

    def connected():
        return set(http.get(f"{app.url}/connected/a").json())

    steady = RawSubscriber(stream_url(app, "a"))
    killed = RawSubscriber(stream_url(app, "a"))
    returning = RawSubscriber(stream_url(app, "a"))
    eventually(lambda: len(connected()) == 3)
    first = publish("1")
    assert [event.id for event in parse(returning.until(b"data: 1\n\n"))] == [first]
    killed.vanish()
    returning.close()
    eventually(lambda: len(connected()) == 1)
    assert http.get(f"{app.url}/counters").json()["indexed"] == 1
    publish("2")
    publish("3")
    back = RawSubscriber(stream_url(app, "a"), headers={"Last-Event-ID": first})
    publish("4")
    assert [event.data for event in parse(back.until(b"data: 4\n\n"))] == ["2", "3", "4"]
    everything = [event.data for event in parse(steady.until(b"data: 4\n\n"))]
    assert everything == ["1", "2", "3", "4"]


@every_server
def test_a_client_that_never_reads_is_disconnected_and_holds_nothing_up(serve, http, server):
    app = serve(
        "tests.apps.push:app",
        server,
        QUART_MERCURE_HUB_QUEUE_EVENTS="50",
        QUART_MERCURE_HUB_QUEUE_BYTES="200000",
    )
    healthy = RawSubscriber(stream_url(app, "a"))
    stalled = RawSubscriber(stream_url(app, "a"), buffer=4096)
    filler = "x" * 100_000
    sent = 0

    def counters():
        return http.get(f"{app.url}/counters").json()

    while not counters()["slow_clients"]:
        assert sent < 1000, "the stalled client is noticed before it has cost much memory"
        http.post(f"{app.url}/publish/a", params={"id": f"n{sent}"}, content=f"{filler}{sent}")
        received = healthy.until(f"x{sent}\n\n".encode())
        sent += 1
    eventually(lambda: counters()["subscribers"] == 1)
    ids = [event.id for event in parse(received)]
    assert ids == [f"n{number}" for number in range(sent)]
    healthy.close()
    assert app.stop() == EXIT_STATUS[server]
    stalled.close()


class Client(asyncio.Protocol):
    """A stream that can stop reading, as its kernel's buffer fills."""

    def __init__(self, url: str, last_event_id: str | None) -> None:
        parts = httpx.URL(url)
        asked = f"Last-Event-ID: {last_event_id}\r\n" if last_event_id else ""
        self._request = f"GET {parts.raw_path.decode()} HTTP/1.1\r\nHost: x\r\n{asked}\r\n"
        self.opened = asyncio.get_running_loop().create_future()
        self.closed = asyncio.get_running_loop().create_future()
        self.received = bytearray()

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self._request.encode())

    def data_received(self, data):
        self.received += data
        if not self.opened.done() and b"\r\n\r\n" in self.received:
            self.opened.set_result(None)

    def connection_lost(self, error):
        self.closed.set_result(None)

    @property
    def numbers(self) -> list[int]:
        """The events that have arrived whole."""
        return [int(number) for number in re.findall(rb"id: n(\d+)\ndata: x+\n\n", self.received)]

    async def until(self, number: int) -> None:
        async with asyncio.timeout(60):
            while b"id: n%d\n" % number not in self.received[-30_000:]:
                await asyncio.sleep(0.01)


async def open_client(url: str, last_event_id: str | None = None, buffer: int = 0) -> Client:
    connection = socket.socket()
    connection.setblocking(False)
    if buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    loop = asyncio.get_running_loop()
    address = httpx.URL(url)
    await loop.sock_connect(connection, (address.host, address.port))
    _, client = await loop.create_connection(lambda: Client(url, last_event_id), sock=connection)
    await client.opened
    return client


@pytest.mark.parametrize("server", ["uvicorn", "uvicorn-direct", "hypercorn"])
async def test_a_hundred_of_a_thousand_stall_and_nobody_misses_anything(serve, server):
    app = serve("tests.apps.push:app", server, QUART_MERCURE_HUB_QUEUE_EVENTS="60")
    reading = [await open_client(stream_url(app, "a")) for _ in range(900)]
    url = f"{stream_url(app, 'a')}&topic=large"
    stalled = [await open_client(url, buffer=4096) for _ in range(100)]
    for client in stalled:
        client.transport.pause_reading()
    everything = [*range(400)]
    async with httpx.AsyncClient(timeout=60) as http:
        for number in everything:
            topic, size = ("large", 20_000) if number % 2 else ("a", 100)
            where = f"{app.url}/publish/{topic}"
            await http.post(where, params={"id": f"n{number}"}, content="x" * size)
        for client in reading:
            await client.until(everything[-2])
        counters = (await http.get(f"{app.url}/counters")).json()
    assert all(client.numbers == everything[::2] for client in reading)
    assert (counters["slow_clients"], counters["subscribers"]) == (100, 900)
    for client in stalled:
        client.transport.resume_reading()
        await client.closed
        before = client.numbers
        assert len(before) < len(everything)
        back = await open_client(url, last_event_id=f"n{before[-1]}" if before else "earliest")
        await back.until(everything[-1])
        assert before + back.numbers == everything
        back.transport.close()
    for client in reading:
        client.transport.close()


@pytest.mark.parametrize("server", ["uvicorn", "uvicorn-direct", "hypercorn"])
async def test_what_is_live_waits_until_a_slow_client_has_what_it_missed(serve, server):
    app = serve("tests.apps.push:app", server)
    url = stream_url(app, "a")

    async def publish(numbers):
        for number in numbers:
            where = f"{app.url}/publish/a"
            await http.post(where, params={"id": f"n{number}"}, content="x" * 20_000)

    async with httpx.AsyncClient(timeout=60) as http:
        await publish(range(300))
        client = await open_client(url, last_event_id="earliest", buffer=4096)
        for number in range(300, 320):
            client.transport.pause_reading()
            await publish([number])
            client.transport.resume_reading()
            await asyncio.sleep(0)
    await client.until(319)
    assert client.numbers == [*range(320)]
    client.transport.close()


EXIT_STATUS = {
    "hypercorn": 0,
    "granian": 0,
    # uvicorn ends by the signal it was sent, with or without open streams.
    "uvicorn": -signal.SIGTERM,
    "uvicorn-direct": -signal.SIGTERM,
}


@every_server
def test_sigterm_ends_two_hundred_streams_within_the_grace(serve, server):
    app = serve("tests.apps.push:app", server)
    subscribers = [RawSubscriber(stream_url(app, "a")) for _ in range(200)]
    begun = time.monotonic()
    assert app.stop(timeout=10) == EXIT_STATUS[server]
    assert time.monotonic() - begun < 5  # hypercorn's grace in these tests
    for subscriber in subscribers:
        assert b"retry: " in subscriber.until_it_ends()
    log = app.log.read_text()
    for noise in ("Task was destroyed", "Traceback", "ERROR", "never retrieved", "Cancel "):
        assert noise not in log


@every_server
def test_the_hub_and_the_application_share_a_server(serve, http, server):
    app = serve("tests.apps.push:app", server)
    assert http.get(f"{app.url}/").text == "ok"
    refused = http.get(f"{app.url}{HUB}")
    assert (refused.status_code, refused.text) == (400, 'missing "topic" or "match" parameter')
    head = http.head(f"{app.url}{HUB}", params={"topic": "a"})
    assert head.headers["content-type"] == "text/event-stream"


def test_a_hub_is_served_alone(serve, http):
    hub = serve("examples.chat.hub:hub", "uvicorn")
    subscriber = RawSubscriber(stream_url(hub, "a"))
    assert subscriber.status == 200
    assert http.get(f"{hub.url}{HUB}/subscriptions").status_code == 401


@pytest.mark.parametrize("framework", ["starlette", "fastapi", "django"])
@pytest.mark.parametrize("server", ["hypercorn", "uvicorn"])
def test_a_hub_in_another_framework(serve, http, framework, server):
    app = serve(f"examples.mounted.{framework}_app:app", server)
    subscriber = RawSubscriber(stream_url(app, "messages"))
    identifier = http.get(f"{app.url}/say/hello").raise_for_status().text.strip('"')
    [event] = parse(subscriber.until(b"hello\n\n"))
    assert (event.id, event.data) == (identifier, "hello")
    assert http.get(f"{app.url}{HUB}/subscriptions").status_code == 401
    assert app.stop(timeout=10) == EXIT_STATUS[server]
    assert b"retry: " in subscriber.until_it_ends()
