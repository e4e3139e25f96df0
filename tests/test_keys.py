"""Keys of JWK Sets: fetched when needed, kept when their source is down."""

from __future__ import annotations

import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from jwt.algorithms import ECAlgorithm, OKPAlgorithm
from quart import Quart

from quart_mercure import Hub, HubOptions, InvalidToken
from quart_mercure.hub import keys as keys_module
from quart_mercure.hub.authorization import verify
from quart_mercure.hub.keys import JWKSource, KeyRing, origin_of

from .asgi import PATH, request, subscribe
from .test_publisher import served

ISSUER, OTHER = "https://as.example", "https://other.example"
AUDIENCE = f"https://localhost{PATH}"
DETAIL = "https://mercure.rocks/authorization-detail"
ALGORITHMS = ("EdDSA", "ES256")
ONE, TWO = ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())


def jwk(key, **changes):
    algorithm = OKPAlgorithm if key is ONE else ECAlgorithm(ECAlgorithm.SHA256)
    return json.loads(algorithm.to_jwk(key.public_key())) | changes


def token(key, issuer=ISSUER, **headers):
    now = int(time.time())
    details = [{"type": DETAIL, "actions": ["subscribe"], "topics": [{"match": "a"}]}]
    claims = {"iss": issuer, "aud": AUDIENCE, "exp": now + 60, "authorization_details": details}
    algorithm = "EdDSA" if key is ONE else "ES256"
    return jwt.encode(claims, key, algorithm, headers={"typ": "at+jwt"} | headers)


@pytest.fixture
def jwks(tmp_path):
    def write(*keys):
        path = tmp_path / "jwks.json"
        path.write_text(json.dumps({"keys": keys}))
        return str(path)

    return write


async def accepted(hub_options, *tokens):
    ring = KeyRing(hub_options)
    found = []
    for each in tokens:
        try:
            origin = origin_of(each, hub_options)
            verify(each, origin, await ring.keys(origin, "subscriber"), hub_options)
            found.append(True)
        except InvalidToken:
            found.append(False)
    return found


async def test_tokens_of_an_authorization_server(jwks):
    location = jwks(jwk(ONE, kid="one"), jwk(TWO, kid="two"), jwk(TWO))
    hub_options = HubOptions(issuers=((ISSUER, location),))
    tokens = [token(ONE, kid="one"), token(TWO, kid="two"), token(ONE), token(TWO)]
    assert await accepted(hub_options, *tokens) == [True] * 4
    wrong = [token(ONE, kid="two"), token(ONE, OTHER, kid="one"), token(ONE, kid="three")]
    assert await accepted(hub_options, *wrong) == [False] * 3


async def test_keys_of_one_issuer_do_not_vouch_for_another(jwks, tmp_path):
    others = tmp_path / "other.json"
    others.write_text(json.dumps({"keys": [jwk(TWO)]}))
    hub_options = HubOptions(issuers=((ISSUER, jwks(jwk(ONE))), (OTHER, str(others))))
    good, bad = [token(ONE), token(TWO, OTHER)], [token(TWO), token(ONE, OTHER)]
    assert await accepted(hub_options, *good, *bad) == [True, True, False, False]


@pytest.mark.parametrize(
    "key",
    [
        {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"},
        {"kty": "unknown"},
        {"kty": "EC"},
        "text",
        jwk(ONE, use="enc"),
        jwk(TWO, alg="ES384"),
    ],
)
async def test_keys_that_are_not_for_verifying_are_passed_over(jwks, key):
    source = JWKSource(jwks(key, jwk(ONE, kid="good")), ALGORITHMS)
    assert len(await source.keys(None)) == 1


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"keys": 1}', "x" * 300_000])
async def test_what_is_no_jwk_set_changes_nothing(tmp_path, content, caplog):
    path = tmp_path / "jwks.json"
    path.write_text(content)
    assert await JWKSource(str(path), ALGORITHMS).keys(None) == []
    assert "keeping the known keys" in caplog.text


async def test_rotation_cool_down_and_a_source_that_is_down(monkeypatch):
    answers, asked = [[jwk(ONE, kid="one")]], []
    app = Quart(__name__)

    @app.get("/jwks")
    async def endpoint():
        asked.append(1)
        return {"keys": answers[0]} if answers else ("", 500)

    clock = [1000.0]
    monkeypatch.setattr(keys_module.time, "monotonic", lambda: clock[0])
    async with served(app) as url:
        source = JWKSource(url.replace(PATH, "/jwks"), ALGORITHMS)
        assert len(await source.keys("one")) == 1
        answers[0].append(jwk(TWO, kid="two"))
        assert await source.keys("two") == [], "too soon after the last fetch"
        assert len(asked) == 1
        clock[0] += keys_module.COOL_DOWN + 1
        assert len(await source.keys("two")) == 1
        answers.clear()
        clock[0] += keys_module.REFRESH_AFTER + 1
        assert len(await source.keys("one")) == 1, "kept while the source is down"
        assert len(asked) == 3
    clock[0] += keys_module.REFRESH_AFTER + 1
    assert len(await source.keys("one")) == 1


async def test_a_hub_with_keys_of_an_authorization_server_alone(jwks):
    hub = Hub(HubOptions(issuers=((ISSUER, jwks(jwk(ONE))),), subscriptions=False))
    headers = {"authorization": f"Bearer {token(ONE)}"}
    assert (await subscribe(hub, "match=a", headers=headers)).status == 200
    legacy = jwt.encode({"mercure": {"subscribe": ["*"]}}, "", algorithm="none")
    for bad in (legacy, "x", token(TWO)):
        headers = {"authorization": f"Bearer {bad}"}
        assert (await request(hub, "GET", f"{PATH}?match=a", headers=headers)).status == 401
    path = f"/.well-known/oauth-protected-resource{PATH}"
    metadata = json.loads((await request(hub, "GET", path)).body)
    assert metadata["authorization_servers"] == [ISSUER]
