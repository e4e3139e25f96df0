"""Active subscriptions: the events that announce them and the documents that list them.

Both versions of the protocol tell of the same subscriptions, each at its own addresses and in its
own words (specification: Active Subscriptions). Values in a path are percent-encoded once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from ..errors import SubscriptionNotFound
from ..update import Update
from .broker import Broker, Subscriber
from .matchers import Matcher, MatcherType
from .options import HubOptions
from .protocol import RESERVED_TYPE, SubscriptionsRequest
from .transport import Subscription

CONTEXT = "https://mercure.rocks/"


def subscription_topic(hub_path: str, topic: str, subscriber_id: str | None = None) -> str:
    """Return the topic, which is also the path, of one 0.x subscription or of all to `topic`."""
    return subscriptions_path(hub_path, topic, *(() if subscriber_id is None else (subscriber_id,)))


def subscription_selector(hub_path: str, topic: str | None = None) -> str:
    """Return the 0.x topic selector of everything about the subscriptions to `topic`.

    It selects the events of each subscription and the address of their list.
    """
    if topic is None:
        return f"{subscriptions_path(hub_path)}{{/topic,subscriber}}"
    return f"{subscription_topic(hub_path, topic)}{{/subscriber}}"


def subscriptions_path(hub_path: str, *values: str) -> str:
    """Return a path of the subscriptions API; each value is percent-encoded once."""
    return "/".join((f"{hub_path}/subscriptions", *(quote(value, safe="") for value in values)))


def versions_of(matcher: Matcher, options: HubOptions) -> Iterator[str]:
    """Return the versions of the protocol that have a name for a matcher."""
    if "0.x" in options.protocols and matcher.type is not MatcherType.URL_PATTERN:
        yield "0.x"
    if "1.0" in options.protocols and matcher.type is not MatcherType.URI_TEMPLATE:
        yield "1.0"


def subscription_document(
    options: HubOptions, subscriber: Subscriber, matcher: Matcher, version: str, *, active: bool
) -> dict[str, Any]:
    """Return the document of one subscription of one subscriber."""
    document: dict[str, Any]
    if version == "1.0":
        name = matcher.type.value
        document = {
            "id": subscriptions_path(options.path, name, matcher.pattern, subscriber.id),
            "type": "subscription",
            "match_type": name,
            "match": matcher.pattern,
        }
    else:
        document = {
            "id": subscriptions_path(options.path, matcher.pattern, subscriber.id),
            "type": "Subscription",
            "topic": matcher.pattern,
        }
    document |= {"subscriber": subscriber.id, "active": active}
    payload = subscriber.grants.payload_of(matcher)
    if payload is not None:
        document["payload"] = payload
    return document


def announcements(options: HubOptions, subscriber: Subscriber, *, active: bool) -> Iterator[Update]:
    """Return the private updates that announce the start or the end of a subscriber's stream."""
    for version, matcher in _named(options, subscriber):
        document = subscription_document(options, subscriber, matcher, version, active=active)
        yield _announcement(options, document, version)


def subscriptions_of(options: HubOptions, subscriber: Subscriber) -> Iterator[Subscription]:
    """Return a subscriber's subscriptions as other hubs are to know them."""
    for version, matcher in _named(options, subscriber):
        document = subscription_document(options, subscriber, matcher, version, active=True)
        farewell = _announcement(options, document | {"active": False}, version)
        yield Subscription(version, matcher.type.value, matcher.pattern, document, farewell)


def _named(options: HubOptions, subscriber: Subscriber) -> Iterator[tuple[str, Matcher]]:
    """Yield each matcher of a subscriber once for each version that has a name for it."""
    for matcher in subscriber.matchers:
        for version in versions_of(matcher, options):
            yield version, matcher


def _announcement(options: HubOptions, document: dict[str, Any], version: str) -> Update:
    named = {"1.0": RESERVED_TYPE, "0.x": options.subscription_event_type}
    context = {} if version == "1.0" else {"@context": CONTEXT}
    return Update(
        topics=(document["id"],),
        data=json.dumps(context | document),
        private=True,
        type=named[version],
    )


def documents_here(
    broker: Broker, options: HubOptions, asked: SubscriptionsRequest
) -> list[dict[str, Any]]:
    """Return the documents of those of this hub's subscriptions that are asked for."""
    return [
        subscription_document(options, subscriber, matcher, asked.version, active=True)
        for subscriber, matcher in _found(broker, asked)
        if asked.version in versions_of(matcher, options)
    ]


def answer(
    documents: list[dict[str, Any]],
    options: HubOptions,
    asked: SubscriptionsRequest,
    last_event_id: str,
) -> dict[str, Any]:
    """Return the document that answers a question about subscriptions.

    Raises `SubscriptionNotFound` when the one asked for is not there.
    """
    if asked.subscriber_id is None:
        return _collection(_address(options, asked), asked.version, last_event_id, documents)
    if not documents:
        raise SubscriptionNotFound("there is no such subscription")
    if asked.version == "1.0":
        return documents[0]
    return {"@context": CONTEXT, **documents[0], "lastEventID": last_event_id}


def _found(broker: Broker, asked: SubscriptionsRequest) -> Iterator[tuple[Subscriber, Matcher]]:
    if asked.matcher is None:
        yield from ((subscriber, each) for subscriber in broker for each in subscriber.matchers)
    elif asked.subscriber_id is None:
        yield from ((one, asked.matcher) for one in broker.subscribers_of(asked.matcher))
    else:
        subscriber = broker.subscriber(asked.subscriber_id)
        if subscriber is not None and asked.matcher in subscriber.matchers:
            yield subscriber, asked.matcher


def _address(options: HubOptions, asked: SubscriptionsRequest) -> str:
    if asked.matcher is None:
        return subscriptions_path(options.path)
    if asked.version == "1.0":
        return subscriptions_path(options.path, asked.matcher.type.value, asked.matcher.pattern)
    return subscriptions_path(options.path, asked.matcher.pattern)


def _collection(
    address: str, version: str, last_event_id: str, subscriptions: Iterable[dict[str, Any]]
) -> dict[str, Any]:
    if version == "1.0":
        return {"id": address, "type": "subscriptions", "subscriptions": list(subscriptions)}
    return {
        "@context": CONTEXT,
        "id": address,
        "type": "Subscriptions",
        "lastEventID": last_event_id,
        "subscriptions": list(subscriptions),
    }
