"""Subscribe URLs and the scope of the authorization cookie. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit


def subscribe_url(
    hub_url: str,
    topics: Iterable[str] = (),
    *,
    jwt: str | None = None,
    last_event_id: str | None = None,
) -> str:
    """Return the URL to subscribe to topic selectors at a hub (0.x protocol)."""
    parameters = [("topic", topic) for topic in topics]
    if last_event_id is not None:
        parameters.append(("lastEventID", last_event_id))
    if jwt is not None:
        parameters.append(("authorization", jwt))
    return f"{hub_url}?{urlencode(parameters)}" if parameters else hub_url


@dataclass(frozen=True, slots=True)
class CookieScope:
    """Where browsers send the authorization cookie."""

    domain: str | None
    path: str
    secure: bool


def cookie_scope(hub_url: str, app_host: str | None, *, app_is_secure: bool) -> CookieScope:
    """Return the narrowest scope in which an application's cookie reaches the hub.

    A hub on the application's own host needs no `Domain`. On another host they must share a
    parent domain, which is then the cookie's.
    """
    parts = urlsplit(hub_url)
    if not parts.hostname:  # relative: the hub is in this application
        return CookieScope(None, parts.path, app_is_secure)
    domain = None
    if app_host is not None and parts.hostname != app_host:
        domain = _common_parent(parts.hostname, app_host)
    return CookieScope(domain, parts.path or "/", parts.scheme == "https")


def _common_parent(one: str, other: str) -> str:
    """Return the longest domain that both hosts are in, or the first host when there is none."""
    shared: list[str] = []
    for left, right in zip(reversed(one.split(".")), reversed(other.split(".")), strict=False):
        if left != right:
            break
        shared.insert(0, left)
    return ".".join(shared) if len(shared) > 1 else one
