"""Server push for Quart over the Mercure protocol, with a hub in the process."""

from .config import MercureConfig
from .errors import (
    ConfigurationError,
    DecryptionError,
    HubUnavailable,
    InvalidMatcher,
    InvalidToken,
    InvalidUpdate,
    MercureError,
    PublishError,
    RequestRejected,
    SubscriptionNotFound,
    TransportError,
)
from .extension import MercureSSE, mercure_publish, publish_signal
from .hub import Hub, HubOptions
from .publisher import HTTPPublisher, Publisher, TransportPublisher
from .subscriber import ReceivedUpdate, subscribe
from .topics import URLPattern, as_topic
from .update import Update

__version__ = "0.1.0"

__all__ = [
    "ConfigurationError",
    "DecryptionError",
    "HTTPPublisher",
    "Hub",
    "HubOptions",
    "HubUnavailable",
    "InvalidMatcher",
    "InvalidToken",
    "InvalidUpdate",
    "MercureConfig",
    "MercureError",
    "MercureSSE",
    "PublishError",
    "Publisher",
    "ReceivedUpdate",
    "RequestRejected",
    "SubscriptionNotFound",
    "TransportError",
    "TransportPublisher",
    "URLPattern",
    "Update",
    "as_topic",
    "mercure_publish",
    "publish_signal",
    "subscribe",
]
