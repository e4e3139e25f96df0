"""`subscribe()`: the updates of any hub as an async iterator, without a gap over reconnections."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

import anyio
import httpx
from httpx_sse import EventSource

from .encryption import decrypt
from .errors import HubUnavailable

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
_REFUSALS = frozenset({400, 401, 403, 404, 405, 415})


@dataclass(frozen=True, slots=True)
class ReceivedUpdate:
    """An update as a subscriber receives it: the topics it was published to are not told."""

    data: str
    id: str
    type: str


async def subscribe(
    hub_url: str,
    topics: Iterable[str],
    *,
    jwt: str | None = None,
    last_event_id: str | None = None,
    parameter: str = "topic",
    decryption_key: Any = None,
    client: httpx.AsyncClient | None = None,
) -> AsyncIterator[ReceivedUpdate]:
    """Yield the updates of topics at a hub, for ever.

    A connection that ends, or cannot be made, is made again after the pause that the hub asked for
    (or a growing one), from the last event id on. `parameter` is what selects the topics: `topic`
    in protocol 0.x; `match` or `match_urlpattern` in 1.0. With `decryption_key` (a JWK or a JWK
    set), the data of every update is decrypted.

    Raises `HubUnavailable` when the hub refuses, and `DecryptionError` for data that the key does
    not open.
    """
    url = httpx.URL(hub_url).copy_merge_params({parameter: list(topics)})
    pause = _FIRST_PAUSE
    async with client or httpx.AsyncClient(timeout=httpx.Timeout(10, read=None)) as http:
        while True:
            headers = {"accept": "text/event-stream"}
            if jwt is not None:
                headers["authorization"] = f"Bearer {jwt}"
            if last_event_id is not None:
                headers["last-event-id"] = last_event_id
            try:
                async with http.stream("GET", url, headers=headers) as response:
                    await _check(response)
                    pause = _FIRST_PAUSE
                    async for event in EventSource(response).aiter_sse():
                        if event.retry is not None:
                            pause = event.retry / 1000
                            if not event.data and event.id in ("", last_event_id):
                                continue  # only a time to come back
                        last_event_id = event.id or last_event_id
                        data = event.data
                        if decryption_key is not None:
                            data = decrypt(data, decryption_key)
                        yield ReceivedUpdate(data, event.id, event.event)
            except httpx.TransportError:
                pass
            await anyio.sleep(random.uniform(pause / 2, pause))
            pause = min(pause * 2, _LONGEST_PAUSE)


async def _check(response: httpx.Response) -> None:
    """Raise `HubUnavailable` for a refusal; `httpx.TransportError` for what may pass."""
    if response.status_code == 200:
        return
    text = (await response.aread())[:200].decode(errors="replace")
    if response.status_code in _REFUSALS:
        raise HubUnavailable(f"the hub answered {response.status_code}: {text}")
    raise httpx.RemoteProtocolError(f"the hub answered {response.status_code}: {text}")
