"""Transports: where updates are kept for clients that come back, and how they reach every hub.

A transport gives every update a *position* in one order, calls the broker's `deliver` with each
event in that order, and replays from any identifier it still knows. `Transport` is all that a hub
needs of one; `shared.SharedTransport` is most of one for hubs in several processes, over anything
that can keep a log (see `shared.Store`).

`transport_from_url` chooses by the URL's scheme. Another package adds a scheme of its own with an
entry point in the group `quart_mercure.transports` that names a function like those below: it
takes the URL and the `HubOptions`, and returns a transport.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from ...errors import ConfigurationError
from ...update import Update
from ..events import Event

if TYPE_CHECKING:
    from ..options import HubOptions

__all__ = ["Deliver", "Event", "Replay", "Subscription", "Transport", "transport_from_url"]

Deliver = Callable[[Sequence[Event]], None]


@dataclass(frozen=True, slots=True)
class Replay:
    """What happened after an identifier, oldest first, read as it is needed.

    `preceding_id` is the identifier of the event before the first: the one asked for, or
    `"earliest"` when that is not known any more (specification: Reconciliation).
    """

    preceding_id: str
    chunks: AsyncIterator[Sequence[Event]]


@dataclass(frozen=True, slots=True)
class Subscription:
    """One active subscription as other hubs see it.

    `type` and `pattern` are those of its matcher, `document` what the subscriptions API tells of
    it, and `farewell` the update that announces its end, should its hub not live to do that.
    """

    version: str
    type: str
    pattern: str
    document: dict[str, Any]
    farewell: Update


class Transport(Protocol):
    """What a hub needs of a transport. All of it is called on the hub's event loop.

    What keeps updates elsewhere raises `TransportError` when it cannot: nothing of the call has
    taken effect then, or all of it has and only the answer was lost.
    """

    @property
    def position(self) -> int:
        """The position of the last event delivered; 0 before the first."""

    @property
    def last_event_id(self) -> str:
        """The identifier of the last event delivered; `"earliest"` before the first."""

    def connect(self, deliver: Deliver, interrupt: Callable[[], None]) -> None:
        """Call `deliver` with all events from now on, in order.

        Call `interrupt` when events are missing from that order, because they were forgotten
        before they could be read: subscribers then have to begin anew.
        """

    async def open(self) -> None:
        """Begin to deliver; does nothing when that has begun. Other calls do it themselves."""

    async def publish(self, updates: Sequence[Update]) -> None:
        """Keep an application's updates and deliver them, in order and without others between."""

    async def enter(
        self,
        subscriber_id: str,
        subscriptions: Sequence[Subscription],
        announcements: Sequence[Update],
    ) -> None:
        """Let other hubs know of a subscriber, and announce it.

        Announcements are kept apart from the applications' updates.
        """

    async def leave(self, subscriber_id: str, announcements: Sequence[Update]) -> None:
        """Let other hubs forget a subscriber, and announce that."""

    async def subscriptions(
        self, version: str, matcher: tuple[str, str] | None, subscriber_id: str | None
    ) -> list[dict[str, Any]] | None:
        """Return the documents of the subscriptions of all hubs, in a version of the protocol.

        They can be limited to those of a matcher (its type and pattern) and of a subscriber.
        `None` means that the hub itself knows all there are.
        """

    async def replay(self, after: str, until: int) -> Replay:
        """Return the kept events after the identifier `after`, up to the position `until`.

        When `after` is `"earliest"` or not known, those are all: an identifier is forgotten only
        after every event before it has been.
        """

    async def aclose(self) -> None:
        """Let go of whatever is held open. The transport can be opened again."""


def _memory(_url: str, options: HubOptions) -> Transport:
    from .memory import MemoryTransport

    return MemoryTransport(options.reconciliation_length)


def _sqlite(url: str, _options: HubOptions) -> Transport:
    from .shared import SharedTransport
    from .sqlite import store_from_url

    return SharedTransport(store_from_url(url))


def _redis(url: str, _options: HubOptions) -> Transport:
    from .redis import store_from_url
    from .shared import SharedTransport

    return SharedTransport(store_from_url(url))


def _postgresql(url: str, _options: HubOptions) -> Transport:
    from .postgresql import store_from_url
    from .shared import SharedTransport

    return SharedTransport(store_from_url(url))


_BUILT_IN: dict[str, Callable[[str, HubOptions], Transport]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "redis": _redis,
    "rediss": _redis,
    "postgresql": _postgresql,
    "postgres": _postgresql,
}


def transport_from_url(url: str, options: HubOptions) -> Transport:
    """Return the transport that a URL names.

    Raises `ConfigurationError` for a scheme that nobody knows, a package that is not installed,
    and a parameter that cannot be right.
    """
    scheme = urlsplit(url).scheme
    factory = _BUILT_IN.get(scheme)
    if factory is None:
        found = {each.name: each for each in entry_points(group="quart_mercure.transports")}
        if scheme not in found:
            known = ", ".join(sorted({*_BUILT_IN, *found}))
            raise ConfigurationError(
                "MERCURE_TRANSPORT_URL", f"{scheme}:// is no transport; there are {known}"
            )
        factory = found[scheme].load()
    try:
        return factory(url, options)
    except ImportError as error:
        raise ConfigurationError(
            "MERCURE_TRANSPORT_URL",
            f"{scheme}:// needs: pip install 'quart-mercure[{scheme}]' ({error})",
        ) from error
    except ValueError as error:
        raise ConfigurationError("MERCURE_TRANSPORT_URL", str(error)) from error
