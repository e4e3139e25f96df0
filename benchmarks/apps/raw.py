"""The lower bound: an asyncio protocol on uvloop that writes to every transport, and no more.

It knows no topics, tokens, history or limits; whoever connects receives what anyone posts.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any
from urllib.parse import parse_qs

import uvloop

_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b"2\r\n:\n\r\n"
)
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"

streams: set[Any] = set()
published = 0


class Connection(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, rest = self._received.partition(b"\r\n\r\n")
            if head.startswith(b"GET"):
                streams.add(self._transport)
                self._transport.write(_HEAD)
                self._received = rest
                continue
            length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
            if len(rest) < length:
                return
            self._received = rest[length:]
            self._transport.write(_ANSWER)
            publish(parse_qs(rest[:length].decode())["data"][0])

    def connection_lost(self, exc: Exception | None) -> None:
        streams.discard(self._transport)


def publish(data: str) -> None:
    global published
    published += 1
    event = f"id: urn:uuid:00000000-0000-0000-0000-{published:012}\ndata: {data}\n\n".encode()
    chunk = b"%x\r\n%b\r\n" % (len(event), event)
    for transport in streams:
        transport.write(chunk)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", int(sys.argv[1]), backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
