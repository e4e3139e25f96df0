"""The load: readers that count and timestamp, and publishers. Each runs in a process of its own.

    python -m benchmarks.load read '{"port": 5500, ...}'
    python -m benchmarks.load publish '{"port": 5500, ...}'

A process answers each line on its standard input with a line of JSON. The clock is the machine's
monotonic one, which all processes share.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote, urlencode

MARKER = b'data: {"t":'
"""What stands once in every event."""

_TIMESTAMP = re.compile(rb'data: \{"t":(\d+)')
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
_PADDING = "x" * 68


def event_data() -> str:
    """Return an update's data: its time of birth, and as much as makes events of ~170 bytes."""
    return f'{{"t":{time.monotonic_ns()},"x":"{_PADDING}"}}'


# Readers ----------------------------------------------------------------------------------------


class Tally:
    """What a group of streams has received."""

    def __init__(self) -> None:
        self.events = 0
        self.open = 0
        self.lost = 0
        self.latencies: list[int] = []

    def reset(self) -> None:
        self.events = 0
        self.lost = 0
        self.latencies.clear()


class StreamReader(asyncio.Protocol):
    """One event stream: counts events and, where it is `timed`, how old they are on arrival."""

    def __init__(self, request: bytes, tally: Tally, *, timed: bool) -> None:
        self._request = request
        self._tally = tally
        self._timed = timed
        self._tail = b""
        self._begun = False
        self.opened = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        tally = self._tally
        if self._tail:
            data = self._tail + data
        if not self._begun:
            head_end = data.find(b"\r\n\r\n")
            if head_end < 0:
                self._tail = data
                return
            if not data.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"refused: {data[:200]!r}")
            self._begun = True
            tally.open += 1
            self.opened.set_result(None)
        # Whole events only: what follows the last event's end waits for the rest of it.
        end = max(data.rfind(b"\n\n"), data.rfind(b"\n\r\n")) + 1
        self._tail = data[end:] if end else data
        if not end:
            return
        tally.events += data.count(MARKER, 0, end)
        if self._timed:
            now = time.monotonic_ns()
            births = _TIMESTAMP.findall(data, 0, end)
            tally.latencies.extend(now - int(birth) for birth in births)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._begun:
            self._tally.open -= 1
            self._tally.lost += 1


class StalledReader(asyncio.Protocol):
    """A client that subscribes and then reads nothing, with a small receive buffer."""

    def __init__(self, request: bytes, tally: Tally) -> None:
        self._request = request
        self._tally = tally
        self.opened = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        transport.write(self._request)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.pause_reading()
        if not self.opened.done():
            self._tally.open += 1
            self.opened.set_result(None)


def subscribe_request(path: str, topics: list[str], last_event_id: str | None = None) -> bytes:
    query = urlencode([("topic", topic) for topic in topics])
    identifier = f"Last-Event-ID: {last_event_id}\r\n" if last_event_id else ""
    return (
        f"GET {path}?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n"
        f"{identifier}\r\n"
    ).encode()


