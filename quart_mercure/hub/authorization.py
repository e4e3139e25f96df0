"""Who may do what: finding the token of a request and verifying it. Pure but for keys."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import jwt

from ..errors import InvalidToken, RequestRejected
from ..tokens import Grants, grants_of_claim, grants_of_details
from .keys import KeyRing, Origin, Role, VerificationKey, origin_of
from .options import HubOptions
from .protocol import Request, challenge

MAX_TOKEN_LENGTH = 16 * 1024

MAX_REMEMBERED_TOKENS = 4096
"""How many verified tokens are remembered."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A token as it came with a request; `ambient` when the browser sends it by itself."""

    token: str
    ambient: bool = False


@dataclass(frozen=True, slots=True)
class _Verified:
    """A token that was valid: with which keys, and what it grants."""

    origin: Origin
    keys: Sequence[VerificationKey]
    grants: Grants


class Authorizer:
    """Turns the tokens of requests into grants.

    A token that comes again is not verified again, as long as it has not expired and the keys of
    its issuer are the same: publishers and reconnecting browsers present theirs many times.
    """

    def __init__(self, options: HubOptions) -> None:
        self._options = options
        self._keyring = KeyRing(options)
        self._verified: dict[tuple[str, Role], _Verified] = {}

    async def authorize(
        self, credential: Credential | None, request: Request, role: Role
    ) -> Grants | None:
        """Return the grants of the token that came with a request, or `None` when none did.

        Raises `RequestRejected` (401) when the token is not valid; the answer does not say why, so
        as not to help someone who guesses (specification: Error Responses).
        """
        if credential is None:
            return None
        try:
            if len(credential.token) > MAX_TOKEN_LENGTH:
                raise InvalidToken("the token is too long")
            return await self._grants(credential.token, role)
        except InvalidToken:
            headers = challenge(request, self._options, error="invalid_token")
            raise RequestRejected(401, "the token is not valid", headers) from None

    async def _grants(self, token: str, role: Role) -> Grants:
        verified = self._verified.get((token, role))
        origin = verified.origin if verified else origin_of(token, self._options)
        keys = await self._keyring.keys(origin, role)
        if verified and verified.keys == keys and not _expired(verified.grants):
            return verified.grants
        self._verified.pop((token, role), None)
        grants = verify(token, origin, keys, self._options)
        if len(self._verified) >= MAX_REMEMBERED_TOKENS:
            del self._verified[next(iter(self._verified))]
        self._verified[token, role] = _Verified(origin, keys, grants)
        return grants


def _expired(grants: Grants) -> bool:
    return grants.expires_at is not None and grants.expires_at <= time.time()


def find_credential(request: Request, options: HubOptions) -> Credential | None:
    """Return the token that the request carries.

    The `Authorization` header goes first; then the 0.x query parameter; then the cookies. In
    protocol 1.0 alone no token is read from a URL.
    """
    header = request.headers.get("authorization")
    if header is not None:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise RequestRejected(
                401,
                "the Authorization header must be a Bearer token",
                challenge(request, options),
            )
        return Credential(token.strip())
    if "0.x" in options.protocols:
        in_query = request.query_values("authorization")
        if len(in_query) > 1:
            raise RequestRejected(400, 'the "authorization" parameter may be given once')
        if in_query:
            return Credential(in_query[0])
    held = cookies(request.headers)
    names = {"1.0": options.access_token_cookie_name, "0.x": options.cookie_name}
    for version, name in names.items():
        if version in options.protocols and held.get(name):
            return Credential(held[name], ambient=True)
    return None


def refuse_forgery(credential: Credential | None, request: Request, options: HubOptions) -> None:
    """Refuse (403) what another site's page may have made a browser send along with its cookie.

    A request that is authorized by a cookie must come from a page of the hub's own host, or of one
    of `publish_origins` (`"*"` is all of them).
    """
    if credential is None or not credential.ambient:
        return
    page = request.headers.get("origin") or request.headers.get("referer", "")
    scheme, host = _scheme_and_host(page)
    own = host != "" and host == request.headers.get("host")
    origins = options.publish_origins
    if not own and "*" not in origins and f"{scheme}://{host}" not in origins:
        raise RequestRejected(403, "pages of this origin may not publish with a cookie")


def _scheme_and_host(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", ""
    return parts.scheme, parts.netloc


def cookies(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the cookies of a request, as browsers send them: one that is odd hides no other."""
    pairs = (pair.partition("=") for pair in headers.get("cookie", "").split(";"))
    return {name.strip(): value.strip().strip('"') for name, equals, value in pairs if equals}


def verify(
    token: str, origin: Origin, keys: Sequence[VerificationKey], options: HubOptions
) -> Grants:
    """Return the grants of a token that one of `keys` verifies.

    Its origin says which version of the protocol it is of; each key is used with its own algorithm
    only. Raises `InvalidToken`.
    """
    problem: Exception = InvalidToken("no key is trusted for this token")
    for key in keys:
        try:
            if origin.draft:
                return _verify_access_token(token, key, options)
            return _verify_legacy_token(token, key, options)
        except (jwt.InvalidTokenError, jwt.InvalidKeyError) as error:
            problem = error
    raise InvalidToken(str(problem)) from problem


def _verify_access_token(token: str, key: VerificationKey, options: HubOptions) -> Grants:
    """Verify a token of protocol 1.0 (RFC 9068, section 4; specification: Token Validation)."""
    claims: dict[str, Any] = jwt.decode(
        token,
        key.key,
        algorithms=[key.algorithm],
        audience=options.audience,
        options={"require": ["iss", "exp", "aud"]},
    )
    return grants_of_details(claims, options.base)


def _verify_legacy_token(token: str, key: VerificationKey, options: HubOptions) -> Grants:
    """Verify a token of protocol 0.x: its signature, `exp` and `nbf`."""
    if "0.x" not in options.protocols:
        raise InvalidToken("protocol 0.x is not served")
    claims = jwt.decode(token, key.key, algorithms=[key.algorithm], options={"verify_aud": False})
    return grants_of_claim(claims)
