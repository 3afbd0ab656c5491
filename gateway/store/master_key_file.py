"""The master key of an installation that sets none: in a private file beside the embedded database.

The file contains keys of 32 bytes; the first one encrypts. It is read whenever a key is needed, so that all processes
use the newest key as soon as it is there. The file is only replaced as a whole.
"""

import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from gateway.model.errors import Unavailable
from gateway.store.encryption import KEY_BYTES


class KeyFile:
    """Implements encryption.Keyring. `others` decrypt too, and are not in the file."""

    #: each process that reads the file sees its newest key
    mark = "file"

    def __init__(self, path: Path, others: Sequence[bytes] = ()) -> None:
        self._path, self._others = path, tuple(others)
        self._seen: tuple[int, ...] = ()
        self._keys: tuple[bytes, ...] = ()

    def keys(self) -> Sequence[bytes]:
        """Return the keys; the first call creates the file."""
        return (*self.own(), *self._others)

    def is_there(self) -> bool:
        """Tell whether the file exists, which no call of this method creates."""
        return self._path.exists()

    def own(self) -> tuple[bytes, ...]:
        """Return the keys in the file. Raises Unavailable if it has none."""
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
            with suppress(FileExistsError):  # another process did the same
                self._put(secrets.token_bytes(KEY_BYTES), os.link)
            found = self._path.stat()
        return (found.st_ino, found.st_mtime_ns, found.st_size)

    def _read(self) -> tuple[bytes, ...]:
        held = self._path.read_bytes()
        if not held or len(held) % KEY_BYTES:
            raise Unavailable(f"{self._path} does not contain keys of {KEY_BYTES} bytes each: restore it from a backup")
        return tuple(held[at : at + KEY_BYTES] for at in range(0, len(held), KEY_BYTES))

    def replace(self, keys: Sequence[bytes]) -> None:
        """Replace the keys. If this is interrupted, the file has either the old keys or the new ones."""
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
                elif os.geteuid() == 0:  # the owner of the directory has to read it
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
