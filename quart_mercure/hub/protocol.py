"""Requests and responses of the Mercure protocol, without I/O.

Bytes that came over HTTP become requests here, or `RequestRejected` with a status and a reason.
This room holds the 0.x protocol; each function names what it reads, so that another version's
parameters stand beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

from ..errors import InvalidMatcher, InvalidUpdate, RequestRejected
from ..update import Update, new_id
from .matchers import MAX_PATTERN_LENGTH, Matcher, parse_selector

MAX_SUBSCRIBE_TOPICS = 1000
MAX_PUBLISH_TOPICS = 1000
MAX_PARAMETERS = 4000
MAX_EVENT_ID_LENGTH = 1024

STREAM_HEADERS = (
    ("content-type", "text/event-stream"),
    ("cache-control", "private, no-cache, no-store, must-revalidate, max-age=0"),
    ("x-accel-buffering", "no"),
)


@dataclass(frozen=True, slots=True)
class Request:
    """What the hub reads of an HTTP request. `path` is below the hub's own, percent-encoded."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]

    def query_values(self, name: str) -> list[str]:
        """Return every value of a query parameter, in order."""
        return [value for key, value in self.query if key == name]


@dataclass(frozen=True, slots=True)
class SubscribeRequest:
    """A wish to receive the updates that `matchers` select, from after `last_event_id` on."""

    matchers: tuple[Matcher, ...]
    last_event_id: str | None


@dataclass(frozen=True, slots=True)
class Response:
    """A whole HTTP response."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


def parse_form(encoded: bytes) -> tuple[tuple[str, str], ...]:
    """Decode `application/x-www-form-urlencoded` text; 400 when it is not UTF-8 or has too much."""
    try:
        pairs = parse_qsl(
            encoded.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )
    except UnicodeDecodeError:
        raise RequestRejected(400, "parameters must be percent-encoded UTF-8") from None
    except ValueError:
        raise RequestRejected(400, f"at most {MAX_PARAMETERS} parameters are read") from None
    return tuple(pairs)


def parse_subscribe(request: Request) -> SubscribeRequest:
    """Read a subscription of the 0.x protocol: its `topic` selectors and last event id."""
    topics = request.query_values("topic")
    if not topics:
        raise RequestRejected(400, 'missing "topic" parameter')
    if len(topics) > MAX_SUBSCRIBE_TOPICS:
        raise RequestRejected(400, f'at most {MAX_SUBSCRIBE_TOPICS} "topic" parameters are read')
    try:
        matchers = tuple(dict.fromkeys(parse_selector(topic) for topic in topics))
    except InvalidMatcher as error:
        raise RequestRejected(400, f'invalid "topic" parameter: {error}') from None
    return SubscribeRequest(matchers, last_event_id(request))


def last_event_id(request: Request) -> str | None:
    """Return the id to replay from: the header, else the query parameter, else `None`."""
    header = request.headers.get("last-event-id")
    if header:
        # Browsers send the id as UTF-8, which servers hand over as Latin-1.
        identifier = header.encode("latin-1", "replace").decode("utf-8", "replace")
    else:
        identifier = next((v for v in request.query_values("lastEventID") if v), "")
    if len(identifier) > MAX_EVENT_ID_LENGTH:
        raise RequestRejected(400, f"a last event id is at most {MAX_EVENT_ID_LENGTH} long")
    return identifier or None


def parse_publish(body: bytes) -> Update:
    """Read a publication of the 0.x protocol. Unknown fields are ignored."""
    form = parse_form(body)
    fields: dict[str, str] = {}
    for name, value in form:
        fields.setdefault(name, value)
    topics = tuple(value for name, value in form if name == "topic")
    if not topics:
        raise RequestRejected(400, 'missing "topic" parameter')
    if len(topics) > MAX_PUBLISH_TOPICS:
        raise RequestRejected(400, f'at most {MAX_PUBLISH_TOPICS} "topic" parameters are read')
    try:
        return Update(
            topics=topics,
            data=fields.get("data", ""),
            private="private" in fields,
            id=fields.get("id") or new_id(),
            type=fields.get("type") or None,
            retry=_parse_retry(fields.get("retry")),
        )
    except InvalidUpdate as error:
        raise RequestRejected(400, str(error)) from None


def _parse_retry(text: str | None) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise InvalidUpdate("retry", "must be a number of milliseconds in ASCII digits")
    return int(text)


def parse_subscriptions_path(path: str) -> tuple[str | None, str | None]:
    """Read `/subscriptions[/topic[/subscriber]]`: each part is percent-decoded once."""
    _, _, *parts = path.split("/")
    if len(parts) > 2 or any(len(part) > MAX_PATTERN_LENGTH for part in parts):
        raise RequestRejected(404, "there is nothing at this path")
    topic, subscriber_id, *_ = [*map(unquote, parts), None, None]
    return topic, subscriber_id


def check_not_reserved(topics: Iterable[str], hub_path: str) -> None:
    """Refuse (403, as 0.x hubs do) topics in the namespace where the hub itself publishes."""
    for topic in topics:
        if hub_path in unquote(topic):
            raise RequestRejected(
                403, f'"topic" is in the namespace reserved for the hub: {hub_path}'
            )


def header_value(identifier: str) -> str:
    """Return an event id as a header value: UTF-8 bytes in the Latin-1 form of ASGI headers."""
    return identifier.encode().decode("latin-1")


def text_response(status: int, text: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """Return a one-line answer in plain text."""
    return Response(
        status, text.encode(), (("content-type", "text/plain; charset=utf-8"), *headers)
    )


def json_response(document: Any, event_id: str, if_none_match: str | None) -> Response:
    """Return a document of the subscriptions API, or 304 when the client's copy is fresh."""
    etag = f'"{header_value(event_id)}"'
    headers = (("etag", etag), ("cache-control", "must-revalidate"))
    if if_none_match is not None and _etag_listed(etag, if_none_match):
        return Response(304, headers=headers)
    body = json.dumps(document, indent=2).encode()
    return Response(200, body, (("content-type", "application/ld+json"), *headers))


def _etag_listed(etag: str, header: str) -> bool:
    listed = {value.strip().removeprefix("W/") for value in header.split(",")}
    # 0.x hubs send, and so their clients return, the bare id.
    return not listed.isdisjoint({"*", etag, etag.strip('"')})


def cors_headers(request: Request, origins: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return the headers that let a page of the request's origin read the answer (Fetch, CORS).

    Only a listed origin may come with credentials; `"*"` lets all others in without.
    """
    origin = request.headers.get("origin")
    if origin is None or not origins:
        return ()
    if origin in origins:
        allowed: tuple[tuple[str, str], ...] = (
            ("access-control-allow-origin", origin),
            ("access-control-allow-credentials", "true"),
        )
    elif "*" in origins:
        allowed = (("access-control-allow-origin", "*"),)
    else:
        return (("vary", "Origin"),)
    exposed = "Last-Event-ID, Mercure-Last-Event-ID, Link, ETag"
    return (*allowed, ("vary", "Origin"), ("access-control-expose-headers", exposed))


def preflight_response(request: Request, methods: tuple[str, ...]) -> Response:
    """Answer a CORS preflight: every header that was asked for may be sent."""
    asked = request.headers.get("access-control-request-headers", "")
    headers = (
        ("allow", ", ".join(methods)),
        ("access-control-allow-methods", ", ".join(methods)),
        ("access-control-allow-headers", asked or "Authorization, Last-Event-ID, Cache-Control"),
        ("access-control-max-age", "600"),
    )
    return Response(204, headers=headers)
