"""Verification keys: the two of the configuration, and JWK Sets of authorization servers.

Each key belongs to an issuer, and a token is only ever verified with the keys of the issuer that
it names (specification: Token Validation). The token has no other say in the choice: `kid` is a
hint among trusted keys.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jwt

from ..errors import InvalidToken
from ..tokens import is_access_token
from .options import HubOptions

logger = logging.getLogger("quart_mercure.hub")

Role = Literal["publisher", "subscriber"]

REFRESH_AFTER = 300.0
"""How old, in seconds, a JWK Set becomes before it is fetched again."""

COOL_DOWN = 30.0
"""How long, in seconds, after a fetch no unknown `kid` and no failure leads to another."""

FETCH_TIMEOUT = 5.0
MAX_JWKS_SIZE = 256 * 1024
MAX_JWKS_KEYS = 100


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key, and the one algorithm that it is for."""

    key: Any
    algorithm: str


class JWKSource:
    """A JWK Set (RFC 7517) at a URL or in a file, kept while its source is down."""

    def __init__(self, location: str, algorithms: tuple[str, ...]) -> None:
        self._location = location
        self._algorithms = algorithms
        self._keys: dict[str | None, list[VerificationKey]] = {}
        self._fetched_at = -COOL_DOWN - REFRESH_AFTER
        self._fetching = asyncio.Lock()

    async def keys(self, kid: str | None) -> list[VerificationKey]:
        """Return the keys that a token with this `kid` may be signed with."""
        age = time.monotonic() - self._fetched_at
        known = kid is None or kid in self._keys
        if age > REFRESH_AFTER or (not known and age > COOL_DOWN):
            await self._refresh()
        if kid is not None:
            return self._keys.get(kid, [])
        return [key for keys in self._keys.values() for key in keys]

    async def _refresh(self) -> None:
        asked_at = time.monotonic()
        async with self._fetching:
            if self._fetched_at >= asked_at:
                return  # somebody else has just done it
            try:
                document = await asyncio.to_thread(_fetch, self._location)
                self._keys = _read_jwks(document, self._algorithms)
            except (OSError, ValueError, jwt.PyJWTError) as error:
                logger.warning("keeping the known keys: %s: %s", self._location, error)
            self._fetched_at = time.monotonic()


def _fetch(location: str) -> bytes:
    if location.startswith(("http://", "https://")):
        with urllib.request.urlopen(location, timeout=FETCH_TIMEOUT) as response:
            content: bytes = response.read(MAX_JWKS_SIZE + 1)
    else:
        with Path(location).open("rb") as file:
            content = file.read(MAX_JWKS_SIZE + 1)
    if len(content) > MAX_JWKS_SIZE:
        raise ValueError(f"a JWK Set is at most {MAX_JWKS_SIZE} bytes")
    return content


def _read_jwks(
    content: bytes, algorithms: tuple[str, ...]
) -> dict[str | None, list[VerificationKey]]:
    """Return the public signature keys of a JWK Set by `kid`; other keys are passed over."""
    document = json.loads(content)
    listed = document.get("keys") if isinstance(document, Mapping) else None
    if not isinstance(listed, list) or len(listed) > MAX_JWKS_KEYS:
        raise ValueError(f"a JWK Set lists at most {MAX_JWKS_KEYS} keys")
    found: dict[str | None, list[VerificationKey]] = {}
    for each in listed:
        if not isinstance(each, Mapping) or each.get("kty") == "oct" or each.get("use") == "enc":
            continue
        try:
            key = jwt.PyJWK.from_dict(dict(each))
        except jwt.PyJWTError:
            continue
        if key.algorithm_name in algorithms:
            found.setdefault(key.key_id, []).append(VerificationKey(key.key, key.algorithm_name))
    return found


def speaks_draft(header: Mapping[str, Any], options: HubOptions) -> bool:
    """Return whether a token with this header is read as one of protocol 1.0."""
    return "1.0" in options.protocols and is_access_token(header)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a token says, before it is verified, of whose it is.

    `issuer` is that of a 1.0 token; `None` for one of 0.x, and for an issuer that is no text.
    """

    draft: bool
    issuer: str | None = None
    kid: str | None = None


def origin_of(token: str, options: HubOptions) -> Origin:
    """Read a token's origin. Raises `InvalidToken` when it cannot be read."""
    try:
        header = jwt.get_unverified_header(token)
        if not speaks_draft(header, options):
            return Origin(draft=False)
        issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
    except jwt.InvalidTokenError as error:
        raise InvalidToken(str(error)) from error
    kid = header.get("kid")
    return Origin(
        draft=True,
        issuer=issuer if isinstance(issuer, str) else None,
        kid=kid if isinstance(kid, str) else None,
    )


class KeyRing:
    """All the keys that a hub trusts."""

    def __init__(self, options: HubOptions) -> None:
        self._options = options
        self._own = {
            "publisher": _configured(options.publisher_key, options),
            "subscriber": _configured(options.subscriber_key, options),
        }
        self._sources = {
            issuer: JWKSource(location, options.jwks_algorithms)
            for issuer, location in options.issuers
        }

    async def keys(self, origin: Origin, role: Role) -> list[VerificationKey]:
        """Return the keys to try a token of this origin with."""
        if not origin.draft:
            return self._own[role]
        found = self._own[role] if origin.issuer == self._options.trusted_issuer else []
        source = self._sources.get(origin.issuer) if origin.issuer is not None else None
        return found if source is None else [*found, *await source.keys(origin.kid)]


def _configured(key: str | bytes, options: HubOptions) -> list[VerificationKey]:
    return [VerificationKey(key, options.algorithm)] if key else []
