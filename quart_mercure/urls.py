"""The scope of the authorization cookie, and the links of discovery. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from .errors import InvalidUpdate
from .hub.protocol import RESERVED_TYPE
from .update import check_text


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


def discovery_links(
    hub_url: str,
    topic: str | None,
    *,
    last_event_id: str | None = None,
    type: str | None = None,
    content_type: str | None = None,
) -> tuple[str, ...]:
    """Return the `Link` header values by which clients find the hub and the topic of a resource.

    Specification: Discovery. Raises `InvalidUpdate` for an attribute with control characters, and
    for the event type that is reserved for the hub.
    """
    if type == RESERVED_TYPE:
        raise InvalidUpdate("type", f'must not be "{RESERVED_TYPE}", reserved for the hub')
    attributes = ['rel="mercure"']
    given = (("last-event-id", last_event_id), ("type", type), ("content-type", content_type))
    for name, value in given:
        if value is not None:
            check_text(name, value)
            attributes.append(f'{name}="{_quoted(value)}"')
    links = [f"<{_target(hub_url)}>; {'; '.join(attributes)}"]
    if topic is not None:
        links.append(f'<{_target(topic)}>; rel="self"')
    return tuple(links)


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _target(url: str) -> str:
    """Return a URL, or a topic, with what may not stand in a `Link` percent-encoded."""
    return quote(url, safe="%/:?#[]@!$&'()*+,;=~-._")
