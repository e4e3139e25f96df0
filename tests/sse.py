"""A subscriber on a bare socket, which can do what no polite client does: stall, or vanish."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from httpx_sse import ServerSentEvent
from httpx_sse._decoders import SSEDecoder, SSELineDecoder


def parse(text: bytes) -> list[ServerSentEvent]:
    """Parse an event stream with httpx-sse's decoders."""
    lines, events = SSELineDecoder(), SSEDecoder()
    decoded = (events.decode(line) for line in lines.decode(text.decode()))
    return [event for event in decoded if event is not None]


class RawSubscriber:
    """One event stream over HTTP/1.1 chunked encoding."""

    def __init__(self, url: str, headers: dict[str, str] | None = None, buffer: int = 0) -> None:
        parts = urlsplit(url)
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(30)
        self.socket.connect((parts.hostname, parts.port))
        lines = [f"GET {parts.path}?{parts.query} HTTP/1.1", f"Host: {parts.netloc}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self._received = b""
        self._body = b""
        while b"\r\n\r\n" not in self._received:
            self._read()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        status, *fields = head.decode("latin-1").split("\r\n")
        self.status = int(status.split()[1])
        pairs = (field.split(":", 1) for field in fields)
        self.headers = {name.lower(): value.strip() for name, value in pairs}
        if self.status == 200:
            while not self._body:  # the opening comment: the subscription is in place
                self._read_chunk()

    def _read(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError
        self._received += data

    def _read_chunk(self) -> None:
        while b"\r\n" not in self._received:
            self._read()
        size, _, rest = self._received.partition(b"\r\n")
        length = int(size, 16)
        self._received = rest
        while len(self._received) < length + 2:
            self._read()
        self._body += self._received[:length]
        self._received = self._received[length + 2 :]
        if length == 0:
            raise EOFError

    def until(self, ending: bytes) -> bytes:
        """Read until the stream ends with these bytes, and return all of it."""
        while not self._body.endswith(ending):
            self._read_chunk()
        return self._body

    def until_it_ends(self) -> bytes:
        """Read until the server ends the stream, and return all of it."""
        try:
            while True:
                self._read_chunk()
        except (EOFError, ConnectionError):
            return self._body

    def vanish(self) -> None:
        """Be killed: the kernel resets the connection without a word."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def close(self) -> None:
        self.socket.close()
