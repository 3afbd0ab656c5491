"""Verify RSA signatures and OpenID Connect tokens by public keys.

The modules for that take nine megabytes: they are loaded for the first request that is signed so.
"""

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal, TypeAlias

import orjson

from gateway.model.errors import Unauthenticated

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

_SKEW = 60.0  # seconds between two clocks

#: what a certificate signs: the hash of the message
CertificateHash: TypeAlias = Literal["SHA1", "SHA256"]


def verify_certificate_signature(
    signature: str, message: bytes, certificate: bytes, algorithm: CertificateHash
) -> None:
    """Check that `message` was signed with the key of this certificate; raises Unauthenticated."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.hashes import SHA1, SHA256
    from cryptography.x509 import load_pem_x509_certificate

    try:
        key = load_pem_x509_certificate(certificate).public_key()
        if not isinstance(key, RSAPublicKey):
            raise Unauthenticated("the sender's certificate holds no RSA key")
        signed = base64.b64decode(signature, validate=True)
        chosen = SHA1() if algorithm == "SHA1" else SHA256()  # noqa: S303 - version 1 of SNS's signatures
        key.verify(signed, message, PKCS1v15(), chosen)
    except (ValueError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise Unauthenticated("the signature is not the sender's") from error


def verify_id_token(token: str, keys: bytes, *, issuers: Sequence[str], at: datetime) -> Mapping[str, object]:
    """Return the claims of an OpenID Connect token that one of `keys` signed and that is valid; raises Unauthenticated.

    The caller checks audience and subject. Only RS256 is accepted, whatever algorithm the token names.
    https://openid.net/specs/openid-connect-core-1_0.html#IDTokenValidation
    """
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    signed, _, signature = token.rpartition(".")
    head, _, body = signed.partition(".")
    try:
        header, claims = _object(_decoded(head)), _object(_decoded(body))
        if header.get("alg") != "RS256":
            raise Unauthenticated("the token is not signed with RS256")
        _key(_object(keys), header.get("kid")).verify(_decoded(signature), signed.encode(), PKCS1v15(), SHA256())
    except (ValueError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise Unauthenticated("the token is malformed, or not signed by its issuer") from error
    if claims.get("iss") not in issuers:
        raise Unauthenticated("the token has another issuer")
    now = at.timestamp()
    if not _seconds(claims, "iat") - _SKEW <= now < _seconds(claims, "exp") + _SKEW:
        raise Unauthenticated("the token has expired, or is not valid yet: compare the clocks")
    return claims


def _key(keys: Mapping[str, object], kid: object) -> "RSAPublicKey":
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

    listed = keys.get("keys")
    for key in listed if isinstance(listed, list) else []:
        if isinstance(key, dict) and key.get("kid") == kid and key.get("kty") == "RSA":
            n, e = (int.from_bytes(_decoded(str(key.get(name, "")))) for name in ("n", "e"))
            return RSAPublicNumbers(e, n).public_key()
    raise Unauthenticated("the token is signed with a key that its issuer does not publish")


def _object(encoded: bytes) -> Mapping[str, object]:
    loaded = orjson.loads(encoded)
    if not isinstance(loaded, dict):
        raise ValueError("not an object")  # noqa: TRY004 - callers catch one type for all malformed input
    return loaded


def _seconds(claims: Mapping[str, object], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unauthenticated(f"the token has no {name}")
    return value


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
