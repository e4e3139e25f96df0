"""Receiving updates in Python, and updates that the hub cannot read."""

from __future__ import annotations

import asyncio

import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from quart import Quart

from quart_mercure import (
    ConfigurationError,
    DecryptionError,
    HubUnavailable,
    MercureSSE,
    Update,
    subscribe,
)
from quart_mercure import subscriber as subscriber_module
from quart_mercure.encryption import decrypt, encrypt
from quart_mercure.hub.events import Batch
from quart_mercure.hub.matchers import exact

from .asgi import subscribe as subscribe_here
from .conftest import SECRET
from .test_publisher import make_hub, served


@pytest.fixture
def no_pauses(monkeypatch):
    monkeypatch.setattr(subscriber_module, "_FIRST_PAUSE", 0.001)


async def take(updates, count):
    found = []
    async with asyncio.timeout(15):
        async for update in updates:
            found.append(update)
            if len(found) == count:
                break
    await updates.aclose()
    return found


async def connected(hub, topic="a", count=1):
    async with asyncio.timeout(10):
        while len(hub.broker.subscribers_of(exact(topic))) < count:
            await asyncio.sleep(0)


@pytest.mark.parametrize("parameter", ["topic", "match"])
async def test_updates_are_received(parameter):
    hub = make_hub()
    async with served(hub) as url:
        taking = asyncio.create_task(take(subscribe(url, ["a"], parameter=parameter), 2))
        await connected(hub)
        await hub.publish(Update(topics=("a",), data="1", id="one", type="t"))
        await hub.publish(Update(topics=("b",), data="no"))
        await hub.publish(Update(topics=("a",), data="", id="two"))
        found = await taking
    assert [(update.data, update.id, update.type) for update in found] == [
        ("1", "one", "t"),
        ("", "two", "message"),
    ]


async def test_nothing_is_missed_or_doubled_over_a_restart_of_the_stream(no_pauses):
    hub = make_hub(shutdown_timeout=0)
    async with served(hub) as url:
        taking = asyncio.create_task(take(subscribe(url, ["a"]), 20))
        await connected(hub)
        for number in range(20):
            await hub.publish(Update(topics=("a",), data=str(number)))
            if number % 5 == 4:
                for stream in tuple(hub._streams):
                    stream.end(Batch((), b"retry: 1\n\n"))
        found = await taking
    assert [update.data for update in found] == [*map(str, range(20))]


async def test_a_hub_that_is_down_is_tried_again_and_again(no_pauses):
    async with served(make_hub()) as url:
        pass
    taking = asyncio.create_task(take(subscribe(url, ["a"], last_event_id="earliest"), 1))
    await asyncio.sleep(0.05)
    assert not taking.done()
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking


async def test_a_refusal_is_told():
    async with served(make_hub(allow_anonymous=False)) as url:
        with pytest.raises(HubUnavailable, match="401: subscribing needs a token"):
            await take(subscribe(url, ["a"]), 1)
        with pytest.raises(HubUnavailable, match="401"):
            await take(subscribe(url, ["a"], jwt="x"), 1)


PRIVATE = {
    "RSA": RSAKey.generate_key(2048, private=True),
    "EC": ECKey.generate_key("P-256", private=True),
    "OKP": OKPKey.generate_key("X25519", private=True),
    "oct": OctKey.generate_key(256),
}


def public(kind, **more):
    return PRIVATE[kind].as_dict(private=kind == "oct") | more


def private(kind, **more):
    return PRIVATE[kind].as_dict(private=True) | more


@pytest.mark.parametrize("kind", PRIVATE)
def test_only_the_holder_of_the_key_can_read(kind):
    sealed = encrypt("secret ☕", public(kind))
    assert "secret" not in sealed
    assert sealed.count(".") == 4
    assert decrypt(sealed, private(kind)) == "secret ☕"
    for other in PRIVATE.keys() - {kind}:
        with pytest.raises(DecryptionError):
            decrypt(sealed, private(other))


def test_sets_of_keys():
    sealed = encrypt("x", {"keys": [public("EC", use="sig"), public("RSA", kid="r")]})
    mine = {"keys": [private("OKP", kid="o"), private("RSA", kid="r")]}
    assert decrypt(sealed, mine) == "x"
    with pytest.raises(DecryptionError, match="no key of the set"):
        decrypt(sealed, {"keys": [private("RSA", kid="other")]})


@pytest.mark.parametrize(
    "key",
    [
        {},
        {"keys": []},
        {"kty": "RSA"},
        {"keys": [{"kty": "EC", "use": "sig"}]},
        PRIVATE["RSA"].as_dict(private=False) | {"alg": "RSA1_5"},
        PRIVATE["EC"].as_dict(private=False) | {"alg": "ES256"},
    ],
)
def test_keys_that_are_of_no_use(key):
    with pytest.raises(ConfigurationError, match="encrypt_for"):
        encrypt("x", key)


@pytest.mark.parametrize("data", ["", "x", "a.b.c.d.e", "e30.a.b.c.d", "bnVsbA.a.b.c.d"])
def test_data_that_is_not_encrypted(data):
    with pytest.raises(DecryptionError):
        decrypt(data, private("EC"))


async def test_an_encrypted_update_from_publisher_to_subscriber():
    app = Quart(__name__)
    app.config["SECRET_KEY"] = SECRET
    sse = MercureSSE(app, hub=True)
    hub = sse.hub
    stream = await subscribe_here(app.asgi_app, "topic=a")
    async with served(hub) as url:
        receiving = subscribe(url, ["a"], decryption_key=private("EC"))
        taking = asyncio.create_task(take(receiving, 1))
        await connected(hub, count=2)
        await sse.publish("a", {"n": 1}, encrypt_for=public("EC"))
        [update] = await taking
    assert update.data == '{"n": 1}'
    seen = (await stream.received(1))[0]
    assert seen.count(".") == 4
    assert decrypt(seen, private("EC")) == update.data
