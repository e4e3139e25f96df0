"""A hub alone, for the conformance suite."""

from __future__ import annotations

from quart_mercure import Hub, HubOptions
from tests.conftest import SECRET

AUDIENCE = "https://hub.example/.well-known/mercure"
hub = Hub(HubOptions(subscriber_key=SECRET, publisher_key=SECRET, url=AUDIENCE))
