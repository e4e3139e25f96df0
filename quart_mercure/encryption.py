"""Updates that the hub cannot read: JWE in compact form (specification: Encryption).

Needs `pip install 'quart-mercure[encryption]'`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from .errors import ConfigurationError, DecryptionError

_ALGORITHMS = {
    "RSA": "RSA-OAEP-256",
    "EC": "ECDH-ES+A256KW",
    "OKP": "ECDH-ES+A256KW",
    "oct": "A256KW",
}
_ENCRYPTION = "A256GCM"
# What a publisher may have chosen. RSA1_5 is not among them: its padding is an oracle.
_ACCEPTED = (
    *("RSA-OAEP-256", "RSA-OAEP", "ECDH-ES", "ECDH-ES+A128KW", "ECDH-ES+A256KW"),
    *("A128KW", "A256KW", "dir", "A128GCM", "A256GCM"),
)

Key = Mapping[str, Any]
"""A JWK (RFC 7517), or a JWK Set."""


def encrypt(text: str, key: Key) -> str:
    """Return text encrypted for the holder of a key: a public JWK, a secret one, or a set of such.

    Of a set, the first key that is for encryption is used. Raises `ConfigurationError` when there
    is none, or its `alg` is not one to be trusted.
    """
    jwk = _encryption_key(key)
    algorithm = jwk.get("alg") or _ALGORITHMS.get(str(jwk.get("kty")))
    if algorithm not in _ACCEPTED:
        raise ConfigurationError("encrypt_for", f"has no algorithm to be trusted: {algorithm!r}")
    header = {"alg": algorithm, "enc": _ENCRYPTION}
    if "kid" in jwk:
        header["kid"] = jwk["kid"]
    jwe, imported = _joserfc()
    try:
        encrypted: str = jwe.encrypt_compact(
            header, text.encode(), imported(dict(jwk)), algorithms=list(_ACCEPTED)
        )
    except Exception as error:
        raise ConfigurationError("encrypt_for", f"is not a usable JWK: {error}") from error
    return encrypted


def decrypt(data: str, key: Key) -> str:
    """Return the text of an encrypted update, or raise `DecryptionError`."""
    jwe, imported = _joserfc()
    problem = "no key of the set"
    for jwk in _decryption_keys(data, key):
        try:
            opened = jwe.decrypt_compact(data, imported(dict(jwk)), algorithms=list(_ACCEPTED))
            return bytes(opened.plaintext).decode()
        except Exception as error:  # joserfc, cryptography and binascii each have their own
            problem = str(error) or type(error).__name__
    raise DecryptionError(f"the update could not be decrypted: {problem}")


def _keys(key: Key) -> list[Key]:
    listed = key.get("keys", [key])
    return [each for each in listed if isinstance(each, Mapping) and each.get("use") != "sig"]


def _encryption_key(key: Key) -> Key:
    keys = _keys(key)
    if not keys:
        raise ConfigurationError("encrypt_for", "holds no key for encryption")
    return keys[0]


def _decryption_keys(data: str, key: Key) -> list[Key]:
    """Return the keys to try: those with the `kid` that the data names, or all."""
    try:
        encoded = data.split(".")[0]
        header = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
        kid = header.get("kid")
    except (ValueError, AttributeError):
        raise DecryptionError("the update is not a JWE in compact form") from None
    keys = _keys(key)
    return [each for each in keys if each.get("kid") == kid] if kid is not None else keys


def _joserfc() -> tuple[Any, Any]:
    try:
        from joserfc import jwe
        from joserfc.jwk import JWKRegistry
    except ImportError as error:
        raise ConfigurationError(
            "encrypt_for", "needs: pip install 'quart-mercure[encryption]'"
        ) from error
    return jwe, JWKRegistry.import_key
