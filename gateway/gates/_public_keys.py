"""Public keys of signers: ECDSA on P-256 and P-384, RSA with PKCS #1 v1.5, and Ed25519.

The key alone decides on the algorithm, never the signature or what is stored beside it.

It takes two megabytes of memory, so it is imported where a gate has a key.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from gateway.gates._encodings import PEM

_RSA_BITS = range(2048, 8193)
_MAX_PEM = 8192  # characters
_MAX_SIGNATURE = 1024  # bytes
_REFERENCE = re.compile(r"[a-z0-9+.-]{2,20}:(?://|.)")
# P-384: cosign signs with SHA-384 since version 3, and did with SHA-256 before.
_HASHES: dict[str, tuple[hashes.HashAlgorithm, ...]] = {
    "secp256r1": (hashes.SHA256(),),
    "secp384r1": (hashes.SHA384(), hashes.SHA256()),
}
_Key = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key. `fingerprint` is the SHA-256 of its DER form, as `openssl pkey -pubin -outform DER | sha256sum` tells."""

    fingerprint: str
    _key: _Key

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a key in PEM. Raises ValueError, which says what to give instead."""
        key = _parse(text.strip())
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return cls(hashlib.sha256(der).hexdigest(), key)

    def has_signed(self, message: bytes, signature: bytes) -> bool:
        """Tell whether the signature is this key's, of this message."""
        if len(signature) > _MAX_SIGNATURE:
            return False
        key = self._key
        if isinstance(key, ed25519.Ed25519PublicKey):
            return _accepts(lambda: key.verify(signature, message))
        if isinstance(key, rsa.RSAPublicKey):
            return _accepts(lambda: key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256()))
        return any(_accepts(lambda: key.verify(signature, message, ec.ECDSA(one))) for one in _HASHES[key.curve.name])  # noqa: B023

    def has_signed_sha256(self, digest: bytes, signature: bytes) -> bool:
        """Tell whether the signature is this key's, of the message that has this SHA-256. Ed25519 cannot tell."""
        key, prehashed = self._key, Prehashed(hashes.SHA256())
        if len(signature) > _MAX_SIGNATURE or isinstance(key, ed25519.Ed25519PublicKey):
            return False
        if isinstance(key, rsa.RSAPublicKey):
            return _accepts(lambda: key.verify(signature, digest, padding.PKCS1v15(), prehashed))
        return _accepts(lambda: key.verify(signature, digest, ec.ECDSA(prehashed)))


def _accepts(verify: Callable[[], None]) -> bool:
    try:
        verify()
    except (InvalidSignature, ValueError):
        return False
    return True


@lru_cache(maxsize=256)
def _parse(text: str) -> _Key:
    if len(text) > _MAX_PEM:
        raise ValueError(f"is longer than {_MAX_PEM} characters: give one public key in PEM")
    if "PRIVATE KEY" in text:
        raise ValueError("is a private key: give the public one, and replace this one, since it is known here now")
    if "BEGIN CERTIFICATE" in text:
        raise ValueError("is a certificate: give its public key: openssl x509 -pubkey -noout -in CERTIFICATE")
    if not text.startswith("-----BEGIN") and _REFERENCE.match(text):
        scheme = text.partition(":")[0]
        raise ValueError(
            f"refers to a key at {scheme}: the gateway asks no key service, so give the public key itself in PEM: "
            f"cosign public-key --key {scheme}:…"
        )
    if PEM.fullmatch(text) is None:
        raise ValueError(
            "is not one public key in PEM, which begins with -----BEGIN PUBLIC KEY-----: give the text of the key, "
            "not the name of its file"
        )
    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("is not a public key in PEM, which begins with -----BEGIN PUBLIC KEY-----") from error
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _HASHES:
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size in _RSA_BITS:
        return key
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    raise ValueError("is no key of these kinds: ECDSA on P-256 or P-384, RSA of 2048 to 8192 bits, Ed25519")
