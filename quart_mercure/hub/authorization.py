"""Who may do what: finding the token of a request and verifying it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

import jwt

from ..errors import InvalidToken, RequestRejected
from ..tokens import Grants, grants_of
from .protocol import Request

CHALLENGE = (("www-authenticate", "Bearer"),)
INVALID_TOKEN = (("www-authenticate", 'Bearer error="invalid_token"'),)
INSUFFICIENT_SCOPE = (("www-authenticate", 'Bearer error="insufficient_scope"'),)
MAX_TOKEN_LENGTH = 16 * 1024


def authorize(
    request: Request, key: str | bytes, algorithm: str, cookie_name: str
) -> Grants | None:
    """Return the grants of the request's token, or `None` when it carries none.

    The `Authorization` header goes before the `authorization` query parameter, which goes before
    the cookie. Raises `RequestRejected` (401) when the token found is not valid; the answer does
    not say why, so as not to help someone who guesses.
    """
    token = find_token(request, cookie_name)
    if token is None:
        return None
    try:
        return verify(token, key, algorithm)
    except InvalidToken:
        raise RequestRejected(401, "the token is not valid", INVALID_TOKEN) from None


def find_token(request: Request, cookie_name: str) -> str | None:
    """Return the token that the request carries, wherever it is."""
    header = request.headers.get("authorization")
    if header is not None:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise RequestRejected(401, "the Authorization header must be a Bearer token", CHALLENGE)
        return token.strip()
    in_query = request.query_values("authorization")
    if len(in_query) > 1:
        raise RequestRejected(400, 'the "authorization" parameter may be given once')
    if in_query:
        return in_query[0]
    return cookies(request.headers).get(cookie_name) or None


def refuse_forgery(request: Request, cookie_name: str, origins: tuple[str, ...]) -> None:
    """Refuse (403) what another site's page may have made a browser send along with its cookie.

    A request that is authorized by a cookie alone must come from a page of the hub's own host, or
    of one of `origins` (`"*"` is all of them).
    """
    explicit = "authorization" in request.headers or request.query_values("authorization")
    if explicit or cookie_name not in cookies(request.headers):
        return
    page = request.headers.get("origin") or request.headers.get("referer", "")
    scheme, host = urlsplit(page)[:2]
    own = host != "" and host == request.headers.get("host")
    if not own and "*" not in origins and f"{scheme}://{host}" not in origins:
        raise RequestRejected(403, "pages of this origin may not publish with a cookie")


def cookies(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the cookies of a request, as browsers send them: one that is odd hides no other."""
    pairs = (pair.partition("=") for pair in headers.get("cookie", "").split(";"))
    return {name.strip(): value.strip().strip('"') for name, equals, value in pairs if equals}


@lru_cache(maxsize=1024)
def _checked_key(key: str | bytes, algorithm: str) -> str | bytes:
    """Refuse a public key as an HMAC secret once, not at every request."""
    jwt.get_algorithm_by_name(algorithm).prepare_key(key)
    return key


def verify(token: str, key: str | bytes, algorithm: str) -> Grants:
    """Return the grants of a token, once its signature, `exp` and `nbf` are verified.

    Raises `InvalidToken` when one of them is not right.
    """
    if len(token) > MAX_TOKEN_LENGTH:
        raise InvalidToken("the token is too long")
    try:
        claims = jwt.decode(
            token,
            _checked_key(key, algorithm),
            algorithms=[algorithm],
            options={"verify_aud": False},
        )
    except jwt.InvalidTokenError as error:
        raise InvalidToken(str(error)) from error
    return grants_of(claims)
