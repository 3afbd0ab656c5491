"""Secrets at rest: AES-256-GCM, with the place a secret belongs to as associated data."""

import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import Unavailable

_KEY_BYTES = 32
_NONCE_BYTES = 12
_KEY_ID = b"\x01"


class Vault:
    """Seals and opens. A sealed secret is one byte of key id, the nonce, the ciphertext and its tag.

    `place` is `table:row:column`; a ciphertext moved to another place does not open there.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, secret: str, place: str) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _KEY_ID + nonce + self._cipher.encrypt(nonce, secret.encode(), place.encode())

    def open(self, sealed: bytes, place: str) -> str:
        """Return the secret; raises Unavailable where it was sealed with another key or for another place."""
        nonce, ciphertext = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, ciphertext, place.encode()).decode()
        except InvalidTag as error:
            raise Unavailable(
                f"the secret of {place} was sealed with another key: is GATEWAY_MASTER_KEY the one it was made with?"
            ) from error


def keep_key(path: Path) -> bytes:
    """Return the key in the file, made at the first call and readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
    except FileExistsError:
        pass
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise Unavailable(f"{path} does not hold a key of {_KEY_BYTES} bytes: restore it from a backup")
    return key
