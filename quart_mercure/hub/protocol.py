"""Requests and responses of the Mercure protocol, without I/O.

Bytes that came over HTTP become requests here, or `RequestRejected` with a status and a reason.
Both versions of the protocol are read side by side; where they differ, the function says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from ..errors import InvalidMatcher, InvalidUpdate, RequestRejected
from ..tokens import DETAIL_TYPE
from ..update import Update, new_id
from .matchers import (
    MAX_PATTERN_LENGTH,
    Matcher,
    MatcherType,
    parse_matcher,
    parse_selector,
    resolved_path,
)
from .options import HubOptions

MAX_SUBSCRIBE_MATCHERS = 1000
MAX_PUBLISH_TOPICS = 1000
MAX_TOPIC_LENGTH = 4096
MAX_PARAMETERS = 4000
MAX_EVENT_ID_LENGTH = 1024

RESERVED_TYPE = "mercure"
FORM = "application/x-www-form-urlencoded"
METADATA_PREFIX = "/.well-known/oauth-protected-resource"

_HEADER_NAMES = re.compile(r"[\w\-., ]{0,1000}", re.ASCII)
_HOST = re.compile(r"[\w\-.:\[\]]{1,255}", re.ASCII)

_MATCH_PARAMETERS = {
    "match": MatcherType.EXACT.value,
    "match_exact": MatcherType.EXACT.value,
    "match_urlpattern": MatcherType.URL_PATTERN.value,
}

STREAM_HEADERS = (
    ("content-type", "text/event-stream"),
    ("cache-control", "private, no-cache, no-store, must-revalidate, max-age=0"),
    ("x-accel-buffering", "no"),
)


@dataclass(frozen=True, slots=True)
class Request:
    """What the hub reads of an HTTP request. `path` is below the hub's own, percent-encoded."""

    method: str
    scheme: str
    client: str | None
    path: str
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]

    def query_values(self, name: str) -> list[str]:
        """Return every value of a query parameter, in order."""
        return [value for key, value in self.query if key == name]


@dataclass(frozen=True, slots=True)
class SubscribeRequest:
    """A wish to receive the updates that `matchers` select, from after `last_event_id` on.

    `versions` are those of the protocol whose parameters it uses.
    """

    matchers: tuple[Matcher, ...]
    last_event_id: str | None
    versions: frozenset[str] = frozenset({"0.x"})


