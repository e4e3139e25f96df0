"""A process that publishes without end and writes each acknowledged identifier to a pipe."""

from __future__ import annotations

import asyncio
import os

from quart_mercure import HubOptions, TransportError, Update
from quart_mercure.hub.transport import transport_from_url


def run(url: str, name: str, pipe: int) -> None:
    """Publish `name`-0, `name`-1, ... until killed, or until the server is."""
    asyncio.run(_publish(url, name, pipe))


async def _publish(url: str, name: str, pipe: int) -> None:
    transport = transport_from_url(url, HubOptions())
    number = 0
    while True:
        identifier = f"{name}-{number}"
        try:
            await transport.publish([Update(topics=("a",), id=identifier, data="x" * 200)])
        except TransportError:
            await asyncio.sleep(60)  # to be killed: the update's fate is not known
        os.write(pipe, f"{identifier}\n".encode())
        number += 1
