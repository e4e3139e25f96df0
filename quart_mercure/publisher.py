"""Publishers: a `Hub` is one; others reach a hub over HTTP, or hubs through their transport."""

from __future__ import annotations

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable
from weakref import WeakKeyDictionary

import anyio
import httpx

from .errors import ConfigurationError, PublishError
from .hub.options import HubOptions
from .hub.protocol import refuse_reserved
from .hub.transport import transport_from_url
from .hub.transport.shared import Append, SharedTransport
from .update import Update

logger = logging.getLogger("quart_mercure")

_RETRIED_STATUSES = frozenset({500, 502, 503, 504})
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_MAX_QUOTED = 200


class Publisher(ABC):
    """Takes updates to a hub elsewhere, and returns their identifiers. A `Hub` does the same."""

    @abstractmethod
    async def publish(self, update: Update) -> str:
        """Publish one update."""

    @abstractmethod
    async def publish_many(self, updates: Iterable[Update]) -> list[str]:
        """Publish several, in order."""

    @staticmethod
    def from_url(url: str) -> TransportPublisher:
        """Return a publisher for a process without a hub: straight to the hubs' transport.

        The URL is their `MERCURE_TRANSPORT_URL`. Raises `ConfigurationError` when it is none that
        processes share.
        """
        return TransportPublisher(url)


class TransportPublisher(Publisher):
    """Publishes to a transport that hubs follow: in jobs and scripts, with no hub to ask.

    It connects when first used. It is an asynchronous context manager; or call `aclose`.
    """

    def __init__(self, url: str) -> None:
        self._options = HubOptions(transport_url=url)
        transport = transport_from_url(url, self._options)
        if not isinstance(transport, SharedTransport):
            raise ConfigurationError(
                "MERCURE_TRANSPORT_URL", f"{url} cannot be reached from other processes"
            )
        self._store = transport.store
        self._opened = False

    async def publish(self, update: Update) -> str:
        """Publish one update. Raises `TransportError`, and `InvalidUpdate` for a reserved topic."""
        return (await self.publish_many([update]))[0]

    async def publish_many(self, updates: Iterable[Update]) -> list[str]:
        """Publish several updates in order and together: all of them, or none."""
        updates = tuple(updates)
        for update in updates:
            refuse_reserved(update, self._options)
        if not self._opened:
            await self._store.open()
            self._opened = True
        await self._store.write([Append(update) for update in updates])
        return [update.id for update in updates]

    async def __aenter__(self) -> TransportPublisher:
        """Return the publisher itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""
        await self.aclose()

    async def aclose(self) -> None:
        """Disconnect; the next update connects again."""
        if self._opened:
            self._opened = False
            await self._store.aclose()


class Clients:
    """One pooled HTTP client per event loop, made when first needed."""

    def __init__(self, timeout: float, connections: int) -> None:
        self._timeout = timeout
        self._limits = httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections
        )
        self._of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = (
            WeakKeyDictionary()
        )

    def here(self) -> httpx.AsyncClient:
        """Return the client of the running event loop."""
        loop = asyncio.get_running_loop()
        client = self._of_loop.get(loop)
        if client is None:
            client = httpx.AsyncClient(timeout=self._timeout, limits=self._limits)
            self._of_loop[loop] = client
        return client

    async def aclose(self) -> None:
        """Close the client of the running event loop, if it has one."""
        client = self._of_loop.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()


class HTTPPublisher(Publisher):
    """Publishes to a hub over HTTP.

    Connection errors and the statuses 500, 502, 503 and 504 are tried again up to `retries`
    times, after a growing pause or the hub's `Retry-After`. An update has its identifier before
    the first try, so one that arrived twice can be recognised.
    """

    def __init__(self, hub_url: str, jwt: str, clients: Clients, retries: int = 3) -> None:
        self._hub_url = hub_url
        self._jwt = jwt
        self._clients = clients
        self._retries = retries

    async def publish(self, update: Update) -> str:
        """Publish one update. Raises `PublishError` when the hub does not accept it."""
        form = _form(update)
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            try:
                response = await self._clients.here().post(
                    self._hub_url, data=form, headers={"authorization": f"Bearer {self._jwt}"}
                )
            except httpx.TransportError as error:
                if last:
                    raise PublishError(_unreachable(self._hub_url, error)) from error
                await anyio.sleep(_pause(attempt, None))
                continue
            if response.status_code in _RETRIED_STATUSES and not last:
                await anyio.sleep(_pause(attempt, response.headers.get("retry-after")))
                continue
            return _accepted_id(response, update)
        raise AssertionError("the last try returns or raises")

    async def publish_many(self, updates: Iterable[Update]) -> list[str]:
        """Publish several updates in order, one request each: the protocol knows no batches."""
        return [await self.publish(update) for update in updates]


def _form(update: Update) -> dict[str, str | list[str]]:
    form: dict[str, str | list[str]] = {
        "topic": list(update.topics),
        "data": update.data,
        "id": update.id,
    }
    if update.private:
        form["private"] = "on"
    if update.type:
        form["type"] = update.type
    if update.retry is not None:
        form["retry"] = str(update.retry)
    return form


def _pause(attempt: int, retry_after: str | None) -> float:
    """Return how long to wait before the next try, in seconds, never more than a few."""
    if retry_after is not None and retry_after.isascii() and retry_after.isdigit():
        return min(float(retry_after), _LONGEST_PAUSE)
    longest: float = min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE)
    return random.uniform(longest / 2, longest)


def _unreachable(hub_url: str, error: httpx.TransportError) -> str:
    reason = str(error) or type(error).__name__
    return (
        f"no hub answers at {hub_url} ({reason}): start one there, set MERCURE_HUB_URL, or set "
        "MERCURE_HUB to serve the hub in this application"
    )


def _accepted_id(response: httpx.Response, update: Update) -> str:
    text = response.text.strip()
    if response.is_success:
        return text or update.id
    status = response.status_code
    quoted = text[:_MAX_QUOTED]
    message = f"the hub answered {status}: {quoted}" if quoted else f"the hub answered {status}"
    if status in (401, 403):
        topics = ", ".join(update.topics)
        message += (
            " (the publisher token must be signed with the hub's publisher key"
            f' and grant "publish" on {topics})'
        )
    raise PublishError(message, status, text)
