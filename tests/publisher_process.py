"""A process that publishes without end and sends on each identifier that is acknowledged."""

from __future__ import annotations

import asyncio
from multiprocessing.connection import Connection

from quart_mercure import HubOptions, TransportError, Update
from quart_mercure.hub.transport import postgresql, redis, sqlite, transport_from_url

_LOADED = (postgresql, redis, sqlite)
"""Loaded before the first process begins, so that each begins at once."""


def run(url: str, name: str, pipe: Connection) -> None:
    """Publish `name`-0, `name`-1, ... until killed, or until the server is."""
    asyncio.run(_publish(url, name, pipe))


async def _publish(url: str, name: str, pipe: Connection) -> None:
    transport = transport_from_url(url, HubOptions())
    number = 0
    while True:
        identifier = f"{name}-{number}"
        try:
            await transport.publish([Update(topics=("a",), id=identifier, data="x" * 200)])
        except TransportError:
            await asyncio.sleep(60)  # to be killed: the update's fate is not known
        pipe.send_bytes(identifier.encode())
        number += 1
