"""The hub: an ASGI application that speaks the Mercure protocol."""

from .asgi import Hub
from .options import HubOptions

__all__ = ["Hub", "HubOptions"]
