"""Access tokens: minting them, and reading the grants of verified claims. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from .errors import InvalidMatcher, InvalidToken
from .hub.matchers import Matcher, any_matches, parse_selector

CLAIM = "mercure"
NAMESPACED_CLAIM = "https://mercure.rocks/"
MAX_CLAIM_MATCHERS = 1000
"""The most topic selectors that one claim may list."""


@dataclass(frozen=True, slots=True)
class Grants:
    """What a verified token allows its bearer to do.

    `publish` and `subscribe` are topic matchers, or `None` when the token says nothing of that
    action. `payload` describes the bearer to those who may see its subscriptions; `expires_at`
    is in seconds since the epoch.
    """

    publish: tuple[Matcher, ...] | None = None
    subscribe: tuple[Matcher, ...] | None = None
    payload: Any = None
    expires_at: float | None = None

    def may_publish(self, topics: Iterable[str]) -> bool:
        """Return whether an update of all of `topics` may be published."""
        return all(any_matches(self.publish or (), (topic,)) for topic in topics)

    def may_receive(self, topics: Iterable[str]) -> bool:
        """Return whether a private update of `topics` may be read: one granted topic is enough."""
        return any_matches(self.subscribe or (), topics)


ANONYMOUS = Grants()


def mint(key: str | bytes, claim: Mapping[str, Any], *, algorithm: str = "HS256") -> str:
    """Return a token of the 0.x protocol whose `mercure` claim is `claim`, signed with `key`."""
    return jwt.encode({CLAIM: dict(claim)}, key, algorithm=algorithm)


def grants_of(claims: Mapping[str, Any]) -> Grants:
    """Read the `mercure` claim (or its namespaced form, which goes first) of verified claims.

    Raises `InvalidToken` when it is malformed: nothing of a malformed claim is acted on.
    """
    claim = claims.get(NAMESPACED_CLAIM, claims.get(CLAIM, {}))
    if not isinstance(claim, Mapping):
        raise InvalidToken("the mercure claim must be an object")
    return Grants(
        publish=_matchers(claim, "publish"),
        subscribe=_matchers(claim, "subscribe"),
        payload=claim.get("payload"),
        expires_at=claims.get("exp"),
    )


def _matchers(claim: Mapping[str, Any], action: str) -> tuple[Matcher, ...] | None:
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
