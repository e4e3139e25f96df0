"""The embedded hub's place: in front of an application, which then pays nothing for its streams."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from .errors import TransportError
from .hub import Hub

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]


class HubInFront:
    """Hands the requests that are the hub's to the hub, and all others to the application.

    `hub` is asked at each request, because an application may be put in debug mode after it was
    made. `on_shutdown` is awaited when the application has ended.
    """

    def __init__(
        self,
        app: ASGIApp,
        hub: Callable[[], Hub | None],
        on_shutdown: Callable[[], Awaitable[None]],
    ) -> None:
        self._app = app
        self._hub = hub
        self._on_shutdown = on_shutdown

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "http" and (hub := self._hub_of(scope)) is not None:
            await hub(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _hub_of(self, scope: Any) -> Hub | None:
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        if not path.startswith("/.well-known/"):
            return None
        hub = self._hub()
        return hub if hub is not None and hub.serves(path) else None

    async def _lifespan(self, scope: Any, receive: Any, send: Any) -> None:
        """Start the hub before the application and end its streams before it, too.

        A hub whose transport cannot be reached lets the server not start.
        """
        first = [await receive()]
        hub = self._hub()
        if hub is not None:
            try:
                await hub.open()
            except TransportError as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return

        async def received() -> Any:
            message = first.pop() if first else await receive()
            hub = self._hub()
            if hub is not None and message["type"] == "lifespan.shutdown":
                await hub.aclose()
            return message

        async def sent(message: Any) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self._on_shutdown()
            await send(message)

        await self._app(scope, received, sent)
