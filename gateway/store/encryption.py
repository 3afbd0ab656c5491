"""Encryption of stored secrets: AES-256-GCM, with the place of a secret as associated data.

The cryptography library takes seven megabytes of memory, so it is loaded with the first secret.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from gateway.model.errors import UndecryptableSecret

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_NONCE_BYTES = 12


class Keyring(Protocol):
    """The master keys, which may change at any time."""

    def keys(self) -> Sequence[bytes]:
        """Return the key that encrypts, followed by the former ones that still decrypt."""

    @property
    def mark(self) -> str:
        """Identifies the key that encrypts, without revealing it."""


@dataclass(frozen=True, slots=True)
class FixedKeys:
    """Keys that do not change while the process runs."""

    current: bytes = field(repr=False)
    former: tuple[bytes, ...] = field(default=(), repr=False)

    def keys(self) -> Sequence[bytes]:
        return (self.current, *self.former)

    @property
    def mark(self) -> str:
        return mark_of(self.current)


def mark_of(key: bytes) -> str:
    """Return a value that identifies a key without revealing it."""
    return hashlib.sha256(b"gateway master key" + key).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _Cipher:
    """One key. Its number only tells which key to try first: two keys may share it, and the oldest secrets have 1."""

    number: int
    aead: "AESGCM"


def _cipher(key: bytes) -> _Cipher:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return _Cipher(2 + int(mark_of(key)[:4], 16) % 254, AESGCM(key))


class Vault:
    """Encrypts and decrypts. The result is one byte of the key number, the nonce, the ciphertext and its tag.

    `place` is `table:row:column`; a ciphertext that was copied to another place does not decrypt there.
    """

    def __init__(self, keyring: Keyring | bytes) -> None:
        self.keyring: Keyring = FixedKeys(keyring) if isinstance(keyring, bytes) else keyring
        self._known: tuple[bytes, ...] = ()
        self._ciphers: list[_Cipher] = []

    def _current(self) -> list[_Cipher]:
        keys = tuple(self.keyring.keys())
        if keys != self._known:
            self._ciphers, self._known = [_cipher(key) for key in keys], keys
        return self._ciphers

    def encrypt(self, secret: str, place: str) -> bytes:
        cipher = self._current()[0]
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return bytes([cipher.number]) + nonce + cipher.aead.encrypt(nonce, secret.encode(), place.encode())

    def decrypt(self, encrypted: bytes, place: str) -> str:
        """Return the secret. Raises UndecryptableSecret if it was encrypted with another key or for another place."""
        for cipher in sorted(self._current(), key=lambda one: bytes([one.number]) != encrypted[:1]):
            if (secret := _decrypted(cipher, encrypted, place)) is not None:
                return secret
        raise UndecryptableSecret(
            f"the secret of {place} was encrypted with another key: set GATEWAY_MASTER_KEY to that key, or add it to "
            "GATEWAY_FORMER_MASTER_KEYS. If that key is lost, set the secret again.",
            place=place,
        )

    def derive(self, text: str, place: str) -> str:
        """Return a secret in hexadecimal that only this key derives from the text, for this place."""
        said = f"{place}\0{text}".encode("utf-8", "surrogateescape")
        return hmac.new(self.keyring.keys()[0], said, hashlib.sha256).hexdigest()

    def is_current(self, encrypted: bytes, place: str) -> bool:
        """Return whether it was encrypted with the current key."""
        return _decrypted(self._current()[0], encrypted, place) is not None


def _decrypted(cipher: _Cipher, encrypted: bytes, place: str) -> str | None:
    from cryptography.exceptions import InvalidTag

    nonce, ciphertext = encrypted[1 : 1 + _NONCE_BYTES], encrypted[1 + _NONCE_BYTES :]
    try:
        return cipher.aead.decrypt(nonce, ciphertext, place.encode()).decode()
    except (InvalidTag, ValueError):  # ValueError if it is truncated, or is no text
        return None