@dataclass(frozen=True, slots=True)
class Response:
    """A whole HTTP response."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


def parse_form(encoded: bytes, too_many: int = 400) -> tuple[tuple[str, str], ...]:
    """Decode `application/x-www-form-urlencoded` text; 400 when it is not UTF-8.

    `too_many` is the status for more parameters than are read.
    """
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
        raise RequestRejected(too_many, f"at most {MAX_PARAMETERS} parameters are read") from None
    return tuple(pairs)


def parse_subscribe(
    request: Request, options: HubOptions, body: tuple[tuple[str, str], ...] = ()
) -> SubscribeRequest:
    """Read a subscription: the union of the query and of the form in the body of a `QUERY`.

    0.x gives topic selectors in `topic`; 1.0 gives matchers in `match`, `match_exact` and
    `match_urlpattern`, and reserves every other name that begins with `match`.
    """
    matchers: list[Matcher] = []
    versions: set[str] = set()
    for name, value in (*request.query, *body):
        if name == "topic" and "0.x" in options.protocols:
            versions.add("0.x")
            matchers.append(_read_matcher(name, value, options))
        elif name[:5].lower() == "match" and "1.0" in options.protocols:
            versions.add("1.0")
            matchers.append(_read_matcher(name, value, options))
    if not matchers:
        names = {"0.x": '"topic"', "1.0": '"match"'}
        wanted = " or ".join(names[version] for version in sorted(options.protocols))
        raise RequestRejected(400, f"missing {wanted} parameter")
    if len(matchers) > MAX_SUBSCRIBE_MATCHERS:
        raise RequestRejected(400, f"at most {MAX_SUBSCRIBE_MATCHERS} topic matchers are read")
    identifier = last_event_id(request, options, body)
    return SubscribeRequest(tuple(dict.fromkeys(matchers)), identifier, frozenset(versions))


def _read_matcher(name: str, value: str, options: HubOptions) -> Matcher:
    try:
        if name == "topic":
            return parse_selector(value)
        if name not in _MATCH_PARAMETERS:
            raise RequestRejected(400, f"{name[:100]!r} is no parameter of a known matcher type")
        return parse_matcher(_MATCH_PARAMETERS[name], value, options.base)
    except InvalidMatcher as error:
        raise RequestRejected(400, f'invalid "{name}" parameter: {str(error)[:300]}') from None


def last_event_id(
    request: Request, options: HubOptions, body: tuple[tuple[str, str], ...] = ()
) -> str | None:
    """Return the id to replay from, or `None`; the header goes before the query, then the body."""
    header = request.headers.get("last-event-id")
    if header:
        # Browsers send the id as UTF-8, which servers hand over as Latin-1.
        identifier = header.encode("latin-1", "replace").decode("utf-8", "replace")
    else:
        by_version = {"1.0": "last_event_id", "0.x": "lastEventID"}
        names = {name for version, name in by_version.items() if version in options.protocols}
        given = (value for name, value in (*request.query, *body) if name in names)
        identifier = next(filter(None, given), "")
    if len(identifier) > MAX_EVENT_ID_LENGTH:
        raise RequestRejected(400, f"a last event id is at most {MAX_EVENT_ID_LENGTH} long")
    return identifier or None


def event_id_headers(wanted: SubscribeRequest, preceding_id: str) -> tuple[tuple[str, str], ...]:
    """Return the response fields that say after which event a replay begins."""
    names = {"0.x": "last-event-id", "1.0": "mercure-last-event-id"}
    value = header_value(preceding_id)
    return tuple((names[version], value) for version in sorted(wanted.versions))


def parse_publish(body: bytes, options: HubOptions, version: str) -> Update:
    """Read a publication. Unknown fields are ignored.

    What must not be published whoever asks is refused here: with 400 in 1.0, and with 403 for the
    hub's own topics in 0.x. Too much is 413 in 1.0, and 400 in 0.x.
    """
    too_much = 413 if version == "1.0" else 400
    form = parse_form(body, too_many=too_much)
    fields: dict[str, str] = {}
    for name, value in form:
        fields.setdefault(name, value)
    topics = tuple(value for name, value in form if name == "topic")
    if not topics:
        raise RequestRejected(400, 'missing "topic" parameter')
    if len(topics) > MAX_PUBLISH_TOPICS:
        raise RequestRejected(too_much, f'at most {MAX_PUBLISH_TOPICS} "topic" fields are read')
    if max(map(len, topics)) > MAX_TOPIC_LENGTH:
        raise RequestRejected(too_much, f"a topic is at most {MAX_TOPIC_LENGTH} characters long")
    for name in ("id", "type"):
        if len(fields.get(name, "")) > MAX_EVENT_ID_LENGTH:
            raise RequestRejected(too_much, f'"{name}" is at most {MAX_EVENT_ID_LENGTH} long')
    try:
        update = Update(
            topics=topics,
            data=fields.get("data", ""),
            private="private" in fields,
            id=fields.get("id") or new_id(),
            type=fields.get("type") or None,
            retry=_parse_retry(fields.get("retry")),
        )
        refuse_reserved_type(update, options)
    except InvalidUpdate as error:
        raise RequestRejected(400, str(error)) from None
    try:
        refuse_reserved_topics(update, options)
    except InvalidUpdate as error:
        raise RequestRejected(400 if version == "1.0" else 403, str(error)) from None
    return update


def _parse_retry(text: str | None) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise InvalidUpdate("retry", "must be a number of milliseconds in ASCII digits")
    return int(text)


def refuse_reserved(update: Update, options: HubOptions) -> None:
    """Raise `InvalidUpdate` for what only the hub itself may publish."""
    refuse_reserved_topics(update, options)
    refuse_reserved_type(update, options)


def refuse_reserved_type(update: Update, options: HubOptions) -> None:
    """Raise `InvalidUpdate` for the event type of the hub's own events in 1.0."""
    if update.type == RESERVED_TYPE and "1.0" in options.protocols:
        raise InvalidUpdate("type", f'must not be "{RESERVED_TYPE}", reserved for the hub')


def refuse_reserved_topics(update: Update, options: HubOptions) -> None:
    """Raise `InvalidUpdate` for topics in the namespace where the hub itself publishes.

    Topics are resolved first, so that no spelling of the path gets by; any mention of it is
    refused where 0.x is served, whose matchers do not resolve.
    """
    anywhere = "0.x" in options.protocols
    if any(_is_reserved(topic, options.base, options.path, anywhere) for topic in update.topics):
        raise InvalidUpdate("topic", f"is in the namespace reserved for the hub: {options.path}")


@lru_cache(maxsize=4096)
def _is_reserved(topic: str, base: str, hub_path: str, anywhere: bool) -> bool:
    path = resolved_path(topic, base)
    if path is not None and (path == hub_path or path.startswith(f"{hub_path}/")):
        return True
    return anywhere and hub_path in unquote(topic)


@dataclass(frozen=True, slots=True)
class SubscriptionsRequest:
    """A question about subscriptions: about all, those of a matcher, or one."""

    version: str
    matcher: Matcher | None = None
    subscriber_id: str | None = None