class Readers:
    """A group of streams in this process, opened and closed on command.

    Each stream listens to `topics_per_stream` of the topics that `topic` is the pattern of: with
    `{n}` in it they differ, without it all are the same.
    """

    def __init__(self, setup: dict[str, Any]) -> None:
        self._setup = setup
        self._tally = Tally()
        self._transports: list[Any] = []

    async def handle(self, command: dict[str, Any]) -> dict[str, Any]:
        action = command["do"]
        if action == "open":
            return await self._open()
        if action == "reset":
            self._tally.reset()
            return {"at": time.monotonic()}
        if action == "wait":
            return await self._wait(command["events"], command["timeout"])
        if action == "churn":
            return await self._churn(command["streams"])
        if action == "close":
            for transport in self._transports:
                transport.abort()
            return {}
        return self._result()

    def _result(self) -> dict[str, Any]:
        tally = self._tally
        return {
            "at": time.monotonic(),
            "events": tally.events,
            "open": tally.open,
            "lost": tally.lost,
            "latencies": sorted(tally.latencies),
        }

    async def _open(self) -> dict[str, Any]:
        count = self._setup["streams"]
        begun = time.monotonic()
        # As many streams are being opened at any time as the shortest backlog bears.
        numbers = iter(range(count))

        async def connect_some() -> None:
            for number in numbers:
                await self._connect(number)

        async with asyncio.timeout(120):
            await asyncio.gather(*(connect_some() for _ in range(64)))
        return {"seconds": time.monotonic() - begun}

    async def _connect(self, number: int) -> None:
        setup = self._setup
        per_stream = setup.get("topics_per_stream", 1)
        first = setup.get("first", 0) + number * per_stream
        topics = [setup["topic"].replace("{n}", str(first + each)) for each in range(per_stream)]
        request = subscribe_request(setup["path"], topics, setup.get("last_event_id"))
        stalled = setup.get("stalled", False)
        every = max(setup["streams"] // max(setup.get("timed", 20), 1), 1)

        def protocol() -> StreamReader | StalledReader:
            if stalled:
                return StalledReader(request, self._tally)
            return StreamReader(request, self._tally, timed=number % every == 0)

        connection = socket.socket()
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096 if stalled else 262_144)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, ("127.0.0.1", setup["port"]))
        transport, stream = await loop.create_connection(protocol, sock=connection)
        self._transports.append(transport)
        if setup.get("answers_at_once", True):
            await stream.opened

    async def _wait(self, events: int, timeout: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while self._tally.events < events and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        return self._result()

    async def _churn(self, streams: int) -> dict[str, Any]:
        """Let the oldest streams go and open as many new ones."""
        leaving, self._transports = self._transports[:streams], self._transports[streams:]
        for transport in leaving:
            transport.close()
        for number in range(streams):
            await self._connect(number)
        return {}


# Publishers -------------------------------------------------------------------------------------


class PublishConnection(asyncio.Protocol):
    """A kept-open connection on which publications follow each other, pipelined or not.

    Servers may close one after so many requests: those without an answer go on the next.
    """

    def __init__(
        self,
        on_answers: Callable[[PublishConnection, list[bytes]], None],
        on_lost: Callable[[PublishConnection], None],
    ) -> None:
        self._on_answers = on_answers
        self._on_lost = on_lost
        self._tail = b""
        self.unanswered: deque[bytes] = deque()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def send(self, request: bytes) -> None:
        self.unanswered.append(request)
        if not self._transport.is_closing():
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        data = self._tail + data
        answers = _STATUS.findall(data)
        last = data.rfind(b"HTTP/1.1 ")
        whole = last >= 0 and len(data) - last >= len(b"HTTP/1.1 200")
        self._tail = b"" if whole else data[max(last, 0) :][-64:]
        for _ in answers:
            self.unanswered.popleft()
        self._on_answers(self, answers)

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost(self)


class HTTPPublisher:
    """Publishes over HTTP: at a steady rate whatever comes back, or as fast as answers come."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self._setup = setup
        self._answers: dict[str, int] = {}
        self._connections: list[PublishConnection] = []
        self._sent = 0
        self._answered = 0
        self._refill = 0
        self._deadline = 0.0

    async def handle(self, command: dict[str, Any]) -> dict[str, Any]:
        if not self._connections:
            await self._connect()
        action = command["do"]
        self._answers, self._sent, self._answered = {}, 0, 0
        begun = time.monotonic()
        if action == "steady":
            await self._publish_steadily(command["rate"], command["seconds"])
        elif action == "closed_loop":
            await self._publish_in_turn(command["seconds"], command["depth"])
        last_answer = await self._wait_for_answers()
        return {
            "sent": self._sent,
            "answers": self._answers,
            "seconds": last_answer - begun,
        }

    async def _connect(self) -> None:
        for _ in range(self._setup.get("connections", 4)):
            self._connections.append(await self._another())

    async def _another(self) -> PublishConnection:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: PublishConnection(self._note_answers, self._replace),
            "127.0.0.1",
            self._setup["port"],
        )
        return connection

    def _replace(self, lost: PublishConnection) -> None:
        async def replace() -> None:
            connection = await self._another()
            self._connections[self._connections.index(lost)] = connection
            for request in lost.unanswered:
                connection.send(request)

        self._replacing = asyncio.ensure_future(replace())

    def _request(self, number: int) -> bytes:
        setup = self._setup
        topic = setup["topic"].replace("{n}", str(number % setup.get("topics", 1)))
        body = f"topic={quote(topic, safe='')}&data={quote(event_data(), safe='')}"
        if setup.get("numbered_ids"):
            body += f"&id=n{number}"
        return (
            f"POST {setup['path']} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {setup['token']}\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    async def _publish_steadily(self, rate: float, seconds: float) -> None:
        """Send on schedule; one connection may have several requests under way."""
        begun = time.monotonic()
        total = int(rate * seconds)
        while self._sent < total:
            due = min(int((time.monotonic() - begun) * rate) + 1, total)
            while self._sent < due:
                connection = self._connections[self._sent % len(self._connections)]
                connection.send(self._request(self._sent))
                self._sent += 1
            await asyncio.sleep(max(begun + self._sent / rate - time.monotonic(), 0.0005))

    async def _publish_in_turn(self, seconds: float, depth: int) -> None:
        """Keep `depth` requests under way on each connection."""
        self._deadline = time.monotonic() + seconds
        self._refill = 1
        for connection in self._connections:
            for _ in range(depth):
                self._send(connection)
        await asyncio.sleep(seconds)
        self._refill = 0

    def _send(self, connection: PublishConnection) -> None:
        connection.send(self._request(self._sent))
        self._sent += 1

    def _note_answers(self, connection: PublishConnection, answers: list[bytes]) -> None:
        self._answered += len(answers)
        for status in answers:
            name = status.decode()
            self._answers[name] = self._answers.get(name, 0) + 1
        if self._refill and time.monotonic() < self._deadline:
            for _ in answers:
                self._send(connection)

    async def _wait_for_answers(self) -> float:
        deadline = time.monotonic() + 20
        while self._answered < self._sent and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        return time.monotonic()


# The process ------------------------------------------------------------------------------------


async def _answer_commands(handle: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]) -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=2**24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        print(json.dumps(await handle(json.loads(line))), flush=True)


def main() -> None:
    import uvloop

    role, setup = sys.argv[1], json.loads(sys.argv[2])
    handler = Readers(setup) if role == "read" else HTTPPublisher(setup)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_answer_commands(handler.handle))


if __name__ == "__main__":
    main()
