"""Hostile input: whatever comes, an answer below 500, at once, and nothing of it stays."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import random

import jwt
import pytest

from quart_mercure import Hub, HubOptions
from quart_mercure.tokens import mint, mint_access_token

from .asgi import PATH

KEY = "the key of a hub, 32 bytes or more"
REQUESTS = 100_000
BATCH = 1000

SPICE = [
    *(
        "",
        "*",
        "a",
        "é☕",
        "\0",
        "\r\n",
        "\n\ndata: x",
        "%",
        "%0",
        "%zz",
        "%00",
        "%ff",
        "%E2%80%8B",
    ),
    *(
        "{",
        "}",
        "{a}",
        "{+a}",
        "{a*}",
        "{?a,b}",
        "/:id",
        "(",
        ")",
        "(.*)",
        "\\",
        ":",
        "/:a/:a",
        "[",
        "]",
    ),
    *("../..", "/.well-known/mercure", "/.well-known/%6dercure/x", "https://[", "javascript:x"),
    *(
        "#1",
        "earliest",
        "mercure",
        "-1",
        "1e9",
        "NaN",
        "null",
        "9" * 400,
        "a" * 5000,
        "\u202e",
        "\x7f",
    ),
]
NAMES = [
    *("topic", "match", "match_exact", "match_urlpattern", "Match", "match_x", "lastEventID"),
    *("last_event_id", "authorization", "data", "private", "id", "type", "retry", "x", "", "%"),
]
HEADERS = [
    *("authorization", "cookie", "origin", "referer", "last-event-id", "accept", "content-type"),
    *("if-none-match", "host", "access-control-request-headers", "content-length", "x"),
]
METHODS = ["GET", "GET", "GET", "POST", "POST", "QUERY", "HEAD", "OPTIONS", "PUT", "X"]
PATHS = [
    *("", "", "", "", "/", "/subscriptions", "/subscriptions/a", "/subscriptions/exact/a/b"),
    *("/subscriptions/urlpattern/(", "/subscriptions/%", "/subscriptions//", "/x", "//", "/%00"),
]


def tokens():
    claims = [{"mercure": value} for value in (None, 1, [], {"subscribe": 1}, {"publish": ["*"]})]
    claims += [{"authorization_details": value} for value in (None, 1, [1], [{}], [{"type": 1}])]
    made = [jwt.encode(claim, KEY) for claim in claims]
    made += [jwt.encode(claim, KEY, headers={"typ": "at+jwt"}) for claim in claims]
    made += [jwt.encode(claim | {"exp": "x"}, KEY) for claim in claims]
    made += [mint(KEY, {"publish": ["*"], "subscribe": ["*"], "payload": "\ud800"})]
    every = [{"match": "*"}]
    keep = {"issuer": HUB_URL, "audience": HUB_URL, "lifetime": 600}
    made += [mint_access_token(KEY, **keep, publish=every, subscribe=every)]
    headers = [b"{}", b"[]", b"x", b'{"alg":"none","typ":"at+jwt"}', b'{"alg":1}', b'{"typ":[]}']
    parts = [base64.urlsafe_b64encode(header).rstrip(b"=").decode() for header in headers]
    return made + [f"{part}.{body}.x" for part in parts for body in ("e30", "", "W10", "bnVsbA")]


HUB_URL = f"https://localhost{PATH}"
TOKENS = tokens()


def seasoned(chance: random.Random) -> str:
    text = "".join(chance.choices(SPICE, k=chance.randint(1, 3)))
    return (
        text.encode("utf-8", "surrogatepass").decode("latin-1") if chance.random() < 0.5 else text
    )


def form(chance: random.Random) -> bytes:
    pairs = [
        f"{chance.choice(NAMES)}={chance.choice([seasoned(chance), chance.choice(TOKENS)])}"
        for _ in range(chance.randint(0, 5))
    ]
    return chance.choice("&&&&;").join(pairs).encode("utf-8", "replace")


def header(chance: random.Random) -> tuple[bytes, bytes]:
    name = chance.choice(HEADERS)
    token = chance.choice(TOKENS)
    value = {
        "authorization": f"{chance.choice(['Bearer ', 'bearer ', 'Basic ', ''])}{token}",
        "cookie": f"mercureAuthorization={token}; __Secure-mercure_access_token={token}",
        "content-type": "application/x-www-form-urlencoded",
        "accept": "application/json",
        "origin": "https://[",
    }.get(name, seasoned(chance))
    if chance.random() < 0.2:
        value = seasoned(chance)
    return name.encode(), value.encode("utf-8", "surrogatepass")


def scope(chance: random.Random) -> dict:
    path = PATH + chance.choice(PATHS)
    return {
        "type": "http",
        "method": chance.choice(METHODS),
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": form(chance),
        "headers": [header(chance) for _ in range(chance.randint(0, 4))],
        "client": chance.choice([None, ("192.0.2.1", 1)]),
    }


async def one_request(hub: Hub, chance: random.Random) -> int:
    """Make a request; a stream that opens is left as soon as it has begun."""
    incoming = [{"type": "http.request", "body": form(chance), "more_body": False}]
    statuses = []
    began = asyncio.Event()

    async def receive():
        if incoming:
            return incoming.pop()
        await began.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
            for name, value in message["headers"]:
                assert not set(name + value) & {0, 10, 13}, "no header is split"
        elif message.get("more_body"):
            began.set()

    request = scope(chance)
    try:
        async with asyncio.timeout(10):
            await hub(request, receive, send)
    except Exception as error:
        raise AssertionError(f"{request!s:.2000}") from error
    assert len(statuses) == 1, request
    assert statuses[0] < 500, request
    return statuses[0]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("protocols", [("0.x",), ("1.0",), ("0.x", "1.0")])
async def test_hostile_requests(protocols, caplog):
    caplog.set_level(logging.DEBUG)
    chance = random.Random(f"hostile {protocols}")
    hub = Hub(
        HubOptions(
            subscriber_key=KEY,
            publisher_key=KEY,
            protocols=protocols,
            cors_origins=("*",),
            reconciliation_length=50,
        )
    )
    seen = set()
    for _ in range(REQUESTS // 3 // BATCH + 1):
        for _ in range(BATCH):
            seen.add(await one_request(hub, chance))
        assert len(hub.broker) == 0
        assert (len(hub.broker.index), len(hub.broker.granted)) == (0, 0)
        assert hub._streams == set()
    assert {200, 400, 401, 403, 404, 405} <= seen
    assert not any(token in caplog.text for token in TOKENS), "no token is logged"
    await hub.aclose()


@pytest.mark.parametrize("document", ["[" * 10_000, json.dumps({"a": "x" * 20_000})])
async def test_tokens_of_unusual_shape(document):
    part = base64.urlsafe_b64encode(document.encode()).rstrip(b"=").decode()
    hub = Hub(HubOptions(subscriber_key=KEY, publisher_key=KEY))
    for token in (f"{part}.{part}.x", f"e30.{part}.x", part):
        statuses = []

        async def send(message, statuses=statuses):
            statuses.append(message.get("status"))

        await hub(
            {
                "type": "http",
                "method": "GET",
                "path": PATH,
                "query_string": b"topic=a",
                "headers": [(b"authorization", b"Bearer " + token.encode())],
            },
            None,
            send,
        )
        assert statuses[0] == 401
