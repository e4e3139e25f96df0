"""The index of matchers: it finds exactly those who select a topic, and tries few others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quart_mercure.hub.broker import Broker
from quart_mercure.hub.index import MatcherIndex
from quart_mercure.hub.matchers import Matcher, parse_matcher, parse_selector
from quart_mercure.hub.policies import QueueRules
from quart_mercure.hub.protocol import SubscribeRequest
from quart_mercure.hub.transport.memory import MemoryTransport
from quart_mercure.tokens import Grants
from quart_mercure.update import Update

BASE = "https://hub.example/.well-known/mercure"

SELECTORS = ["*", "a", "/books/1", "/books/{id}", "/books{/id}", "{any}", "/b{x}", "{+all}", "/{x}"]
PATTERNS = ["*", "/books/:id", "/books/:id?", "/books/*", "/b*", "*://*/books/1", "a", ":x", "?q=1"]
TOPICS = ["a", "/books", "/books/", "/books/1", "/books/1/2", "/b", "https://x.example/books/1"]
TOPICS += ["http://[", "", "urn:x", "/books/{id}", "?q=1", f"{BASE}/books"]

MATCHERS = [parse_selector(text) for text in SELECTORS]
MATCHERS += [
    parse_matcher(kind, text, BASE) for kind in ("exact", "urlpattern") for text in PATTERNS
]

steps = st.lists(
    st.tuples(st.booleans(), st.sampled_from(MATCHERS), st.integers(0, 3)), max_size=40
)


@given(steps, st.lists(st.sampled_from(TOPICS), min_size=1, max_size=3))
def test_an_index_finds_whom_asking_everyone_would_find(changes, topics):
    index: MatcherIndex[int] = MatcherIndex()
    members: set[tuple[Matcher, int]] = set()
    for adding, matcher, member in changes:
        if adding:
            index.add(matcher, member)
            members.add((matcher, member))
        elif (matcher, member) in members:
            index.remove(matcher, member)
            members.remove((matcher, member))
        selecting = {one for each, one in members if any(map(each.matches, topics))}
        assert set(index.select(topics)) == selecting
        assert set(index.members(matcher)) == {one for each, one in members if each == matcher}
    for matcher, member in members:
        index.remove(matcher, member)
    assert len(index) == 0
    assert (index._by_prefix, index._lengths) == ({}, {})


wishes = st.tuples(
    st.lists(st.sampled_from(MATCHERS), min_size=1, max_size=3, unique=True),
    st.none() | st.lists(st.sampled_from(MATCHERS), max_size=3),
)


@given(
    st.lists(wishes, max_size=6),
    st.lists(st.sampled_from([topic for topic in TOPICS if topic]), min_size=1, max_size=2),
    st.booleans(),
)
async def test_an_update_is_received_by_those_who_want_it_and_may(clients, topics, private):
    broker = Broker(MemoryTransport(0), QueueRules(10, 1000), max_flush_interval=0)
    subscribers = []
    for matchers, granted in clients:
        grants = Grants(subscribe=None if granted is None else tuple(granted))
        request = SubscribeRequest(tuple(matchers), None)
        subscribers.append((await broker.subscribe(request, grants))[0])
    update = Update(topics=tuple(topics), private=private)
    receiving = {one for one in subscribers if one.receives(update)}
    assert set(broker.recipients(update)) == receiving
    await broker.publish([update])
    assert {one for one in subscribers if len(one.queue)} == receiving
    for one in subscribers:
        broker.unsubscribe(one)
    assert (len(broker.index), len(broker.granted)) == (0, 0)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("/users/{}/{{thing}}", "uritemplate"), ("/users/{}/:thing", "urlpattern")],
)
def test_patterns_that_could_not_select_a_topic_are_not_tried(text, kind):
    index: MatcherIndex[int] = MatcherIndex()
    for number in range(5000):
        pattern = text.format(number)
        parsed = parse_selector(pattern) if kind == "uritemplate" else None
        index.add(parsed or parse_matcher(kind, pattern, BASE), number)
    assert list(index.select(["/users/7/inbox"])) == [7]
    assert len(list(index._candidates("/users/4321/inbox"))) <= 4
    assert list(index._candidates("/.well-known/mercure/subscriptions/a/b")) == []
