"""Access tokens: minting them, and reading the grants of verified claims. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt

from .errors import InvalidMatcher, InvalidToken
from .hub.matchers import Matcher, any_matches, parse_matcher, parse_selector
from .update import new_id

CLAIM = "mercure"
NAMESPACED_CLAIM = "https://mercure.rocks/"
DETAIL_TYPE = "https://mercure.rocks/authorization-detail"
ACCESS_TOKEN_TYPE = "at+jwt"

MAX_CLAIM_MATCHERS = 1000
"""The most topic matchers that one claim, or one authorization detail, may list."""

MAX_DETAILS = 100
"""The most Mercure authorization details that one token may carry."""


@dataclass(frozen=True, slots=True)
class Payload:
    """What describes a subscriber in those of its subscriptions that `matchers` select."""

    matchers: tuple[Matcher, ...]
    value: Any


@dataclass(frozen=True, slots=True)
class Grants:
    """What a verified token allows its bearer to do.

    `publish` and `subscribe` are topic matchers, or `None` when the token says nothing of that
    action. `expires_at` is in seconds since the epoch, `version` that of the protocol.
    """

    publish: tuple[Matcher, ...] | None = None
    subscribe: tuple[Matcher, ...] | None = None
    payloads: tuple[Payload, ...] = ()
    expires_at: float | None = None
    version: str = "0.x"

    def may_publish(self, topics: Iterable[str]) -> bool:
        """Return whether an update of all of `topics` may be published."""
        return all(any_matches(self.publish or (), (topic,)) for topic in topics)

    def may_receive(self, topics: Iterable[str]) -> bool:
        """Return whether a private update of `topics` may be read: one granted topic is enough."""
        return any_matches(self.subscribe or (), topics)

    def payload_of(self, subscription: Matcher) -> Any:
        """Return the payload of a subscription, or `None`: the first whose matchers select it.

        Its matcher's own text is what is selected, as if it were a topic (specification: Payloads).
        """
        for payload in self.payloads:
            if any_matches(payload.matchers, (subscription.pattern,)):
                return payload.value
        return None


ANONYMOUS = Grants()


def mint(key: str | bytes, claim: Mapping[str, Any], *, algorithm: str = "HS256") -> str:
    """Return a token of the 0.x protocol whose `mercure` claim is `claim`, signed with `key`."""
    return jwt.encode({CLAIM: dict(claim)}, key, algorithm=algorithm)


def mint_access_token(
    key: str | bytes,
    *,
    issuer: str,
    audience: str,
    lifetime: float,
    publish: Sequence[Mapping[str, Any]] = (),
    subscribe: Sequence[Mapping[str, Any]] = (),
    payload: Mapping[str, Any] | None = None,
    claim: Mapping[str, Any] | None = None,
    algorithm: str = "HS256",
) -> str:
    """Return a self-issued access token of protocol 1.0 (RFC 9068) that lives `lifetime` seconds.

    `publish` and `subscribe` are topic matcher objects. A 0.x `claim` beside them lets older hubs
    read the token, too.
    """
    now = int(time.time())
    details: list[dict[str, Any]] = []
    for action, topics in (("publish", publish), ("subscribe", subscribe)):
        if topics:
            detail = {"type": DETAIL_TYPE, "actions": [action], "topics": list(topics)}
            details.append(detail)
    if payload is not None and subscribe:
        details[-1]["payload"] = dict(payload)
    claims: dict[str, Any] = {
        "iss": issuer,
        "aud": audience,
        "sub": issuer,
        "client_id": issuer,
        "iat": now,
        "exp": now + int(lifetime),
        "jti": new_id(),
        "authorization_details": details,
    }
    if claim is not None:
        claims[CLAIM] = dict(claim)
    return jwt.encode(claims, key, algorithm=algorithm, headers={"typ": ACCESS_TOKEN_TYPE})


def is_access_token(header: Mapping[str, Any]) -> bool:
    """Return whether a token's header says that it is one of protocol 1.0 (RFC 9068, 2.1)."""
    media_type = header.get("typ")
    if not isinstance(media_type, str):
        return False
    return media_type.lower().removeprefix("application/") == ACCESS_TOKEN_TYPE


