"""uvicorn's HTTP/1.1 protocol, with its connections offered to the hub.

    uvicorn --http quart_mercure.uvicorn:Protocol app:app

Everything is served as by uvicorn's own `httptools` protocol. A stream of the hub is, too, but for
its live updates: these go to the connection as chunks that were encoded once for all recipients,
instead of through one ASGI `send` for each.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .hub.asgi import CONNECTION
from .hub.stream import ConnectionStream


class Protocol(HttpToolsProtocol):
    """An HTTP/1.1 connection that a stream of the hub may write to."""

    __slots__ = ("stream",)  # another key in its dictionary would cost each connection 1.5 KB

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.stream: ConnectionStream | None = None

    def is_sent_to_by(self, send: Any) -> bool:
        """Return whether this `send` is uvicorn's own, not that of a middleware in between.

        Nor may it be that of HTTP/1.0, whose responses have no chunks.
        """
        cycle = self.cycle
        return getattr(send, "__self__", None) is cycle and cycle.scope["http_version"] == "1.1"

    def write_chunk(self, chunk: bytes) -> bool:
        """Write a chunk of the body; return whether the connection takes more now."""
        self.transport.write(chunk)
        return not self.flow.write_paused

    def on_message_begin(self) -> None:
        """Offer this connection in the scope of the request that begins."""
        super().on_message_begin()
        self.scope["extensions"] = {CONNECTION: self}  # type: ignore[dict-item]

    def resume_writing(self) -> None:
        """Let the stream go on."""
        super().resume_writing()
        if self.stream is not None:
            self.stream.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the stream know, and leave no cycle of references behind."""
        super().connection_lost(exc)
        if self.stream is not None:
            self.stream.lost()
        if self.scope is not None:
            self.scope["extensions"].clear()
