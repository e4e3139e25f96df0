"""Our hub as an ASGI application, for servers started by their own command."""

from __future__ import annotations

from benchmarks.targets import SECRET
from quart_mercure import Hub, HubOptions

hub = Hub(HubOptions(publisher_key=SECRET, subscriber_key=SECRET))