def parse_subscriptions_path(path: str, options: HubOptions, version: str) -> SubscriptionsRequest:
    """Read `/subscriptions...`; each part is percent-decoded once.

    1.0 has `/{match_type}/{match}[/{subscriber}]`, 0.x `/{topic}[/{subscriber}]`; the list of all
    is in the form of the version of the client's token.
    """
    _, _, *parts = path.split("/")
    if any(len(part) > 3 * MAX_PATTERN_LENGTH for part in parts):
        raise RequestRejected(404, "there is nothing at this path")
    first, *others = [unquote(part) for part in parts] or [""]
    try:
        if not parts:
            return SubscriptionsRequest(version)
        if "1.0" in options.protocols and first in _MATCH_PARAMETERS.values() and others:
            matcher = parse_matcher(first, others.pop(0), options.base)
            version = "1.0"
        elif "0.x" in options.protocols:
            matcher = parse_selector(first)
            version = "0.x"
        else:
            raise RequestRejected(404, "there is nothing at this path")
    except InvalidMatcher as error:
        raise RequestRejected(404, str(error)) from None
    if len(others) > 1:
        raise RequestRejected(404, "there is nothing at this path")
    return SubscriptionsRequest(version, matcher, others[0] if others else None)


def header_value(identifier: str) -> str:
    """Return an event id as a header value: UTF-8 bytes in the Latin-1 form of ASGI headers."""
    return identifier.encode().decode("latin-1")


def text_response(status: int, text: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """Return a one-line answer in plain text."""
    return Response(
        status, text.encode(), (("content-type", "text/plain; charset=utf-8"), *headers)
    )


def error_response(request: Request | None, error: RequestRejected) -> Response:
    """Return a refusal: problem details (RFC 9457) for clients that accept JSON, else one line."""
    accept = "" if request is None else request.headers.get("accept", "")
    if "json" not in accept:
        return text_response(error.status, error.reason, error.headers)
    problem = {
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.reason,
    }
    headers = (("content-type", "application/problem+json"), *error.headers)
    return Response(error.status, json.dumps(problem).encode(), headers)


def challenge(
    request: Request, options: HubOptions, error: str | None = None
) -> tuple[tuple[str, str], ...]:
    """Return the challenge of a 401 or 403 (RFC 6750, section 3), which points at the metadata."""
    parameters = []
    if error is not None:
        parameters.append(f'error="{error}"')
    if "1.0" in options.protocols:
        parameters.append(f'resource_metadata="{metadata_url(request, options)}"')
    value = f"Bearer {', '.join(parameters)}" if parameters else "Bearer"
    return (("www-authenticate", value),)


def metadata_path(options: HubOptions) -> str:
    """Return where the hub's metadata is: derived from the hub's path (RFC 9728, section 3.1)."""
    return f"{METADATA_PREFIX}{options.path}"


def metadata_url(request: Request, options: HubOptions) -> str:
    """Return the URL of the hub's metadata, on the host that the client knows."""
    if options.url is not None:
        parts = urlsplit(options.url)
        return f"{parts.scheme}://{parts.netloc}{METADATA_PREFIX}{parts.path}"
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        host = "localhost"
    return f"{request.scheme}://{host}{metadata_path(options)}"


def metadata_response(options: HubOptions) -> Response:
    """Return what the hub is and understands (RFC 9728; specification: Discovery)."""
    document: dict[str, Any] = {
        "resource": options.audience,
        "authorization_details_types_supported": [DETAIL_TYPE],
        "bearer_methods_supported": ["header"],
        "mercure_cookie": options.access_token_cookie_name,
        "mercure_matcher_types_supported": sorted(set(_MATCH_PARAMETERS.values())),
    }
    if options.issuers:
        document["authorization_servers"] = [issuer for issuer, _ in options.issuers]
    if options.subscriptions:
        document["mercure_subscriptions"] = True
    headers = (("content-type", "application/json"), ("cache-control", "max-age=3600"))
    return Response(200, json.dumps(document, indent=2).encode(), headers)


def document_response(
    request: Request, options: HubOptions, document: Any, event_id: str, version: str
) -> Response:
    """Return a document of the subscriptions API, or 304 when the client's copy is fresh."""
    etag = f'"{header_value(event_id)}"'
    headers: tuple[tuple[str, str], ...] = (("etag", etag), ("cache-control", "must-revalidate"))
    if version == "1.0":
        link = (
            f'<{options.url or options.path}>; rel="mercure"; last-event-id={etag}; '
            'type="mercure"; content-type="application/json"'
        )
        headers = (*headers, ("link", link))
    if_none_match = request.headers.get("if-none-match")
    if if_none_match is not None and _etag_listed(etag, if_none_match):
        return Response(304, headers=headers)
    media_type = "application/json" if version == "1.0" else "application/ld+json"
    body = json.dumps(document, indent=2).encode()
    return Response(200, body, (("content-type", media_type), *headers))


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
    if not _HEADER_NAMES.fullmatch(asked):
        asked = ""
    headers = (
        ("allow", ", ".join(methods)),
        ("access-control-allow-methods", ", ".join(methods)),
        ("access-control-allow-headers", asked or "Authorization, Last-Event-ID, Cache-Control"),
        ("access-control-max-age", "600"),
    )
    return Response(204, headers=headers)
