"""The hub's HTTP interface, protocol 1.0 (draft-dunglas-mercure-08), request by request."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from urllib.parse import quote, urlencode

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from quart_mercure import Hub, HubOptions, InvalidToken
from quart_mercure.hub import authorization
from quart_mercure.hub.keys import KeyRing, origin_of
from quart_mercure.hub.matchers import parse_matcher
from quart_mercure.tokens import DETAIL_TYPE, MAX_CLAIM_MATCHERS, MAX_DETAILS, mint_access_token

from .asgi import PATH, request, subscribe

URL = f"https://hub.example{PATH}"
ISSUER = "https://issuer.example"
SUBSCRIBER_KEY = "the key of subscribers, 32 bytes or more"
PUBLISHER_KEY = "the key of publishers, 32 bytes or more"
FORM = {"content-type": "application/x-www-form-urlencoded"}


def options(**changes):
    fixed = {"subscriber_key": SUBSCRIBER_KEY, "publisher_key": PUBLISHER_KEY, "url": URL}
    fixed |= {"issuer": ISSUER, "protocols": ("1.0",), "subscriptions": False}
    return HubOptions(**(fixed | {"shutdown_timeout": 0} | changes))


@pytest.fixture
def hub():
    return Hub(options())


@pytest.fixture
def presence_hub():
    return Hub(options(subscriptions=True))


def details(action, *topics, **more):
    matchers = [{"match": topic} if isinstance(topic, str) else topic for topic in topics]
    return {"type": DETAIL_TYPE, "actions": [action], "topics": matchers, **more}


def pattern(text):
    return {"match": text, "match_type": "urlpattern"}


def claims(*authorization_details, **changes):
    now = int(time.time())
    made = {"iss": ISSUER, "aud": URL, "sub": "x", "client_id": "x", "jti": "x", "iat": now}
    made |= {"exp": now + 3600, "authorization_details": list(authorization_details)} | changes
    return {name: value for name, value in made.items() if value is not None}


def sign(content, key=SUBSCRIBER_KEY, typ="at+jwt", algorithm="HS256", **headers):
    return jwt.encode(content, key, algorithm=algorithm, headers={"typ": typ, **headers})


def subscriber(*topics, **more):
    return sign(claims(details("subscribe", *topics, **more)))


def publisher(*topics):
    return sign(claims(details("publish", *topics)), PUBLISHER_KEY)


def bearer(token):
    return {"authorization": f"Bearer {token}"}


async def post(hub, fields, token=None, **headers):
    token = publisher("*") if token is None else token
    body = fields if isinstance(fields, str) else urlencode(fields)
    headers = FORM | (bearer(token) if token else {}) | headers
    return await request(hub, "POST", PATH, headers=headers, body=body.encode())


# Subscribing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "received"),
    [
        ("match=a", ["a"]),
        ("match_exact=a", ["a"]),
        ("match=a&match_exact=a", ["a"]),
        ("match=/books/{id}", []),
        ("match=/books/:id", []),
        ("match_urlpattern=/books/:id", ["/books/1", "https://hub.example/books/2"]),
        ("match_urlpattern=https://example.com/*", ["https://example.com/x?y"]),
        ("match_urlpattern=https://*.com/*", ["https://example.com/x?y"]),
        ("match_urlpattern=/books/:id&match=a", ["a", "/books/1", "https://hub.example/books/2"]),
        ("match=*", None),
        ("match_urlpattern=*", None),
        ("match=a&topic=*", ["a"]),
    ],
)
async def test_matchers(hub, query, received):
    topics = ["a", "b", "/books/1", "https://hub.example/books/2", "https://example.com/x?y"]
    topics += ["/books/1/2", "end"]
    stream = await subscribe(hub, f"{query}&match=end")
    for topic in topics:
        await post(hub, {"topic": topic, "data": topic})
    expected = topics if received is None else [*received, "end"]
    assert await stream.received(len(expected)) == expected


@pytest.mark.parametrize("topic", ["https://[bad", "http://a b/", "https://"])
def test_a_topic_that_is_no_url_matches_no_pattern(topic):
    assert not parse_matcher("urlpattern", "https://*/*", URL).matches(topic)


def test_hostile_patterns_are_matched_in_bounded_time():
    pattern = parse_matcher("urlpattern", "/((?:a+)+)b", URL)
    assert not pattern.matches("/" + "a" * 50_000)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", 'missing "match"'),
        ("topic=a", 'missing "match"'),
        ("Match=a", "matcher type"),
        ("MATCH_EXACT=a", "matcher type"),
        ("match_Exact=a", "matcher type"),
        ("match_regexp=a", "matcher type"),
        ("matches=a", "matcher type"),
        ("%6Datch_x=a", "matcher type"),
        ("match=a&match_", "matcher type"),
        ("match=%00", "control"),
        ("match=%7F", "control"),
        ("match=%C2%80", "control"),
        ("match=%E2%80%8B", "invisible"),
        ("match_urlpattern=(", "URL pattern"),
        ("match_urlpattern=/:a/:a", "URL pattern"),
        ("match=%FF", "UTF-8"),
        ("match=" + "a" * 4097, "4096"),
        ("&".join(f"match={n}" for n in range(1001)), "1000"),
    ],
)
async def test_bad_subscriptions_are_refused_with_a_reason(hub, query, reason):
    answer = await request(hub, "GET", f"{PATH}?{query}")
    assert answer.status == 400
    assert reason in answer.body.decode()
    assert len(hub.broker) == 0


async def test_query_carries_matchers_in_its_body(hub):
    from .asgi import Exchange

    stream = Exchange(
        hub,
        "QUERY",
        f"{PATH}?match=a&last_event_id=one",
        headers=FORM,
        body=b"match=b&match_urlpattern=/c/:d&last_event_id=two",
    )
    for identifier in ("one", "two"):
        await post(hub, {"topic": "a", "data": identifier, "id": identifier})
    await stream.opened()
    for topic in ("b", "/c/1", "other", "a"):
        await post(hub, {"topic": topic, "data": topic})
    assert (await stream.received(3))[-3:] == ["b", "/c/1", "a"]


async def test_the_query_component_goes_before_the_body(hub):
    from .asgi import Exchange

    for identifier in ("one", "two", "three"):
        await post(hub, {"topic": "a", "data": identifier, "id": identifier})
    body = b"match=a&last_event_id=two"
    url = f"{PATH}?last_event_id=one"
    stream = Exchange(hub, "QUERY", url, headers=FORM, body=body)
    assert await stream.received(2) == ["two", "three"]
    wrong = await request(hub, "QUERY", PATH, headers={"content-type": "text/plain"})
    assert wrong.status == 415


@pytest.mark.parametrize(
    ("query", "headers", "replayed", "preceding"),
    [
        ("", {}, [], None),
        ("&last_event_id=1", {}, ["2", "3"], "1"),
        ("&last_event_id=3", {"last-event-id": "2"}, ["3"], "2"),
        ("&last_event_id=earliest", {}, ["1", "2", "3"], "earliest"),
        ("&last_event_id=unknown", {}, ["1", "2", "3"], "earliest"),
        ("&lastEventID=1", {}, [], None),
    ],
)
async def test_reconciliation(hub, query, headers, replayed, preceding):
    for identifier in "123":
        await post(hub, {"topic": "a", "data": identifier, "id": identifier})
    stream = await subscribe(hub, f"match=a{query}", headers=headers)
    await post(hub, {"topic": "a", "data": "live"})
    assert await stream.received(len(replayed) + 1) == [*replayed, "live"]
    assert stream.headers.get("mercure-last-event-id") == preceding
    assert "last-event-id" not in stream.headers


# Tokens -----------------------------------------------------------------------------------------


async def test_private_updates_reach_those_who_may_read_them(hub):
    token = subscriber("a", pattern("https://example.com/users/42/*"))
    query = "match=a&match=b&match_urlpattern=https://example.com/books/:id"
    allowed = await subscribe(hub, query, headers=bearer(token))
    by_cookie = await subscribe(
        hub, query, headers={"cookie": f"__Secure-mercure_access_token={token}"}
    )
    anonymous = await subscribe(hub, query)
    book, own = "https://example.com/books/1", "https://example.com/users/42/books/1"
    for topics in (["a"], ["b"], [book], [book, own]):
        await post(
            hub, [("topic", topic) for topic in topics] + [("data", topics), ("private", "")]
        )
    await post(hub, {"topic": "b", "data": "public"})
    expected = [str(["a"]), str([book, own]), "public"]
    assert await allowed.received(3) == await by_cookie.received(3) == expected
    assert await anonymous.received(1) == ["public"]


GOOD = claims(details("subscribe", "a"))
PEM = ed25519.Ed25519PrivateKey.generate()
BAD_TOKENS = {
    "no jwt": "x",
    "legacy token": sign({"mercure": {"subscribe": ["a"]}}, typ="JWT"),
    "another type": sign(GOOD, typ="JWT"),
    "id token type": sign(GOOD, typ="id+jwt"),
    "another key": sign(GOOD, "some other key, of 32 bytes or more"),
    "the publisher's key": sign(GOOD, PUBLISHER_KEY),
    "alg none": sign(GOOD, "", algorithm="none"),
    "another algorithm": sign(GOOD, SUBSCRIBER_KEY * 2, algorithm="HS512"),
    "another issuer": sign(GOOD | {"iss": "https://other.example"}),
    "issuer with a slash": sign(GOOD | {"iss": ISSUER + "/"}),
    "another audience": sign(GOOD | {"aud": "https://other.example"}),
    "expired": sign(GOOD | {"exp": int(time.time()) - 1}),
    "exp is no number": sign(GOOD | {"exp": "soon"}),
    "not yet valid": sign(GOOD | {"nbf": int(time.time()) + 3600}),
    "critical header": sign(GOOD, crit=["unknown"], unknown=1),
    "details are no list": sign(GOOD | {"authorization_details": {}}),
    "detail is no object": sign(claims(details("subscribe", "a"), "x")),
    "too many details": sign(claims(*[details("subscribe", "a")] * (MAX_DETAILS + 1))),
    **{
        f"without {name}": sign({k: v for k, v in GOOD.items() if k != name})
        for name in ("iss", "exp", "aud")
    },
    **{
        f"{name} {value!r:.30}": sign(
            claims(details("subscribe", "a"), details("subscribe", "b") | {name: value})
        )
        for name, value in [
            ("actions", None),
            ("actions", []),
            ("actions", "subscribe"),
            ("actions", ["subscribe", 1]),
            ("topics", None),
            ("topics", []),
            ("topics", "*"),
            ("topics", ["a"]),
            ("topics", [{}]),
            ("topics", [{"match": 1}]),
            ("topics", [{"match": "a", "match_type": "Exact"}]),
            ("topics", [{"match": "a", "match_type": "regexp"}]),
            ("topics", [{"match": "a", "match_type": None}]),
            ("topics", [pattern("(")]),
            ("topics", [{"match": "a\n"}]),
            ("topics", [{"match": "a" * 4097}]),
            ("topics", [{"match": "a"}] * (MAX_CLAIM_MATCHERS + 1)),
            ("payload", "text"),
            ("payload", []),
        ]
    },
}


@pytest.mark.parametrize("token", BAD_TOKENS.values(), ids=BAD_TOKENS)
async def test_a_token_that_is_not_valid_is_refused_everywhere(presence_hub, token):
    for url in (f"{PATH}?match=a", f"{PATH}/subscriptions"):
        answer = await request(presence_hub, "GET", url, headers=bearer(token))
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == (
            'Bearer error="invalid_token", resource_metadata="https://hub.example'
            '/.well-known/oauth-protected-resource/.well-known/mercure"'
        )
        assert token not in answer.body.decode()


@pytest.mark.parametrize(
    "token",
    [
        sign(GOOD, typ="AT+JWT"),
        sign(GOOD, typ="application/at+jwt"),
        sign(GOOD | {"aud": ["https://other.example", URL]}),
        sign(claims(details("subscribe", "a") | {"actions": ["subscribe", "future"]})),
        sign(claims({"type": "https://other.example/type"}, details("subscribe", "a"))),
        sign(claims(details("subscribe", {"match": "*", "match_type": "exact"}))),
        sign(GOOD, kid="whatever"),
    ],
)
async def test_a_token_that_is_valid(hub, token):
    stream = await subscribe(hub, "match=a", headers=bearer(token))
    await post(hub, {"topic": "a", "data": "private", "private": "on"})
    assert await stream.received(1) == ["private"]


@pytest.mark.parametrize(
    "authorization_details",
    [[], [{"type": DETAIL_TYPE + "s", "actions": 7}], [details("future", "*")]],
)
async def test_a_token_without_a_grant_grants_nothing(hub, authorization_details):
    token = sign(claims(*authorization_details))
    stream = await subscribe(hub, "match=a", headers=bearer(token))
    await post(hub, {"topic": "a", "data": "private", "private": "on"})
    await post(hub, {"topic": "a", "data": "public"})
    assert await stream.received(1) == ["public"]


def verify(token, hub_options):
    origin = origin_of(token, hub_options)
    keys = asyncio.run(KeyRing(hub_options).keys(origin, "subscriber"))
    return authorization.verify(token, origin, keys, hub_options)


def pem(key):
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


KEYS = {
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "PS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
}


@pytest.mark.parametrize("algorithm", KEYS)
def test_public_keys(algorithm):
    key = KEYS[algorithm]
    hub_options = options(subscriber_key=pem(key), algorithm=algorithm)
    assert verify(sign(GOOD, key, algorithm=algorithm), hub_options).may_receive(("a",))


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_public_key_never_verifies_an_hmac(algorithm):
    """RFC 8725, 2.1: the token says HS256 and is signed with the text of the public key."""
    public = pem(KEYS[algorithm])
    forged = hmac_signed(GOOD, public)
    for configured in (algorithm, "HS256"):
        hub_options = options(subscriber_key=public, algorithm=configured)
        with pytest.raises(InvalidToken):
            verify(forged, hub_options)


def hmac_signed(content, secret):
    import hashlib
    import hmac

    def encode(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    header = encode(json.dumps({"alg": "HS256", "typ": "at+jwt"}).encode())
    signed = header + b"." + encode(json.dumps(content).encode())
    signature = hmac.new(secret, signed, hashlib.sha256).digest()
    return (signed + b"." + encode(signature)).decode()


def test_the_forgery_above_is_well_formed():
    token = hmac_signed(GOOD, SUBSCRIBER_KEY.encode())
    assert verify(token, options()).may_receive(("a",))


VALID = sign(GOOD)


@settings(max_examples=300)
@given(st.integers(0, len(VALID) - 1), st.integers(1, 255))
def test_a_token_with_any_byte_changed_is_refused(index, change):
    changed = chr(ord(VALID[index]) ^ change)
    token = VALID[:index] + changed + VALID[index + 1 :]
    if same_bytes(token, VALID):
        return  # the last character of a base64 part has bits that mean nothing
    with pytest.raises(InvalidToken):
        verify(token, options())


def same_bytes(one, other):
    def parts(token):
        return [base64.urlsafe_b64decode(part + "==") for part in token.split(".")]

    try:
        return parts(one) == parts(other)
    except ValueError:
        return False


async def test_no_token_is_read_from_a_url_or_the_old_cookie(hub):
    token = subscriber("a")
    stream = await subscribe(
        hub,
        f"match=a&authorization={token}&access_token={token}",
        headers={"cookie": f"mercureAuthorization={token}"},
    )
    await post(hub, {"topic": "a", "data": "private", "private": "on"})
    await post(hub, {"topic": "a", "data": "public"})
    assert await stream.received(1) == ["public"]


async def test_the_header_goes_before_the_cookie(hub):
    headers = bearer("x") | {"cookie": f"__Secure-mercure_access_token={subscriber('a')}"}
    assert (await request(hub, "GET", f"{PATH}?match=a", headers=headers)).status == 401


async def test_without_a_token_the_challenge_has_no_error(presence_hub):
    hub = Hub(options(allow_anonymous=False))
    for answer in (
        await request(hub, "GET", f"{PATH}?match=a"),
        await post(hub, {"topic": "a"}, ""),
        await request(presence_hub, "GET", f"{PATH}/subscriptions"),
    ):
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith("Bearer resource_metadata=")


async def test_a_stream_ends_when_its_token_expires(hub):
    token = sign(GOOD | {"exp": int(time.time()) + 1})
    stream = await subscribe(hub, "match=a", headers=bearer(token))
    assert (await stream.finished()).complete


# Publishing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ({}, 400, 'missing "topic"'),
        ({"topic": "*"}, 400, '"*"'),
        ({"topic": "a\n"}, 400, "control"),
        ({"topic": "a", "id": "#1"}, 400, "#"),
        ({"topic": "a", "id": "earliest"}, 400, "reserved"),
        ({"topic": "a", "id": "a\u200b"}, 400, "invisible"),
        ({"topic": "a", "type": "mercure"}, 400, "reserved"),
        ({"topic": "a", "type": "a\x85"}, 400, "control"),
        ({"topic": "a", "retry": "1.5"}, 400, "digits"),
        ({"topic": "a", "retry": "٣"}, 400, "digits"),
        ({"topic": PATH}, 400, "reserved"),
        ({"topic": f"{PATH}/subscriptions/exact/a/b"}, 400, "reserved"),
        ({"topic": f"https://anywhere.example{PATH}/x"}, 400, "reserved"),
        ({"topic": "/.well-known/%6Dercure/x"}, 400, "reserved"),
        ({"topic": "/.well-known/x/../mercure/x"}, 400, "reserved"),
        ({"topic": "/.well-known/x/%2e%2E/mercure/x"}, 400, "reserved"),
        ({"topic": "\\.well-known\\mercure"}, 400, "reserved"),
        ({"topic": "subscriptions/a"}, 200, ""),
        ({"topic": "mercure/x"}, 400, "reserved"),
        ({"topic": "/.well-known/mercurex"}, 200, ""),
        ({"topic": f"https://example.com/x?{PATH}"}, 200, ""),
        ({"topic": "https://[bad"}, 200, ""),
        ({"topic": "a", "data": "x" * (1024 * 1024)}, 413, "larger"),
        ({"topic": "a" * 4097}, 413, "4096"),
        ({"topic": "a", "id": "a" * 1025}, 413, "1024"),
        ([("topic", str(n)) for n in range(1001)], 413, "1000"),
        ([("topic", "a"), *((f"x{n}", "") for n in range(4000))], 413, "4000"),
    ],
)
async def test_publications(hub, fields, status, reason):
    answer = await post(hub, fields)
    assert answer.status == status
    assert reason in answer.body.decode() or status == 200
    assert (hub.last_event_id == "earliest") == (status != 200)


@pytest.mark.parametrize(
    ("token", "status", "error"),
    [
        ("", 401, "resource_metadata"),
        (subscriber("*"), 401, "invalid_token"),
        (sign(claims(details("subscribe", "*")), PUBLISHER_KEY), 403, "insufficient_scope"),
        (publisher("a"), 403, "insufficient_scope"),
        (publisher("a", "/books/:id"), 403, "insufficient_scope"),
        (publisher("a", pattern("/books/:id")), 200, None),
        (publisher("*"), 200, None),
    ],
)
async def test_every_topic_must_be_granted(hub, token, status, error):
    answer = await post(hub, [("topic", "a"), ("topic", "/books/1")], token)
    assert answer.status == status
    if error:
        assert error in answer.headers["www-authenticate"]
        assert "resource_metadata=" in answer.headers["www-authenticate"]


async def test_reserved_topics_are_refused_whatever_the_token(hub):
    assert (await post(hub, {"topic": f"{PATH}/x"}, publisher("other"))).status == 400


async def test_refusals_are_problem_details_for_clients_that_accept_json(hub):
    answer = await post(hub, {}, accept="application/json")
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.body) == {
        "title": "Bad Request",
        "status": 400,
        "detail": 'missing "topic" parameter',
    }


# Active subscriptions ---------------------------------------------------------------------------

EVERYTHING = pattern(f"{PATH}/subscriptions/:type/:match/:subscriber")


async def test_subscription_events(presence_hub):
    hub = presence_hub
    query = f"match_urlpattern={EVERYTHING['match']}"
    watcher = await subscribe(hub, query, headers=bearer(subscriber(EVERYTHING)))
    token = sign(
        claims(
            details("subscribe", "/a b", payload={"n": 1}),
            details("subscribe", pattern("https://example.com/:id"), payload={"n": 2}),
            details("subscribe", "*", payload={"n": 3}),
        )
    )
    matchers = [("match", "/a b"), ("match_urlpattern", "https://example.com/:id"), ("match", "z")]
    stream = await subscribe(hub, urlencode(matchers), headers=bearer(token))
    await stream.leave()
    events = [json.loads(data) for data in (await watcher.received(7))[-6:]]
    assert {event.event for event in watcher.events} == {"mercure"}
    identifier = events[0]["subscriber"]
    assert events[0] == {
        "id": f"{PATH}/subscriptions/exact/%2Fa%20b/{quote(identifier, safe='')}",
        "type": "subscription",
        "match_type": "exact",
        "match": "/a b",
        "subscriber": identifier,
        "active": True,
        "payload": {"n": 1},
    }
    assert [event["match_type"] for event in events[:3]] == ["exact", "urlpattern", "exact"]
    assert [event["payload"]["n"] for event in events[:3]] == [1, 2, 3]
    assert [event["active"] for event in events] == [True] * 3 + [False] * 3


async def get(hub, path, *granted, **headers):
    headers |= bearer(subscriber(*granted)) if granted else {}
    return await request(hub, "GET", f"{PATH}/subscriptions{path}", headers=headers)


async def test_the_subscriptions_api(presence_hub):
    hub = presence_hub
    await subscribe(hub, "match=a&match_urlpattern=/x/:y")
    answer = await get(hub, "", "*")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["link"] == (
        f'<{URL}>; rel="mercure"; last-event-id="{hub.last_event_id}"; type="mercure"; '
        'content-type="application/json"'
    )
    everything = json.loads(answer.body)
    assert everything.keys() == {"id", "type", "subscriptions"}
    assert (everything["id"], everything["type"]) == (f"{PATH}/subscriptions", "subscriptions")
    exact, by_pattern = everything["subscriptions"]
    of_a = json.loads((await get(hub, "/exact/a", "*")).body)
    assert of_a == {"id": f"{PATH}/subscriptions/exact/a", "type": "subscriptions"} | {
        "subscriptions": [exact]
    }
    of_x = json.loads((await get(hub, "/urlpattern/%2Fx%2F%3Ay", "*")).body)
    assert of_x["subscriptions"] == [by_pattern]
    single = await get(hub, exact["id"].removeprefix(f"{PATH}/subscriptions"), EVERYTHING)
    assert json.loads(single.body) == exact
    assert "last-event-id" in single.headers["link"]
    fresh = await get(hub, "", "*", **{"if-none-match": answer.headers["etag"]})
    assert fresh.status == 304


@pytest.mark.parametrize(
    ("path", "granted", "status"),
    [
        ("", (), 401),
        ("", (EVERYTHING,), 403),
        ("", (f"{PATH}/subscriptions",), 200),
        ("/exact/a", (f"{PATH}/subscriptions/exact/a",), 200),
        ("/exact/a", (pattern(f"{URL}/subscriptions/*"),), 200),
        ("/exact/a/nobody", ("*",), 404),
        ("/exact", ("*",), 404),
        ("/regexp/a", ("*",), 404),
        ("/urlpattern/(", ("*",), 404),
        ("/exact/a/b/c", ("*",), 404),
    ],
)
async def test_reading_subscriptions_has_its_rules(presence_hub, path, granted, status):
    assert (await get(presence_hub, path, *granted)).status == status


async def test_one_subscription_is_told_in_both_protocols():
    hub = Hub(options(subscriptions=True, protocols=("0.x", "1.0")))
    await subscribe(hub, "topic=a&match=a&match_urlpattern=/p/:q&topic=/t/{u}")
    token = jwt.encode({"mercure": {"subscribe": ["*"]}}, SUBSCRIBER_KEY)
    old = await request(hub, "GET", f"{PATH}/subscriptions", headers=bearer(token))
    assert [one["topic"] for one in json.loads(old.body)["subscriptions"]] == ["a", "/t/{u}"]
    new = await get(hub, "", "*")
    assert [one["match"] for one in json.loads(new.body)["subscriptions"]] == ["a", "/p/:q"]


# Discovery --------------------------------------------------------------------------------------


async def test_the_metadata_is_at_the_derived_path(presence_hub):
    path = f"/.well-known/oauth-protected-resource{PATH}"
    answer = await request(presence_hub, "GET", path)
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.body) == {
        "resource": URL,
        "authorization_details_types_supported": [DETAIL_TYPE],
        "bearer_methods_supported": ["header"],
        "mercure_cookie": "__Secure-mercure_access_token",
        "mercure_matcher_types_supported": ["exact", "urlpattern"],
        "mercure_subscriptions": True,
    }
    old = Hub(options(protocols=("0.x",)))
    assert (await request(old, "GET", path)).status == 404


# Both protocols together, and each alone --------------------------------------------------------


def test_what_we_mint_is_read_by_both_protocols():
    grants = {}
    for protocols in (("0.x",), ("1.0",), ("0.x", "1.0")):
        hub_options = options(protocols=protocols)
        token = mint_access_token(
            SUBSCRIBER_KEY,
            issuer=ISSUER,
            audience=URL,
            lifetime=60,
            subscribe=[{"match": "a"}],
            payload={"n": 1},
            claim={"subscribe": ["a"], "payload": {"n": 1}},
        )
        grants[protocols] = verify(token, hub_options)
    assert {each.version for each in grants.values()} == {"0.x", "1.0"}
    assert all(each.may_receive(("a",)) for each in grants.values())
    assert all(each.payloads[0].value == {"n": 1} for each in grants.values())


async def test_a_hub_of_the_old_protocol_leaves_the_new_names_alone():
    hub = Hub(options(protocols=("0.x",)))
    stream = await subscribe(hub, "topic=a&match_regexp=b&matches")
    assert stream.status == 200
    assert (await request(hub, "QUERY", f"{PATH}?topic=a")).status == 405
