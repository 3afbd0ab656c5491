"""The master key of those who set none: in a file of its owner's alone, beside the embedded database.

The file holds keys of 32 bytes, the one that seals first. It is looked at whenever one is needed, so that all who use
it seal with the newest as soon as that is there. It is only ever replaced whole.
"""

import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from gateway.model.errors import Unavailable
from gateway.store.encryption import KEY_BYTES


class KeyFile:
    """Implements vault.Keyring. `others` open too, and are not kept in the file."""

    #: whoever reads a file learns of its newest key by itself
    mark = "file"

    def __init__(self, path: Path, others: Sequence[bytes] = ()) -> None:
        self._path, self._others = path, tuple(others)
        self._seen: tuple[int, ...] = ()
        self._keys: tuple[bytes, ...] = ()

    def keys(self) -> Sequence[bytes]:
        """Return them, the first made at the first call."""
        return (*self.own(), *self._others)

    def own(self) -> tuple[bytes, ...]:
        """Return those in the file; raises Unavailable where it does not hold any."""
        try:
            if (seen := self._look()) != self._seen:
                self._keys, self._seen = self._read(), seen
        except OSError as error:
            raise Unavailable(f"the master key cannot be read: {error}") from error
        return self._keys

    def _look(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            if self._keys:
                raise
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError):  # another process does the same just now
                self._put(secrets.token_bytes(KEY_BYTES), os.link)
            found = self._path.stat()
        return (found.st_ino, found.st_mtime_ns, found.st_size)

    def _read(self) -> tuple[bytes, ...]:
        held = self._path.read_bytes()
        if not held or len(held) % KEY_BYTES:
            raise Unavailable(f"{self._path} does not hold keys of {KEY_BYTES} bytes each: restore it from a backup")
        return tuple(held[at : at + KEY_BYTES] for at in range(0, len(held), KEY_BYTES))

    def replace(self, keys: Sequence[bytes]) -> None:
        """Let these be the keys; whenever this ends, the file holds either those before or these."""
        try:
            self._put(b"".join(keys), os.replace)
        except OSError as error:
            raise Unavailable(f"the master key cannot be replaced: {error}") from error

    @staticmethod
    def _give(descriptor: int, like: Path) -> None:
        owner = like.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)

    def _put(self, held: bytes, into_place: Callable[[Path, Path], None]) -> None:
        draft = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(held)
                file.flush()
                if self._path.exists():
                    self._give(file.fileno(), self._path)
                elif os.geteuid() == 0:  # whoever owns the folder has to read it
                    self._give(file.fileno(), self._path.parent)
                os.fsync(file.fileno())
            into_place(draft, self._path)
        finally:
            draft.unlink(missing_ok=True)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
