"""What a Mercure hub does, black box, in both versions of the protocol.

    pytest tests/conformance --hub-url https://hub.example/.well-known/mercure \
        --hub-publisher-key ... --hub-subscriber-key ... --hub-versions 0.x
"""

from __future__ import annotations

import json
from urllib.parse import quote, urlsplit

import httpx
import pytest

PATH = "/.well-known/mercure"


# Subscription -----------------------------------------------------------------------------------


def test_updates_reach_subscribers_of_their_topic(dialect, topic):
    with dialect.subscribe(*dialect.topics(topic)) as stream:
        identifier = dialect.publish(topic, "hello").text
        dialect.publish(topic + "/other", "no")
        dialect.publish(topic, "again", type="kind", retry="1500", id=f"{topic}#given")
        assert stream.received(2) == ["hello", "again"]
        first, second = stream.events
    assert first.id == identifier
    assert (second.id, second.event, second.retry) == (f"{topic}#given", "kind", 1500)


def test_the_response_is_an_event_stream(dialect, topic):
    with dialect.subscribe(*dialect.topics(topic)) as stream:
        assert stream.response.headers["content-type"].startswith("text/event-stream")


def test_patterns_select(dialect, topic):
    pattern = dialect.pattern(f"{topic}/{{id}}", f"{topic}/:id")
    with dialect.subscribe(pattern) as stream:
        for below in ("", "/1", "/1/2", "/2"):
            dialect.publish(topic + below, below)
        assert stream.received(2) == ["/1", "/2"]


def test_the_wildcard_selects_everything(dialect, topic):
    with dialect.subscribe(*dialect.topics("*")) as stream:
        dialect.publish(topic, topic)
        dialect.publish("any other", topic)
        stream.received(2)
        assert [event.data for event in stream.events].count(topic) == 2


def test_alternate_topics_deliver_once(dialect, topic):
    with dialect.subscribe(*dialect.topics(topic, f"{topic}/a")) as stream:
        dialect.publish([topic, f"{topic}/a"], "once")
        dialect.publish(topic, "end")
        assert stream.received(2) == ["once", "end"]


@pytest.mark.parametrize("data", ["", "a\nb", "a\r\nb\rc", "\n", " x", "é☕", "data: x", ":x"])
def test_data_arrives_with_its_line_ends_as_lf(dialect, topic, data):
    with dialect.subscribe(*dialect.topics(topic)) as stream:
        dialect.publish(topic, data)
        assert stream.received(1) == [data.replace("\r\n", "\n").replace("\r", "\n")]


def test_a_matcher_is_needed(dialect):
    assert httpx.get(dialect.hub_url).status_code == 400


@pytest.mark.versions("1.0")
@pytest.mark.parametrize(
    "query", ["Match=a", "match_regexp=a", "matches=a", "match_urlpattern=(", "match=%00"]
)
def test_the_match_namespace_is_reserved(dialect, query):
    assert httpx.get(f"{dialect.hub_url}?match=a&{query}").status_code == 400


@pytest.mark.versions("1.0")
def test_query_carries_matchers_in_its_body(dialect, topic):
    with httpx.stream("QUERY", dialect.hub_url, data={"match": topic}, timeout=10) as response:
        assert response.status_code == 200


# Publication ------------------------------------------------------------------------------------


def test_publishing_answers_the_identifier_as_text(dialect, topic):
    answer = dialect.publish(topic, "x")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text


def test_unknown_fields_are_ignored(dialect, topic):
    assert dialect.publish(topic, "x", future="field").status_code == 200


@pytest.mark.parametrize(
    "fields",
    [{"id": "a\nb"}, {"type": "a\nb"}, {"id": "a\0"}, {"retry": "soon"}],
)
def test_fields_that_break_a_rule_are_refused(dialect, topic, fields):
    assert dialect.publish(topic, "x", **fields).status_code == 400


def test_a_topic_is_needed(dialect):
    assert dialect.publish([], "x").status_code == 400


def test_the_hubs_own_topics_are_reserved(dialect):
    answer = dialect.publish(f"{PATH}/subscriptions/a/b", "forged")
    assert answer.status_code == (403 if dialect.version == "0.x" else 400)


@pytest.mark.versions("1.0")
@pytest.mark.parametrize(
    "fields",
    [
        {"topics": "*"},
        {"topics": "/.well-known/%6Dercure/x"},
        {"topics": "/.well-known/x/../mercure"},
        {"topics": f"https://anywhere.example{PATH}/x"},
        {"topics": "a", "type": "mercure"},
        {"topics": "a", "id": "#1"},
        {"topics": "a", "id": "earliest"},
    ],
)
def test_more_is_reserved_in_1_0(dialect, fields):
    assert dialect.publish(data="x", **fields).status_code == 400


def test_publishing_needs_a_grant_on_every_topic(dialect, topic):
    both = [topic, f"{topic}/b"]
    assert dialect.publish(both, "x", dialect.token("publish", *both)).status_code == 200
    refused = dialect.publish(both, "x", dialect.token("publish", topic)).status_code
    assert refused in ((401, 403) if dialect.version == "0.x" else (403,))
    assert httpx.post(dialect.hub_url, data={"topic": topic}).status_code == 401
    forged = dialect.token("publish", "*", key="not the hub's key, but as long as it needs")
    assert dialect.publish(topic, "x", forged).status_code == 401


# Authorization ----------------------------------------------------------------------------------


