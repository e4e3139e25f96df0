"""What an application says to a hub in each version of the protocol. Pure.

`MERCURE_PROTOCOL_VERSION` chooses; everything else in the extension is the same in both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol
from urllib.parse import urlencode

from .config import MercureConfig
from .errors import HubUnavailable, InvalidMatcher, MercureError
from .hub.matchers import Matcher, MatcherType, exact, parse_matcher, parse_selector
from .hub.options import DEFAULT_PATH
from .hub.presence import subscription_selector, subscription_topic, subscriptions_path
from .tokens import mint, mint_access_token
from .topics import URLPattern


class Dialect(Protocol):
    """One version of the protocol, as an application speaks it."""

    version: str
    token_in_url: bool

    def subscribe_url(
        self,
        hub_url: str,
        names: Iterable[str],
        *,
        jwt: str | None = None,
        last_event_id: str | None = None,
    ) -> str:
        """Return the URL to subscribe to topics at a hub."""

    def mint(self, key: str | bytes, claim: Mapping[str, Any]) -> str:
        """Return a token that grants what `claim` lists under `publish` and `subscribe`."""

    def cookie_name(self) -> str:
        """Return the name of the authorization cookie."""

    def presence_name(self, topic: str | None, subscriber: str | None) -> str:
        """Return what selects all about the subscriptions to a topic, or names just one."""

    def subscriptions_path(self, topic: str | None, subscriber: str | None) -> str:
        """Return the path at which the subscriptions API answers."""

    def matcher(self, topic: str) -> Matcher:
        """Return the matcher that a topic is subscribed to with."""

    def cursor(self, document: Mapping[str, Any], headers: Mapping[str, str]) -> str:
        """Return the last event id of an answer of the subscriptions API."""


class Legacy:
    """Protocol 0.x."""

    version = "0.x"
    token_in_url = True

    def __init__(self, config: MercureConfig) -> None:
        self._config = config

    def subscribe_url(
        self,
        hub_url: str,
        names: Iterable[str],
        *,
        jwt: str | None = None,
        last_event_id: str | None = None,
    ) -> str:
        """Return the URL to subscribe to topic selectors at a hub."""
        parameters = [("topic", _no_pattern(name)) for name in names]
        if last_event_id is not None:
            parameters.append(("lastEventID", last_event_id))
        if jwt is not None:
            parameters.append(("authorization", jwt))
        return _with_query(hub_url, parameters)

    def mint(self, key: str | bytes, claim: Mapping[str, Any]) -> str:
        """Return a token with a `mercure` claim. It does not expire: URLs of open pages hold it."""
        return mint(key, claim)

    def cookie_name(self) -> str:
        """Return the name of the authorization cookie."""
        return self._config.authz_cookie_name

    def presence_name(self, topic: str | None, subscriber: str | None) -> str:
        """Return a topic selector, or the topic of one subscription."""
        if topic is not None and subscriber is not None:
            return subscription_topic(DEFAULT_PATH, topic, subscriber)
        return subscription_selector(DEFAULT_PATH, topic)

    def subscriptions_path(self, topic: str | None, subscriber: str | None) -> str:
        """Return the path at which the subscriptions API answers."""
        if topic is None:
            return subscriptions_path(DEFAULT_PATH)
        return subscription_topic(DEFAULT_PATH, topic, subscriber)

    def matcher(self, topic: str) -> Matcher:
        """Return the matcher that a topic selector is subscribed to with."""
        return parse_selector(_no_pattern(topic))

    def cursor(self, document: Mapping[str, Any], headers: Mapping[str, str]) -> str:  # noqa: ARG002
        """Return the last event id of an answer of the subscriptions API."""
        return str(document["lastEventID"])


class Draft:
    """Protocol 1.0. No token travels in a URL: the authorization cookie carries it."""

    version = "1.0"
    token_in_url = False

    def __init__(self, config: MercureConfig) -> None:
        self._config = config

    def subscribe_url(
        self,
        hub_url: str,
        names: Iterable[str],
        *,
        jwt: str | None = None,
        last_event_id: str | None = None,
    ) -> str:
        """Return the URL to subscribe to topics and URL patterns at a hub."""
        if jwt is not None:
            raise MercureError("in protocol 1.0 no token travels in a URL: use the cookie")
        parameters = [
            ("match_urlpattern" if isinstance(name, URLPattern) else "match", str(name))
            for name in names
        ]
        if last_event_id is not None:
            parameters.append(("last_event_id", last_event_id))
        return _with_query(hub_url, parameters)

    def mint(self, key: str | bytes, claim: Mapping[str, Any]) -> str:
        """Return an access token; a 0.x claim beside the details lets older hubs read it, too."""
        config = self._config
        return mint_access_token(
            key,
            issuer=config.issuer or config.audience,
            audience=config.audience,
            lifetime=config.jwt_lifetime,
            publish=[_matcher_object(name) for name in claim.get("publish", ())],
            subscribe=[_matcher_object(name) for name in claim.get("subscribe", ())],
            payload=claim.get("payload"),
            claim=claim,
        )

    def cookie_name(self) -> str:
        """Return the name of the authorization cookie."""
        return self._config.access_token_cookie_name

    def presence_name(self, topic: str | None, subscriber: str | None) -> str:
        """Return a URL pattern, or the topic of one subscription."""
        if topic is None:
            return URLPattern(f"{subscriptions_path(DEFAULT_PATH)}{{/*}}?")
        if subscriber is not None:
            return self.subscriptions_path(topic, subscriber)
        return URLPattern(f"{self.subscriptions_path(topic, None)}{{/:subscriber}}?")

    def subscriptions_path(self, topic: str | None, subscriber: str | None) -> str:
        """Return the path at which the subscriptions API answers."""
        if topic is None:
            return subscriptions_path(DEFAULT_PATH)
        matcher_type = (
            MatcherType.URL_PATTERN if isinstance(topic, URLPattern) else MatcherType.EXACT
        )
        values = [matcher_type.value, str(topic), *([] if subscriber is None else [subscriber])]
        return subscriptions_path(DEFAULT_PATH, *values)

    def matcher(self, topic: str) -> Matcher:
        """Return the matcher that a topic or a URL pattern is subscribed to with."""
        if not isinstance(topic, URLPattern):
            return exact(topic)
        base = self._config.hub_options().base
        return parse_matcher(MatcherType.URL_PATTERN.value, str(topic), base)

    def cursor(self, document: Mapping[str, Any], headers: Mapping[str, str]) -> str:  # noqa: ARG002
        """Return the last event id of an answer of the subscriptions API."""
        found = re.search(r'last-event-id="([^"]*)"', headers.get("link", ""))
        if found is None:
            raise HubUnavailable("the hub's answer has no Link with a last-event-id")
        return found[1]


def _no_pattern(name: str) -> str:
    if isinstance(name, URLPattern):
        raise InvalidMatcher(f"protocol 0.x has no URL patterns: {name!s}")
    return name


def _matcher_object(name: str) -> dict[str, str]:
    if isinstance(name, URLPattern):
        return {"match": str(name), "match_type": MatcherType.URL_PATTERN.value}
    return {"match": name}


def _with_query(url: str, parameters: list[tuple[str, str]]) -> str:
    return f"{url}?{urlencode(parameters)}" if parameters else url
