"""The hub's HTTP interface, 0.x protocol, request by request."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import weakref
from urllib.parse import quote

import jwt
import pytest

from quart_mercure import (
    Hub,
    HubOptions,
    InvalidUpdate,
    SubscriptionNotFound,
    TransportError,
    Update,
)
from quart_mercure.hub.matchers import exact
from quart_mercure.hub.transport.memory import MemoryTransport
from quart_mercure.tokens import MAX_CLAIM_MATCHERS, mint

from .asgi import PATH, Exchange, request, subscribe

SUBSCRIBER_KEY = "the key of subscribers, 32 bytes or more"
PUBLISHER_KEY = "the key of publishers, 32 bytes or more"
FORM = {"content-type": "application/x-www-form-urlencoded"}


def options(**changes):
    keys = {"subscriber_key": SUBSCRIBER_KEY, "publisher_key": PUBLISHER_KEY}
    return HubOptions(**(keys | {"subscriptions": False, "shutdown_timeout": 0} | changes))


@pytest.fixture
def hub():
    return Hub(options())


@pytest.fixture
def presence_hub():
    return Hub(options(subscriptions=True))


def subscriber(*topics, **claim):
    return mint(SUBSCRIBER_KEY, {"subscribe": list(topics), **claim})


def publisher(*topics):
    return mint(PUBLISHER_KEY, {"publish": list(topics)})


def bearer(token):
    return {"authorization": f"Bearer {token}"}


async def publish(hub, topic, data="", **fields):
    return await hub.publish(Update(topics=(topic,), data=data, **fields))


# Subscribing ------------------------------------------------------------------------------------


async def test_a_subscriber_receives_what_it_asked_for(hub):
    stream = await subscribe(hub, "topic=a&topic=/books/{id}")
    for topic in ("a", "b", "/books/1", "/books", "a"):
        await publish(hub, topic, f"to {topic}")
    assert await stream.received(3) == ["to a", "to /books/1", "to a"]
    assert stream.headers["content-type"] == "text/event-stream"
    assert "no-store" in stream.headers["cache-control"]
    assert stream.headers["x-accel-buffering"] == "no"


async def test_the_wildcard_selects_every_topic(hub):
    stream = await subscribe(hub, "topic=*")
    await publish(hub, "a", "1")
    await publish(hub, "/b", "2")
    assert await stream.received(2) == ["1", "2"]


async def test_an_update_of_several_topics_arrives_once(hub):
    stream = await subscribe(hub, "topic=a&topic=b&topic=*&topic={any}")
    await hub.publish(Update(topics=("a", "b"), data="once"))
    await publish(hub, "a", "end")
    assert await stream.received(2) == ["once", "end"]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", 'missing "topic"'),
        ("other=1", 'missing "topic"'),
        ("topic=" + "a" * 5000, "4096"),
        ("&".join(["topic=a"] * 1001), "at most 1000"),
        ("&".join(["x=1"] * 4001), "4000 parameters"),
        ("topic=%ff", "UTF-8"),
        ("topic=\xff", "UTF-8"),
        ("topic=a&lastEventID=" + "a" * 1025, "1024"),
        ("topic=a&authorization=x&authorization=y", "once"),
    ],
)
async def test_bad_subscriptions_are_refused_with_a_reason(hub, query, reason):
    answer = await request(hub, "GET", f"{PATH}?{query}")
    assert answer.status == 400
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert reason in answer.body.decode()


async def test_head_answers_without_a_stream(hub):
    answer = await request(hub, "HEAD", f"{PATH}?topic=a")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-type"] == "text/event-stream"
    assert len(hub.broker) == 0


async def test_a_silent_stream_is_kept_alive():
    hub = Hub(options(keepalive_interval=0.05))
    stream = await subscribe(hub, "topic=a")
    await stream.until(lambda it: it.body.count(b":\n") >= 3)
    assert stream.events == []


# Private updates and tokens ---------------------------------------------------------------------


@pytest.mark.parametrize("where", ["header", "query", "cookie"])
async def test_private_updates_reach_those_who_may_read_them(hub, where):
    token = subscriber("a", "/books/{id}")
    headers, query = {}, "topic=a&topic=/books/{id}&topic=c"
    if where == "header":
        headers = bearer(token)
    elif where == "query":
        query += f"&authorization={token}"
    else:
        headers = {"cookie": f"odd; other={{}}; mercureAuthorization={token}; last=1"}
    anonymous = await subscribe(hub, query.partition("&authorization")[0])
    allowed = await subscribe(hub, query, headers=headers)
    await publish(hub, "a", "private a", private=True)
    await publish(hub, "/books/1", "private book", private=True)
    await publish(hub, "c", "private c", private=True)
    await publish(hub, "c", "public c")
    assert await allowed.received(3) == ["private a", "private book", "public c"]
    assert await anonymous.received(1) == ["public c"]


async def test_one_granted_topic_of_an_update_is_enough(hub):
    stream = await subscribe(hub, "topic=a", headers=bearer(subscriber("b")))
    await hub.publish(Update(topics=("a", "b"), data="both", private=True))
    assert await stream.received(1) == ["both"]


async def test_a_grant_does_not_subscribe(hub):
    stream = await subscribe(hub, "topic=a", headers=bearer(subscriber("*")))
    await publish(hub, "b", "no")
    await publish(hub, "a", "yes")
    assert await stream.received(1) == ["yes"]


def forged(claims, key=SUBSCRIBER_KEY, **encoding):
    return jwt.encode(claims, key, **encoding)


SUBSCRIBE_A = {"mercure": {"subscribe": ["a"]}}
BAD_TOKENS = {
    "no token": "x",
    "another key": forged(SUBSCRIBE_A, "some other key, of 32 bytes or more"),
    "the publisher's key": forged(SUBSCRIBE_A, PUBLISHER_KEY),
    "no signature": forged(SUBSCRIBE_A, "", algorithm="none"),
    "another algorithm": forged(SUBSCRIBE_A, SUBSCRIBER_KEY * 2, algorithm="HS512"),
    "expired": forged(SUBSCRIBE_A | {"exp": 1}),
    "not yet valid": forged(SUBSCRIBE_A | {"nbf": 2**40}),
    "claim is no object": forged({"mercure": ["subscribe"]}),
    "selectors are no list": forged({"mercure": {"subscribe": "*"}}),
    "selector is no text": forged({"mercure": {"subscribe": [1]}}),
    "selector too long": forged({"mercure": {"subscribe": ["a" * 4097]}}),
    "too many selectors": forged({"mercure": {"subscribe": ["a"] * (MAX_CLAIM_MATCHERS + 1)}}),
    "too long": "a" * 20_000,
}


@pytest.mark.parametrize("token", BAD_TOKENS.values(), ids=BAD_TOKENS)
async def test_a_token_that_is_not_valid_is_refused_everywhere(presence_hub, token):
    for url in (f"{PATH}?topic=a", f"{PATH}/subscriptions"):
        answer = await request(presence_hub, "GET", url, headers=bearer(token))
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith('Bearer error="invalid_token"')
        assert token not in answer.body.decode()


async def test_the_namespaced_claim_goes_first(hub):
    claims = {"https://mercure.rocks/": {"subscribe": ["a"]}, "mercure": {"subscribe": ["b"]}}
    stream = await subscribe(hub, "topic=a&topic=b", headers=bearer(forged(claims)))
    await publish(hub, "b", "b", private=True)
    await publish(hub, "a", "a", private=True)
    assert await stream.received(1) == ["a"]


@pytest.mark.parametrize("header", ["Basic abc", "Bearer", "Bearer ", "abc"])
async def test_an_authorization_header_must_be_a_bearer_token(hub, header):
    answer = await request(hub, "GET", f"{PATH}?topic=a", headers={"authorization": header})
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer resource_metadata=")


async def test_the_scheme_is_read_in_any_case(hub):
    headers = {"authorization": f"bEARER {subscriber('a')}"}
    stream = await subscribe(hub, "topic=a", headers=headers)
    assert stream.status == 200


async def test_anonymous_subscribers_can_be_kept_out():
    hub = Hub(options(allow_anonymous=False))
    answer = await request(hub, "GET", f"{PATH}?topic=a")
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer resource_metadata=")
    stream = await subscribe(hub, "topic=a", headers=bearer(subscriber("a")))
    assert stream.status == 200


async def test_a_stream_ends_when_its_token_expires(hub):
    token = forged(SUBSCRIBE_A | {"exp": time.time() + 1})
    stream = await subscribe(hub, "topic=a", headers=bearer(token))
    await stream.finished()
    assert stream.complete


async def test_a_stream_ends_when_it_has_been_open_for_long_enough():
    hub = Hub(options(write_timeout=0.5))
    token = forged(SUBSCRIBE_A | {"exp": time.time() + 600})
    stream = await subscribe(hub, "topic=a", headers=bearer(token))
    await stream.finished()
    assert stream.complete


# Publishing over HTTP ---------------------------------------------------------------------------


async def post(hub, body, token=None, **headers):
    token = publisher("*") if token is None else token
    headers = FORM | (bearer(token) if token else {}) | headers
    return await request(hub, "POST", PATH, headers=headers, body=body.encode())


async def test_publishing_answers_the_identifier(hub):
    stream = await subscribe(hub, "topic=a&topic=b")
    answer = await post(hub, "topic=x&topic=a&data=caf%C3%A9+1&id=urn:1&type=t&retry=5&new=field")
    assert (answer.status, answer.body) == (200, b"urn:1")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    await stream.received(1)
    [event] = stream.events
    assert (event.data, event.id, event.event, event.retry) == ("café 1", "urn:1", "t", 5)


async def test_an_identifier_is_made_when_none_is_given(hub):
    answer = await post(hub, "topic=a")
    assert answer.body.startswith(b"urn:uuid:")
    assert answer.body.decode() == hub.last_event_id


@pytest.mark.parametrize("field", ["private", "private=", "private=on", "private=off"])
async def test_the_private_field_counts_whatever_its_value(hub, field):
    stream = await subscribe(hub, "topic=a")
    await post(hub, f"topic=a&data=private&{field}")
    await post(hub, "topic=a&data=public")
    assert await stream.received(1) == ["public"]


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ("data=x", 400, 'missing "topic"'),
        ("topic=", 400, '"topic" must not be empty'),
        ("topic=*", 400, '"topic" must not be "*"'),
        ("topic=a&topic=%0A", 400, '"topic" must not contain control'),
        ("topic=a&id=1%0Adata:+x", 400, '"id" must not contain control'),
        ("topic=a&id=%231", 400, '"id" must not start with "#"'),
        ("topic=a&id=earliest", 400, '"id" must not be the reserved'),
        ("topic=a&type=%E2%80%8B", 400, '"type" must not contain invisible'),
        ("topic=a&retry=x", 400, '"retry" must be'),
        ("topic=a&retry=-1", 400, '"retry" must be'),
        ("topic=a&retry=" + "9" * 30, 400, '"retry" must be'),
        ("&".join(["topic=a"] * 1001), 400, "at most 1000"),
        ("topic=a&data=%ff", 400, "UTF-8"),
        ("topic=/.well-known/mercure/subscriptions/a/b", 403, "reserved"),
        ("topic=a&topic=https://x.example/.well-known/mercure", 403, "reserved"),
        ("topic=/.well-known/%256Dercure/x", 403, "reserved"),
        ("topic=a&data=" + "x" * (1024 * 1024), 413, "larger than"),
    ],
)
async def test_bad_publications_are_refused_with_a_reason(hub, body, status, reason):
    answer = await post(hub, body)
    assert answer.status == status
    assert reason in answer.body.decode()
    assert hub.last_event_id == "earliest"


async def test_publishing_needs_a_form(hub):
    answer = await post(hub, '{"topic": "a"}', **{"content-type": "application/json"})
    assert answer.status == 415


async def test_a_body_that_breaks_off_publishes_nothing(hub):
    headers = FORM | bearer(publisher("*"))
    exchange = Exchange(hub, "POST", PATH, headers=headers, body=b"topic=a", whole_body=False)
    await exchange.leave()
    assert exchange.status == 400
    assert hub.last_event_id == "earliest"


@pytest.mark.parametrize(
    ("token", "status"),
    [
        ("", 401),
        ("x", 401),
        (subscriber("*"), 401),
        (mint(PUBLISHER_KEY, {"subscribe": ["*"]}), 403),
        (publisher(), 403),
        (publisher("b"), 403),
        (publisher("a"), 403),
        (publisher("a", "b"), 200),
        (publisher("{x}"), 200),
        (publisher("*"), 200),
    ],
)
async def test_every_topic_must_be_granted(hub, token, status):
    answer = await post(hub, "topic=a&topic=b", token)
    assert answer.status == status
    if status != 200:
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert hub.last_event_id == "earliest"


PAGES = [
    ({}, 403),
    ({"origin": "https://evil.example"}, 403),
    ({"origin": "null"}, 403),
    ({"referer": "https://evil.example/https://hub.example"}, 403),
    ({"origin": "https://hub.example"}, 200),
    ({"referer": "https://hub.example/page?x"}, 200),
    ({"origin": "https://trusted.example"}, 200),
]


@pytest.mark.parametrize(("headers", "status"), PAGES)
async def test_another_sites_page_cannot_publish_with_a_cookie(headers, status):
    hub = Hub(options(publish_origins=("https://trusted.example",)))
    cookie = {"cookie": f"mercureAuthorization={publisher('*')}", "host": "hub.example"}
    assert (await post(hub, "topic=a", "", **cookie, **headers)).status == status
    with_token = await post(hub, "topic=a", **cookie, **headers)
    assert with_token.status == 200, "a token that the page itself holds is no forgery"


async def test_publishing_over_http_can_be_off():
    hub = Hub(options(allow_publish=False))
    answer = await post(hub, "topic=a")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS, QUERY")


async def test_the_hubs_own_topics_cannot_be_published_in_process_either(hub):
    with pytest.raises(InvalidUpdate, match="reserved"):
        await publish(hub, f"{PATH}/subscriptions/a/b")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "", 405),
        ("DELETE", "", 405),
        ("GET", "/elsewhere", 404),
        ("GET", "/subscriptionsx", 404),
        ("POST", "/subscriptions", 404),
        ("GET", "/subscriptions", 404),
    ],
)
async def test_other_methods_and_paths(hub, method, path, status):
    assert (await request(hub, method, PATH + path)).status == status


# Coming back ------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["header", "query", "both"])
async def test_a_client_that_comes_back_receives_what_it_missed(hub, where):
    for number in range(5):
        await publish(hub, "a", str(number), id=f"id-{number}")
        await publish(hub, "b", "other")
    query = "topic=a" + {"query": "&lastEventID=id-1", "both": "&lastEventID=id-4"}.get(where, "")
    headers = {} if where == "query" else {"last-event-id": "id-1"}
    stream = await subscribe(hub, query, headers=headers)
    await publish(hub, "a", "live")
    assert await stream.received(4) == ["2", "3", "4", "live"]
    assert stream.headers["last-event-id"] == "id-1"


@pytest.mark.parametrize("identifier", ["earliest", "never seen"])
async def test_without_a_known_identifier_all_that_is_kept_is_sent(hub, identifier):
    await publish(hub, "a", "1")
    await publish(hub, "a", "2")
    stream = await subscribe(hub, f"topic=a&lastEventID={quote(identifier)}")
    assert await stream.received(2) == ["1", "2"]
    assert stream.headers["last-event-id"] == "earliest"


async def test_without_an_identifier_nothing_is_replayed(hub):
    await publish(hub, "a", "1")
    stream = await subscribe(hub, "topic=a")
    await publish(hub, "a", "2")
    assert await stream.received(1) == ["2"]
    assert "last-event-id" not in stream.headers


async def test_history_is_bounded():
    hub = Hub(options(reconciliation_length=3))
    for number in range(10):
        await publish(hub, "a", str(number))
    stream = await subscribe(hub, "topic=a&lastEventID=earliest")
    assert await stream.received(3) == ["7", "8", "9"]


async def test_an_identifier_outlives_its_event():
    hub = Hub(options(reconciliation_length=3))
    for number in range(10):
        await publish(hub, "a", str(number), id=f"id-{number}")
    stream = await subscribe(hub, "topic=a&lastEventID=id-2")
    assert await stream.received(3) == ["7", "8", "9"]
    assert stream.headers["last-event-id"] == "id-2"


async def test_history_can_be_off():
    hub = Hub(options(reconciliation_length=0))
    await publish(hub, "a", "1")
    stream = await subscribe(hub, "topic=a&lastEventID=earliest")
    await publish(hub, "a", "2")
    assert await stream.received(1) == ["2"]


async def test_an_identifier_used_twice_stands_for_its_first_use(hub):
    for data, identifier in (("1", "x"), ("2", "y"), ("3", "x"), ("4", "z")):
        await publish(hub, "a", data, id=identifier)
    stream = await subscribe(hub, "topic=a&lastEventID=x")
    assert await stream.received(3) == ["2", "3", "4"]


async def test_replay_asks_for_the_grants_of_the_new_stream(hub):
    await publish(hub, "a", "private", private=True)
    await publish(hub, "a", "public")
    anonymous = await subscribe(hub, "topic=a&lastEventID=earliest")
    allowed = await subscribe(hub, "topic=a&lastEventID=earliest", headers=bearer(subscriber("a")))
    assert await anonymous.received(1) == ["public"]
    assert await allowed.received(2) == ["private", "public"]


async def test_identifiers_in_headers_are_utf_8(hub):
    await publish(hub, "a", "1", id="é☕")
    await publish(hub, "a", "2")
    stream = await subscribe(
        hub, "topic=a", headers={"last-event-id": "é☕".encode().decode("latin-1")}
    )
    assert await stream.received(1) == ["2"]
    assert stream.headers["last-event-id"].encode("latin-1").decode() == "é☕"


async def test_a_long_replay_arrives_whole_and_before_what_is_live():
    hub = Hub(options(reconciliation_length=5000, queue_events=10))
    for number in range(3000):
        await publish(hub, "a", str(number))
    stream = await subscribe(hub, "topic=a&lastEventID=earliest")
    await publish(hub, "a", "live")
    assert await stream.received(3001) == [*map(str, range(3000)), "live"]


# Active subscriptions ---------------------------------------------------------------------------

EVENTS_OF_A = f"{PATH}/subscriptions/a{{/subscriber}}"


async def test_starting_and_ending_a_stream_is_announced_to_those_who_may_know(presence_hub):
    hub = presence_hub
    query = f"topic={quote(EVENTS_OF_A)}"
    watcher = await subscribe(hub, query, headers=bearer(subscriber(EVENTS_OF_A)))
    anonymous = await subscribe(hub, query)
    token = subscriber("a", payload={"name": "Ada"})
    stream = await subscribe(hub, "topic=a&topic=b", headers=bearer(token))
    await stream.leave()
    started, ended = map(json.loads, await watcher.received(2))
    assert started["active"] is True
    assert ended == started | {"active": False}
    identifier = started["subscriber"]
    assert identifier.startswith("urn:uuid:")
    assert started == {
        "@context": "https://mercure.rocks/",
        "id": f"{PATH}/subscriptions/a/{quote(identifier, safe='')}",
        "type": "Subscription",
        "subscriber": identifier,
        "topic": "a",
        "active": True,
        "payload": {"name": "Ada"},
    }
    assert [event.event for event in watcher.events] == ["message", "message"]
    assert anonymous.events == []


async def test_subscription_events_can_be_named():
    hub = Hub(options(subscriptions=True, subscription_event_type="Subscription"))
    watcher = await subscribe(
        hub, f"topic={quote(EVENTS_OF_A)}", headers=bearer(subscriber(EVENTS_OF_A))
    )
    await subscribe(hub, "topic=a")
    await watcher.received(1)
    assert watcher.events[0].event == "Subscription"


async def get(hub, path, *granted, **headers):
    headers |= bearer(subscriber(*granted)) if granted else {}
    return await request(hub, "GET", f"{PATH}/subscriptions{path}", headers=headers)


async def test_the_open_subscriptions_are_listed(presence_hub):
    hub = presence_hub
    await subscribe(hub, "topic=a&topic=b/1", headers=bearer(subscriber(payload={"n": 1})))
    await subscribe(hub, "topic=a&topic=a")
    await subscribe(hub, "topic=" + quote("/x/{y}"))
    everything = json.loads((await get(hub, "", "*")).body)
    assert [each["topic"] for each in everything["subscriptions"]] == ["a", "b/1", "a", "/x/{y}"]
    assert everything["type"] == "Subscriptions"
    assert everything["id"] == f"{PATH}/subscriptions"
    assert everything["lastEventID"] == hub.last_event_id
    answer = await get(hub, "/a", EVENTS_OF_A)
    assert answer.headers["content-type"] == "application/ld+json"
    of_a = json.loads(answer.body)
    assert [each.get("payload") for each in of_a["subscriptions"]] == [{"n": 1}, None]
    of_b = json.loads((await get(hub, "/b%2F1", "*")).body)
    [only] = of_b["subscriptions"]
    assert only["id"].startswith(f"{PATH}/subscriptions/b%2F1/urn%3Auuid%3A")
    single = await get(hub, only["id"].removeprefix(f"{PATH}/subscriptions"), only["id"])
    assert json.loads(single.body) == {
        "@context": "https://mercure.rocks/",
        **only,
        "lastEventID": hub.last_event_id,
    }
    of_template = json.loads((await get(hub, "/%2Fx%2F%7By%7D", "*")).body)
    assert [each["topic"] for each in of_template["subscriptions"]] == ["/x/{y}"]
    assert json.loads((await get(hub, "/nobody", "*")).body)["subscriptions"] == []


@pytest.mark.parametrize(
    ("path", "granted", "status"),
    [
        ("", (), 401),
        ("", ("a",), 403),
        ("/a", (f"{PATH}/subscriptions",), 403),
        ("/a", (f"{PATH}/subscriptions/a",), 200),
        ("/a/nobody", ("*",), 404),
        ("/a/b/c", ("*",), 404),
        ("/" + "a" * 5000, ("*",), 404),
    ],
)
async def test_reading_subscriptions_has_its_rules(presence_hub, path, granted, status):
    assert (await get(presence_hub, path, *granted)).status == status


async def test_a_fresh_copy_is_not_sent_again(presence_hub):
    await publish(presence_hub, "a", id="x")
    etag = (await get(presence_hub, "", "*")).headers["etag"]
    assert etag == '"x"'
    for known in (etag, f'"y", W/{etag}', "x", "*"):
        answer = await get(presence_hub, "", "*", **{"if-none-match": known})
        assert (answer.status, answer.body) == (304, b"")
    assert (await get(presence_hub, "", "*", **{"if-none-match": '"y"'})).status == 200


async def test_subscriptions_can_be_asked_for_in_process(presence_hub):
    await subscribe(presence_hub, "topic=a")
    [only] = (await presence_hub.subscriptions(exact("a")))["subscriptions"]
    single = await presence_hub.subscriptions(exact("a"), only["subscriber"])
    assert single["id"] == only["id"]
    with pytest.raises(SubscriptionNotFound):
        await presence_hub.subscriptions(exact("a"), "nobody")


async def test_clients_that_come_and_go_push_no_message_out():
    hub = Hub(options(subscriptions=True, reconciliation_length=2))
    await publish(hub, "a", "1", id="first")
    await publish(hub, "a", "2")
    for _ in range(15):
        await (await subscribe(hub, "topic=b")).leave()
    stream = await subscribe(hub, "topic=a&lastEventID=first")
    assert await stream.received(1) == ["2"]


@pytest.mark.parametrize(
    ("limit", "same_address", "same_token"),
    [
        ("max_streams", False, False),
        ("max_streams_per_address", True, False),
        ("max_streams_per_token", False, True),
    ],
)
async def test_streams_are_limited(limit, same_address, same_token):
    hub = Hub(options(**{limit: 2}))

    def another(number):
        token = subscriber("a", payload=0 if same_token else number)
        client = "192.0.2.1" if same_address else f"192.0.2.{number}"
        return Exchange(hub, "GET", f"{PATH}?topic=a", headers=bearer(token), client=client)

    opened = [await another(number).opened() for number in range(2)]
    refused = await another(2).opened()
    assert (refused.status, refused.headers["retry-after"]) == (429, "10")
    await opened[0].leave()
    assert (await another(3).opened()).status == 200
    elsewhere = Exchange(hub, "GET", f"{PATH}?topic=a", client="192.0.2.99")
    assert ((await elsewhere.opened()).status == 429) == (limit == "max_streams")


# Clients that leave, stall or fall behind -------------------------------------------------------


async def test_a_client_that_leaves_leaves_nothing_behind(presence_hub):
    hub = presence_hub
    stream = await subscribe(hub, "topic=a&topic={b}&topic=*")
    [one] = hub.broker
    gone = weakref.ref(one)
    del one
    await stream.leave()
    assert len(hub.broker) == 0
    assert (len(hub.broker.index), len(hub.broker.granted)) == (0, 0)
    assert hub._streams == set()
    gc.collect()
    assert gone() is None


async def test_a_stalled_client_is_disconnected_and_others_are_not(caplog):
    hub = Hub(options(queue_events=10, max_flush_interval=0))
    healthy = await subscribe(hub, "topic=a")
    stalled = asyncio.create_task(_stream_that_never_reads(hub))
    while len(hub.broker) < 2:
        await asyncio.sleep(0)
    for number in range(30):
        await publish(hub, "a", str(number))
    async with asyncio.timeout(10):
        await stalled
    assert await healthy.received(30) == [*map(str, range(30))]
    assert len(hub.broker) == 1
    assert hub.broker.counters.slow_clients == 1
    assert hub.broker.counters.dropped == 11
    assert "slow client" in caplog.text


STREAM_OF_A = {
    "type": "http",
    "method": "GET",
    "path": PATH,
    "query_string": b"topic=a",
    "headers": [],
}


async def _stream_that_never_reads(hub):
    never = asyncio.Event()

    async def receive():
        await never.wait()

    async def send(message):
        if message["type"] == "http.response.body":
            await never.wait()

    await hub(STREAM_OF_A, receive, send)


async def test_a_client_that_takes_nothing_for_too_long_is_disconnected(caplog):
    hub = Hub(options(dispatch_timeout=0.05))
    stalled = asyncio.create_task(_stream_that_never_reads(hub))
    async with asyncio.timeout(10):
        await stalled
    assert hub.broker.counters.timed_out == 1
    assert len(hub.broker) == 0
    assert "took nothing for 0.05 seconds" in caplog.text


async def test_a_client_whose_send_fails_leaves_nothing_behind(hub):
    never = asyncio.Event()

    async def send(message):
        if b"data: x" in message.get("body", b""):
            raise OSError("broken pipe")

    stream = asyncio.create_task(hub(STREAM_OF_A, never.wait, send))
    while len(hub.broker) < 1:
        await asyncio.sleep(0)
    await publish(hub, "a", "x")
    async with asyncio.timeout(10):
        await stream
    assert (len(hub.broker), hub._streams) == (0, set())


async def test_publishers_over_http_are_refused_when_too_many_wait():
    hub = Hub(options(queue_events=100, publish_backlog=2, max_flush_interval=0))
    stalled = asyncio.create_task(_stream_that_never_reads(hub))
    while len(hub.broker) < 1:
        await asyncio.sleep(0)
    for _ in range(50):
        await publish(hub, "a")
    waiting = [asyncio.create_task(post(hub, "topic=a")) for _ in range(2)]
    while hub.broker.waiting < 2:
        await asyncio.sleep(0)
    refused = await post(hub, "topic=a")
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    answers = await asyncio.gather(*waiting)
    assert [answer.status for answer in answers] == [200, 200]
    await hub.aclose()
    await stalled


class _Broken(MemoryTransport):
    """A transport whose store is gone."""

    async def open(self):
        raise TransportError("the disk is gone")

    async def publish(self, updates):
        raise TransportError("the disk is gone")

    async def enter(self, *arguments):
        raise TransportError("the disk is gone")


async def test_a_transport_that_fails_is_an_error_to_publishers_and_ends_no_server(caplog):
    hub = Hub(options(), _Broken(10))
    answer = await post(hub, "topic=a")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert "disk" not in answer.body.decode(), "what is wrong with it is for the log"
    assert "the disk is gone" in caplog.text
    with pytest.raises(TransportError):
        await publish(hub, "a")


async def test_a_stream_cannot_begin_while_the_transport_fails():
    hub = Hub(options(subscriptions=True), _Broken(10))
    answer = await request(hub, "GET", f"{PATH}?topic=a")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert (len(hub.broker), hub._streams) == (0, set())


async def test_a_server_does_not_start_without_its_transport():
    hub, sent = Hub(options(), _Broken(10)), []

    async def receive():
        return {"type": "lifespan.startup"}

    async def send(message):
        sent.append(message)

    await hub({"type": "lifespan"}, receive, send)
    assert sent == [{"type": "lifespan.startup.failed", "message": "the disk is gone"}]


async def test_streams_end_when_the_transport_has_lost_events(hub):
    stream = await subscribe(hub, "topic=a")
    hub.broker._interrupt()
    await stream.finished()
    assert stream.complete
    assert b"retry: " in stream.body
    assert hub.broker.counters.gaps == 1


# Shutdown ---------------------------------------------------------------------------------------


async def test_closing_ends_streams_with_a_time_to_come_back(hub):
    stream = await subscribe(hub, "topic=a")
    await publish(hub, "a", "last")
    await hub.aclose()
    await stream.finished()
    assert stream.complete
    assert stream.data[0] == "last"
    assert b"retry: " in stream.body
    assert len(hub.broker) == 0


async def test_a_hub_that_is_closing_takes_no_new_stream():
    hub = Hub(options(shutdown_timeout=0.3))
    streams = [await subscribe(hub, "topic=a") for _ in range(3)]
    hub.begin_shutdown()
    await streams[0].until(lambda it: any(s.complete for s in streams))
    answer = await request(hub, "GET", f"{PATH}?topic=a")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    await hub.aclose()
    assert all(stream.complete for stream in streams)


async def test_a_stalled_client_does_not_hold_the_shutdown_up(hub):
    stalled = asyncio.create_task(_stream_that_never_reads(hub))
    while len(hub.broker) < 1:
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await hub.aclose()
        await stalled


async def test_a_hub_alone_speaks_the_lifespan_protocol(hub):
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message["type"])

    await hub({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_hub_refuses_what_it_does_not_speak(hub):
    with pytest.raises(RuntimeError, match="websocket"):
        await hub({"type": "websocket"}, None, None)


# Cross-origin requests --------------------------------------------------------------------------

PAGE = "https://page.example"


@pytest.mark.parametrize(
    ("origins", "origin", "expected"),
    [
        ((PAGE,), PAGE, (PAGE, "true")),
        ((PAGE,), "https://evil.example", (None, None)),
        ((), PAGE, (None, None)),
        (("*",), PAGE, ("*", None)),
        (("*", PAGE), PAGE, (PAGE, "true")),
        ((PAGE,), None, (None, None)),
    ],
)
async def test_only_listed_origins_come_with_credentials(origins, origin, expected):
    hub = Hub(options(cors_origins=origins))
    headers = {"origin": origin} if origin else {}
    stream = await subscribe(hub, "topic=a", headers=headers)
    assert (
        stream.headers.get("access-control-allow-origin"),
        stream.headers.get("access-control-allow-credentials"),
    ) == expected
    refused = await request(hub, "GET", PATH, headers=headers)
    assert refused.headers.get("access-control-allow-origin") == expected[0]


async def test_a_preflight_lets_htmx_and_tokens_through():
    hub = Hub(options(cors_origins=(PAGE,)))
    asked = "authorization,hx-request,last-event-id"
    headers = {
        "origin": PAGE,
        "access-control-request-method": "GET",
        "access-control-request-headers": asked,
    }
    answer = await request(hub, "OPTIONS", PATH, headers=headers)
    assert answer.status == 204
    assert answer.headers["access-control-allow-headers"] == asked
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-origin"] == PAGE


async def test_a_blocked_stream_is_not_kept_alive_twice():
    hub = Hub(options(keepalive_interval=0.01))
    stalled = asyncio.create_task(_stream_that_never_reads(hub))
    healthy = await subscribe(hub, "topic=a")
    await publish(hub, "a", "1")
    await healthy.until(lambda it: it.body.count(b":\n") >= 3)
    [blocked] = [one for one in hub.broker if one.queue]
    assert len(blocked.queue) == 1
    await hub.aclose()
    await stalled


# Where the hub is -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "root_path"),
    [(PATH, ""), (f"/app{PATH}", "/app"), ("/mounted", "/mounted"), ("/mounted/", "/mounted")],
)
async def test_a_hub_finds_itself_below_a_root_path(hub, path, root_path):
    stream = Exchange(hub, "GET", f"{path}?topic=a", root_path=root_path)
    assert (await stream.opened()).status == 200


@pytest.mark.parametrize("path", ["/", "/subscriptions", "/other", PATH + "x"])
async def test_a_hub_has_nothing_elsewhere(presence_hub, path):
    assert (await request(presence_hub, "GET", f"{path}?topic=a")).status == 404


async def test_a_hub_is_served_by_one_event_loop(hub):
    await subscribe(hub, "topic=a")

    def serve_elsewhere():
        asyncio.run(request(hub, "GET", PATH))

    with pytest.raises(RuntimeError, match="another event loop"):
        await asyncio.to_thread(serve_elsewhere)


async def test_publishing_from_another_event_loop_is_delivered_on_the_hubs(hub):
    stream = await subscribe(hub, "topic=a")

    def publish_elsewhere():
        return asyncio.run(publish(hub, "a", "from afar"))

    identifier = await asyncio.to_thread(publish_elsewhere)
    assert await stream.received(1) == ["from afar"]
    assert stream.events[0].id == identifier
