"""The errors of quart-mercure: all are `MercureError`."""

from __future__ import annotations


class MercureError(Exception):
    """The base of every error that quart-mercure raises on purpose."""


class ConfigurationError(MercureError):
    """An option is missing, unknown or malformed; `key` names it as in `app.config`."""

    def __init__(self, key: str, rule: str) -> None:
        super().__init__(f"{key}: {rule}")
        self.key = key
        self.rule = rule


class InvalidUpdate(MercureError, ValueError):
    """A field of an update breaks a rule of the protocol."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f'"{field}" {rule}')
        self.field = field
        self.rule = rule


class InvalidMatcher(MercureError, ValueError):
    """A topic matcher cannot be read."""


class InvalidToken(MercureError):
    """A token is malformed, badly signed, expired or not yet valid."""


class RequestRejected(MercureError):
    """A hub refuses a request, with an HTTP status code and a one-line reason."""

    def __init__(self, status: int, reason: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers


class HubUnavailable(MercureError):
    """A hub could not be asked: no connection, no answer in time, or an error of its own."""


class TransportError(MercureError):
    """A transport cannot keep or read updates now: its file, disk, server or network fails."""


class SubscriptionNotFound(MercureError, LookupError):
    """A hub has no such subscription."""


class DecryptionError(MercureError):
    """An update's data is not encrypted, or not for the key at hand."""


class PublishError(MercureError):
    """A hub did not accept an update.

    `status` is the hub's HTTP status code, or `None` when it could not be reached;
    `text` is what it answered.
    """

    def __init__(self, message: str, status: int | None = None, text: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.text = text
