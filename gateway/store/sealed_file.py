"""A file encrypted with a passphrase. It opens only if no byte was changed, and no part is missing or exchanged.

    magic, length of the header (4 bytes), header (JSON), a seal of the header (16 bytes), chunks

The key is made from the passphrase and a salt by Argon2id (RFC 9106). Each chunk is AES-256-GCM of a MiB, the last
one of less; its nonce is its number and whether it is the last, and the header is associated data of all.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from typing import IO, Any, Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from gateway.model.errors import InvalidInput

FORMAT: Final = 1
_MAGIC: Final = b"pushdeploy backup\n"
_CHUNK: Final = 1024**2
_TAG: Final = 16
_SALT: Final = 16
_LONGEST_HEADER: Final = 64 * 1024
_OF_HEADER: Final = b"\xff" * 12  # the nonce of its seal: no chunk has this number
# Parameters of format 1. They are not in the file, so that no file decides how much memory and time its key takes.
_MEMORY, _PASSES, _LANES = 64 * 1024, 3, 4  # KiB


def _derived(passphrase: str, salt: bytes) -> AESGCM:
    kdf = Argon2id(salt=salt, length=32, iterations=_PASSES, lanes=_LANES, memory_cost=_MEMORY)
    return AESGCM(kdf.derive(passphrase.encode()))


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


class SealedWriter:
    """Writes such a file: the header at once, then each full MiB of content, and the rest at `finish`."""

    def __init__(self, file: IO[bytes], passphrase: str, header: Mapping[str, Any]) -> None:
        salt = secrets.token_bytes(_SALT)
        text = json.dumps({"format": FORMAT, "salt": salt.hex(), **header}).encode()
        front = _MAGIC + len(text).to_bytes(4, "big") + text
        self._file, self._aead = file, _derived(passphrase, salt)
        self._about, self._number, self._held = hashlib.sha256(front).digest(), 0, bytearray()
        file.write(front + self._aead.encrypt(_OF_HEADER, b"", self._about))

    def write(self, content: bytes) -> None:
        self._held += content
        while len(self._held) > _CHUNK:  # the last chunk is not empty, unless there is nothing at all
            self._seal(bytes(self._held[:_CHUNK]), last=False)
            del self._held[:_CHUNK]

    def finish(self) -> None:
        """Write what is left, and wait until all of it is on the disk."""
        self._seal(bytes(self._held), last=True)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _seal(self, chunk: bytes, *, last: bool) -> None:
        self._file.write(self._aead.encrypt(_nonce(self._number, last=last), chunk, self._about))
        self._number += 1


class SealedReader:
    """Reads such a file. Every method raises InvalidInput if the file is not as it was written."""

    def __init__(self, file: IO[bytes], header: Mapping[str, Any], front: bytes) -> None:
        self.header = header
        self._file, self._about = file, hashlib.sha256(front).digest()
        self._aead: AESGCM | None = None
        self._start = 0

    @classmethod
    def of(cls, file: IO[bytes]) -> Self:
        """Read the header, which is not proven before `unlock`."""
        front = file.read(len(_MAGIC) + 4)
        if not front.startswith(_MAGIC) or len(front) != len(_MAGIC) + 4:
            raise InvalidInput("it is not a backup of Pushdeploy")
        length = int.from_bytes(front[-4:], "big")
        if length > _LONGEST_HEADER:
            raise InvalidInput(_damaged("its header has an impossible length"))
        text = file.read(length)
        try:
            header = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidInput(_damaged("its header is not JSON")) from error
        if not isinstance(header, dict) or not isinstance(header.get("salt"), str):
            raise InvalidInput(_damaged("its header has no salt"))
        if header.get("format") != FORMAT:
            raise InvalidInput(
                f"it has format {header.get('format')!r}, and this version reads format {FORMAT}: use the version that "
                f"made it ({header.get('version')!r}) or a newer one; otherwise it is damaged"
            )
        return cls(file, header, front + text)

    def unlock(self, passphrase: str) -> None:
        """Make the key, and prove the header with it."""
        try:
            salt = bytes.fromhex(self.header["salt"])
            self._aead = _derived(passphrase, salt)
            self._aead.decrypt(_OF_HEADER, self._file.read(_TAG), self._about)
        except (InvalidTag, ValueError) as error:
            raise InvalidInput("the passphrase is not the one of this backup, or its header is damaged") from error
        self._start = self._file.tell()

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return os.fstat(self._file.fileno()).st_size

    def chunks(self) -> Iterator[bytes]:
        """Yield the content from its start, each part of it proven; the end is proven by the last."""
        if self._aead is None:
            raise ValueError("it is locked")
        self._file.seek(self._start)
        number, sealed = 0, self._file.read(_CHUNK + _TAG)
        while True:
            following = self._file.read(_CHUNK + _TAG)
            try:
                yield self._aead.decrypt(_nonce(number, last=not following), sealed, self._about)
            except (InvalidTag, ValueError) as error:
                where = f"within the MiB {number + 1} of its content, or it does not end there"
                raise InvalidInput(_damaged(where)) from error
            if not following:
                return
            number, sealed = number + 1, following


def _damaged(where: str) -> str:
    return f"it is damaged, {where}: nothing of it is used; take another backup"