def test_private_updates_reach_only_those_who_are_granted_them(dialect, topic):
    wanted = dialect.topics(topic)
    with (
        dialect.subscribe(*wanted, token=dialect.token("subscribe", topic)) as allowed,
        dialect.subscribe(*wanted, token=dialect.token("subscribe", "another")) as other,
        dialect.subscribe(*wanted) as anonymous,
    ):
        dialect.publish(topic, "private", private="on")
        dialect.publish([topic, "another"], "for both", private="")
        dialect.publish(topic, "public")
        assert allowed.received(3) == ["private", "for both", "public"]
        assert other.received(2) == ["for both", "public"]
        assert anonymous.received(1) == ["public"]


def test_a_token_that_is_not_valid_is_refused(dialect, topic):
    forged = dialect.token("subscribe", topic, key="not the hub's key, but as long as it needs")
    for token in (forged, "x" * 60):
        answer = httpx.get(
            dialect.hub_url,
            params=dict(dialect.topics(topic)),
            headers={"authorization": f"Bearer {token}"},
        )
        assert answer.status_code == 401
        if dialect.version == "1.0":
            assert 'error="invalid_token"' in answer.headers["www-authenticate"]


@pytest.mark.versions("0.x")
def test_the_token_may_be_in_the_query_in_0_x(dialect, topic):
    token = ("authorization", dialect.token("subscribe", topic))
    with dialect.subscribe(*dialect.topics(topic), token) as stream:
        dialect.publish(topic, "private", private="on")
        assert stream.received(1) == ["private"]


def test_the_token_may_be_in_a_cookie(dialect, topic):
    name = "mercureAuthorization" if dialect.version == "0.x" else "__Secure-mercure_access_token"
    cookie = f"{name}={dialect.token('subscribe', topic)}"
    with dialect.subscribe(*dialect.topics(topic), cookie=cookie) as stream:
        dialect.publish(topic, "private", private="on")
        assert stream.received(1) == ["private"]


# Reconciliation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["header", "query", "both"])
def test_a_client_that_comes_back_is_sent_what_it_missed(dialect, topic, where):
    ids = [dialect.publish(topic, str(number)).text for number in range(4)]
    headers = {} if where == "query" else {"last-event-id": ids[1]}
    cursor = {"query": [dialect.cursor(ids[1])], "both": [dialect.cursor(ids[3])]}.get(where, [])
    with dialect.subscribe(*dialect.topics(topic), *cursor, **headers) as stream:
        dialect.publish(topic, "live")
        assert stream.received(3) == ["2", "3", "live"]
        assert stream.response.headers[dialect.cursor_header] == ids[1]


def test_earliest_asks_for_all(dialect, topic):
    for number in range(3):
        dialect.publish(topic, str(number))
    with dialect.subscribe(*dialect.topics(topic), dialect.cursor("earliest")) as stream:
        assert stream.received(3) == ["0", "1", "2"]
        assert stream.response.headers[dialect.cursor_header] == "earliest"


def test_replay_is_authorized_again(dialect, topic):
    dialect.publish(topic, "private", private="on")
    dialect.publish(topic, "public")
    with dialect.subscribe(*dialect.topics(topic), dialect.cursor("earliest")) as stream:
        assert stream.received(1) == ["public"]


# Active subscriptions ---------------------------------------------------------------------------


def presence(dialect, topic):
    """Return the address of the subscriptions to a topic, and a matcher of their events."""
    encoded = quote(topic, safe="")
    if dialect.version == "0.x":
        address = f"{PATH}/subscriptions/{encoded}"
        return address, f"{address}{{/subscriber}}"
    address = f"{PATH}/subscriptions/exact/{encoded}"
    return address, f"{address}/:subscriber"


def test_subscriptions_are_announced_and_listed(dialect, topic):
    address, events = presence(dialect, topic)
    watch = dialect.pattern(events, events)
    token = dialect.token("subscribe", events)
    url = dialect.hub_url.removesuffix(urlsplit(dialect.hub_url).path)
    reader = {"authorization": f"Bearer {dialect.token('subscribe', '*')}"}
    with dialect.subscribe(watch, token=token) as watcher:
        mine = dialect.token("subscribe", topic, payload={"name": "Ada"})
        with dialect.subscribe(*dialect.topics(topic), token=mine):
            started = json.loads(watcher.received(1)[0])
            assert (started["active"], started["payload"]) == (True, {"name": "Ada"})
            listed = httpx.get(url + address, headers=reader)
            [only] = listed.json()["subscriptions"]
            assert only["id"] == started["id"]
            single = httpx.get(url + only["id"], headers=reader).json()
            assert {key: single[key] for key in only} == only
        ended = json.loads(watcher.received(2)[1])
        assert (ended["active"], ended["id"]) == (False, started["id"])
        if dialect.version == "1.0":
            assert {event.event for event in watcher.events} == {"mercure"}
            assert 'rel="mercure"' in listed.headers["link"]
    assert httpx.get(url + only["id"], headers=reader).status_code == 404
    assert httpx.get(url + address).status_code == 401


# Discovery --------------------------------------------------------------------------------------


@pytest.mark.versions("1.0")
def test_the_metadata_names_the_resource(dialect):
    url, path = dialect.hub_url, urlsplit(dialect.hub_url).path
    metadata = httpx.get(f"{url.removesuffix(path)}/.well-known/oauth-protected-resource{path}")
    assert metadata.json()["resource"] == dialect.audience
    challenge = httpx.post(url, data={"topic": "a"}).headers["www-authenticate"]
    assert "resource_metadata=" in challenge
    assert "error=" not in challenge