def grants_of_claim(claims: Mapping[str, Any]) -> Grants:
    """Read the `mercure` claim (or its namespaced form, which goes first) of a 0.x token.

    Raises `InvalidToken` when it is malformed: nothing of a malformed claim is acted on.
    """
    claim = claims.get(NAMESPACED_CLAIM, claims.get(CLAIM, {}))
    if not isinstance(claim, Mapping):
        raise InvalidToken("the mercure claim must be an object")
    payload = claim.get("payload")
    return Grants(
        publish=_selectors(claim, "publish"),
        subscribe=_selectors(claim, "subscribe"),
        payloads=() if payload is None else (Payload((parse_selector("*"),), payload),),
        expires_at=claims.get("exp"),
    )


def _selectors(claim: Mapping[str, Any], action: str) -> tuple[Matcher, ...] | None:
    selectors = claim.get(action)
    if selectors is None:
        return None
    if not isinstance(selectors, list) or not all(isinstance(s, str) for s in selectors):
        raise InvalidToken(f"mercure.{action} must be a list of topic selectors")
    if len(selectors) > MAX_CLAIM_MATCHERS:
        raise InvalidToken(f"mercure.{action} lists more than {MAX_CLAIM_MATCHERS} selectors")
    try:
        return tuple(dict.fromkeys(parse_selector(selector) for selector in selectors))
    except InvalidMatcher as error:
        raise InvalidToken(f"mercure.{action}: {error}") from error


def grants_of_details(claims: Mapping[str, Any], base: str) -> Grants:
    """Read the Mercure authorization details of a 1.0 token (specification: Authorization Details).

    Details of other types, and actions that are not known, grant nothing. Raises `InvalidToken`
    when any Mercure detail is malformed: all of them count, or none.
    """
    details = claims.get("authorization_details", [])
    if not isinstance(details, list):
        raise InvalidToken("authorization_details must be a list")
    if not all(isinstance(detail, Mapping) for detail in details):
        raise InvalidToken("an authorization detail must be an object")
    ours = [detail for detail in details if detail.get("type") == DETAIL_TYPE]
    if len(ours) > MAX_DETAILS:
        raise InvalidToken(f"more than {MAX_DETAILS} Mercure authorization details")
    granted: dict[str, list[Matcher]] = {"publish": [], "subscribe": []}
    payloads = []
    for detail in ours:
        actions, matchers, payload = _read_detail(detail, base)
        for action in granted.keys() & actions:
            granted[action].extend(matchers)
        if payload is not None and "subscribe" in actions:
            payloads.append(Payload(matchers, payload))
    return Grants(
        publish=tuple(dict.fromkeys(granted["publish"])),
        subscribe=tuple(dict.fromkeys(granted["subscribe"])),
        payloads=tuple(payloads),
        expires_at=claims.get("exp"),
        version="1.0",
    )


def _read_detail(
    detail: Mapping[str, Any], base: str
) -> tuple[set[str], tuple[Matcher, ...], Mapping[str, Any] | None]:
    actions = detail.get("actions")
    if not isinstance(actions, list) or not actions:
        raise InvalidToken("actions must be a list that is not empty")
    if not all(isinstance(action, str) for action in actions):
        raise InvalidToken("an action must be a string")
    topics = detail.get("topics")
    if not isinstance(topics, list) or not topics:
        raise InvalidToken("topics must be a list that is not empty")
    if len(topics) > MAX_CLAIM_MATCHERS:
        raise InvalidToken(f"topics lists more than {MAX_CLAIM_MATCHERS} matchers")
    payload = detail.get("payload")
    if payload is not None and not isinstance(payload, Mapping):
        raise InvalidToken("a payload must be an object")
    return set(actions), tuple(_read_matcher(topic, base) for topic in topics), payload


def _read_matcher(topic: Any, base: str) -> Matcher:
    if not isinstance(topic, Mapping):
        raise InvalidToken("a topic matcher must be an object")
    text, type_name = topic.get("match"), topic.get("match_type", "exact")
    if not isinstance(text, str) or not isinstance(type_name, str):
        raise InvalidToken("match and match_type of a topic matcher must be strings")
    try:
        return parse_matcher(type_name, text, base)
    except InvalidMatcher as error:
        raise InvalidToken(str(error)) from error
