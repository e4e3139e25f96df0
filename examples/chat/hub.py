"""A hub of its own for the chat, in another process.

hypercorn --bind localhost:5500 examples.chat.hub:hub
QUART_MERCURE_HUB_URL=http://localhost:5500/.well-known/mercure make chat
"""

import os

from quart_mercure import Hub, HubOptions

from .app import app

hub = Hub(
    HubOptions(
        subscriber_key=app.config["SECRET_KEY"],
        publisher_key=app.config["SECRET_KEY"],
        resource_identifier=os.environ.get("CHAT_HUB_URL"),
        cors_origins=tuple(
            os.environ.get("CHAT_ORIGINS", "http://localhost:5000 http://127.0.0.1:5000").split()
        ),
    )
)
