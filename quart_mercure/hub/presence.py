"""Active subscriptions: the events that announce them and the documents that list them.

Protocol 0.x (specification: Active Subscriptions). Values in a path are percent-encoded once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from ..update import Update
from .broker import Subscriber
from .matchers import Matcher

CONTEXT = "https://mercure.rocks/"


def subscription_topic(hub_path: str, topic: str, subscriber_id: str | None = None) -> str:
    """Return the topic, which is also the path, of one subscription or of all to `topic`."""
    path = f"{hub_path}/subscriptions/{quote(topic, safe='')}"
    return path if subscriber_id is None else f"{path}/{quote(subscriber_id, safe='')}"


def subscription_selector(hub_path: str, topic: str | None = None) -> str:
    """Return the topic selector of everything about the subscriptions to `topic`.

    It selects the events of each subscription and the address of their list.
    """
    if topic is None:
        return f"{hub_path}/subscriptions{{/topic,subscriber}}"
    return f"{subscription_topic(hub_path, topic)}{{/subscriber}}"


def subscription_document(
    hub_path: str, subscriber: Subscriber, matcher: Matcher, *, active: bool = True
) -> dict[str, Any]:
    """Return the document of one subscription of one subscriber."""
    document = {
        "id": subscription_topic(hub_path, matcher.pattern, subscriber.id),
        "type": "Subscription",
        "subscriber": subscriber.id,
        "topic": matcher.pattern,
        "active": active,
    }
    if subscriber.grants.payload is not None:
        document["payload"] = subscriber.grants.payload
    return document


def single_document(
    hub_path: str, subscriber: Subscriber, matcher: Matcher, last_event_id: str
) -> dict[str, Any]:
    """Return the document that is served at the address of one subscription."""
    return {
        "@context": CONTEXT,
        **subscription_document(hub_path, subscriber, matcher),
        "lastEventID": last_event_id,
    }


def collection_path(hub_path: str, topic: str | None) -> str:
    """Return the address of all subscriptions, or of those to `topic`."""
    return f"{hub_path}/subscriptions" if topic is None else subscription_topic(hub_path, topic)


def collection_document(
    path: str, last_event_id: str, subscriptions: Iterable[dict[str, Any]]
) -> dict[str, Any]:
    """Return the document that lists subscriptions; `path` is where it was asked for."""
    return {
        "@context": CONTEXT,
        "id": path,
        "type": "Subscriptions",
        "lastEventID": last_event_id,
        "subscriptions": list(subscriptions),
    }


def subscription_update(
    hub_path: str, subscriber: Subscriber, matcher: Matcher, event_type: str | None, *, active: bool
) -> Update:
    """Return the private update that announces the start or the end of a subscription."""
    document = subscription_document(hub_path, subscriber, matcher, active=active)
    return Update(
        topics=(document["id"],),
        data=json.dumps({"@context": CONTEXT, **document}),
        private=True,
        type=event_type,
    )
