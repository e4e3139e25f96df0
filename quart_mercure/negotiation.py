"""Which version of the protocol an external hub speaks: asked once, then remembered."""

from __future__ import annotations

import asyncio
import logging
import time
from urllib.parse import urlsplit

import httpx

from .hub.protocol import METADATA_PREFIX
from .publisher import Clients

logger = logging.getLogger("quart_mercure")

_PAUSE = 5.0
"""How long, in seconds, a hub that did not answer is not asked again."""


class Negotiation:
    """Asks a hub for its metadata, which only hubs of protocol 1.0 publish.

    Until a hub has answered, `version` is `"0.x"`, which every stable hub speaks.
    """

    def __init__(self, clients: Clients) -> None:
        self.version = "0.x"
        self._clients = clients
        self._settled = False
        self._asked_at = -_PAUSE

    async def settle(self, hub_url: str, audience: str) -> None:
        """Find out the version, unless that is known or the hub was asked a moment ago.

        `audience` is what tokens will be for; a hub that calls itself otherwise is reported.
        """
        if self._settled or time.monotonic() - self._asked_at < _PAUSE:
            return
        self._asked_at = time.monotonic()
        url = metadata_url(hub_url)
        try:
            response = await self._clients.here().get(url, headers={"accept": "application/json"})
        except httpx.TransportError as error:
            logger.warning("no hub answers at %s (%s): protocol 0.x is spoken", url, error)
            return
        except asyncio.CancelledError:
            self._asked_at = -_PAUSE
            raise
        if response.status_code >= 500:
            logger.warning("%s answered %d: protocol 0.x is spoken", url, response.status_code)
            return
        self._settled = True
        resource = resource_of(response)
        if resource is not None:
            self.version = "1.0"
        if resource not in (None, audience):
            logger.warning(
                "the hub calls itself %r, tokens are for %r: set MERCURE_RESOURCE_IDENTIFIER",
                resource,
                audience,
            )


def metadata_url(hub_url: str) -> str:
    """Return where a hub's metadata is: derived from its URL (RFC 9728, section 3.1)."""
    parts = urlsplit(hub_url)
    return f"{parts.scheme}://{parts.netloc}{METADATA_PREFIX}{parts.path}"


def resource_of(response: httpx.Response) -> str | None:
    """Return the resource identifier in a metadata document; `None` when it is none."""
    if response.status_code != 200:
        return None
    try:
        document = response.json()
    except ValueError:
        return None
    resource = document.get("resource") if isinstance(document, dict) else None
    return resource if isinstance(resource, str) else None
