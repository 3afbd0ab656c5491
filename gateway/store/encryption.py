"""Secrets at rest: AES-256-GCM, with the place a secret belongs to as associated data."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.model.errors import UndecryptableSecret

KEY_BYTES = 32
_NONCE_BYTES = 12


class Keyring(Protocol):
    """Keys, which may change while they are used."""

    def keys(self) -> Sequence[bytes]:
        """Return the one that seals, and after it those that still open."""

    @property
    def mark(self) -> str:
        """How others tell by which key whoever has this seals, without learning it."""


@dataclass(frozen=True, slots=True)
class FixedKeys:
    """The keys of a process that keeps them until it ends."""

    sealing: bytes = field(repr=False)
    former: tuple[bytes, ...] = field(default=(), repr=False)

    def keys(self) -> Sequence[bytes]:
        return (self.sealing, *self.former)

    @property
    def mark(self) -> str:
        return mark_of(self.sealing)


def mark_of(key: bytes) -> str:
    """Return what tells a key from others and nothing else of it."""
    return hashlib.sha256(b"gateway master key" + key).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _Cipher:
    """One key. Its id only says which key to try first: two may have the same, and the oldest secrets have 1."""

    number: int
    aead: AESGCM


def _cipher(key: bytes) -> _Cipher:
    return _Cipher(2 + int(mark_of(key)[:4], 16) % 254, AESGCM(key))


class Vault:
    """Seals and opens. A sealed secret is one byte of key id, the nonce, the ciphertext and its tag.

    `place` is `table:row:column`; a ciphertext moved to another place does not open there.
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

    def decrypt(self, sealed: bytes, place: str) -> str:
        """Return the secret; raises Unreadable where it was sealed with another key or for another place."""
        for cipher in sorted(self._current(), key=lambda one: bytes([one.number]) != sealed[:1]):
            if (secret := _opened(cipher, sealed, place)) is not None:
                return secret
        raise UndecryptableSecret(
            f"the secret of {place} was sealed with another key: is GATEWAY_MASTER_KEY the one it was made with, "
            "or that one among GATEWAY_FORMER_MASTER_KEYS? Where that key is lost, set the secret anew.",
            place=place,
        )

    def is_current(self, sealed: bytes, place: str) -> bool:
        """Tell whether it was sealed with the key that seals now."""
        return _opened(self._current()[0], sealed, place) is not None


def _opened(cipher: _Cipher, sealed: bytes, place: str) -> str | None:
    nonce, ciphertext = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
    try:
        return cipher.aead.decrypt(nonce, ciphertext, place.encode()).decode()
    except (InvalidTag, ValueError):  # the latter where it is cut, or no text
        return None
