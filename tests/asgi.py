"""Driving an ASGI application on the test's own event loop, as a server does."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from httpx_sse import ServerSentEvent

from .sse import parse

PATH = "/.well-known/mercure"


class Exchange:
    """One HTTP request and what comes back, while it comes."""

    def __init__(
        self,
        app: Any,
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        root_path: str = "",
        whole_body: bool = True,
        client: str = "192.0.2.1",
    ) -> None:
        parts = urlsplit(url)
        self.scope = {
            "type": "http",
            "method": method,
            "path": parts.path,
            "raw_path": parts.path.encode(),
            "root_path": root_path,
            "client": (client, 12345),
            "query_string": parts.query.encode(),
            "headers": [
                (k.lower().encode("latin-1"), v.encode("latin-1"))
                for k, v in (headers or {}).items()
            ],
        }
        self._incoming: asyncio.Queue[Any] = asyncio.Queue()
        self._incoming.put_nowait(
            {"type": "http.request", "body": body, "more_body": not whole_body}
        )
        self._changed = asyncio.Condition()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False
        self.task = asyncio.create_task(app(self.scope, self._incoming.get, self._send))

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {
                name.decode("latin-1"): value.decode("latin-1")
                for name, value in message["headers"]
            }
        else:
            self.body += message.get("body", b"")
            self.complete = not message.get("more_body", False)
        async with self._changed:
            self._changed.notify_all()

    @property
    def events(self) -> list[ServerSentEvent]:
        return parse(self.body)

    @property
    def data(self) -> list[str]:
        return [event.data for event in self.events]

    async def until(self, condition: Any) -> Exchange:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: condition(self))
        return self

    async def opened(self) -> Exchange:
        return await self.until(lambda exchange: exchange.body or exchange.complete)

    async def received(self, count: int) -> list[str]:
        await self.until(lambda exchange: len(exchange.events) >= count)
        return self.data

    async def finished(self) -> Exchange:
        async with asyncio.timeout(10):
            await self.task
        return self

    async def leave(self) -> None:
        """Go away as a client does, and wait until the application has noticed."""
        self._incoming.put_nowait({"type": "http.disconnect"})
        await self.finished()


async def request(app: Any, method: str, url: str, **options: Any) -> Exchange:
    """Make a request that is answered as a whole."""
    return await Exchange(app, method, url, **options).finished()


async def subscribe(app: Any, query: str, **options: Any) -> Exchange:
    """Open an event stream."""
    return await Exchange(app, "GET", f"{PATH}?{query}", **options).opened()
