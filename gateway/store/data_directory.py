"""The directory of the embedded PostgreSQL: its permissions, its locks, and a path short enough for a socket."""

import fcntl
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.model.errors import Unavailable
from gateway.store.postgres_programs import ServerAccount, user_name

SOCKET = ".s.PGSQL.5432"  # the name that PostgreSQL gives it
_LONGEST_SOCKET = 103  # bytes of its path: the smallest limit of all systems
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9_./ -]*")  # asyncpg reads a comma as the start of the next host
_LOCK_TIMEOUT = 180.0  # seconds: the longest start and stop of a server


def require_unshared(data_dir: Path) -> None:
    """Raises Unavailable when every user may write to the directory."""
    mode = data_dir.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise Unavailable(
            f"every user may write to {data_dir}, and could replace a database there: run chmod o-w on it, or set "
            "GATEWAY_DATA_DIR to a directory of your own in it"
        )


def make_private(directory: Path) -> None:
    """Create the directory for its owner alone. One that root creates belongs to the owner of its parent."""
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        found = directory.stat()
        above = directory.parent.stat()
        stranger = above.st_mode & stat.S_IWOTH and found.st_uid not in {0, above.st_uid, os.geteuid()}
        if os.geteuid() not in {0, found.st_uid} or stranger:
            raise Unavailable(
                f"{directory} belongs to {user_name(found.st_uid)}: run the gateway as that user"
            ) from None
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            directory.chmod(0o700)
        return
    if os.geteuid() == 0:
        above = directory.parent.stat()
        os.chown(directory, above.st_uid, above.st_gid)


def give_to_root(directory: Path) -> None:
    """Make root the owner of the directory and all that is in it."""
    for folder, _, names in os.walk(directory):
        for name in (".", *names):
            os.chown(Path(folder, name), 0, 0, follow_symlinks=False)


def write_private(path: Path, text: str, account: ServerAccount) -> None:
    """Write a file that its owner alone can read, completely or not at all."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        account.give(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def short_path(directory: Path) -> Iterator[Path]:
    """Yield a path of the directory that is short enough for a socket: a symbolic link if it has to be."""
    if _fits(directory):
        yield directory
        return
    for above in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108 - 0700 within
        if not above or not _fits(Path(above, "gateway-12345678", "d")) or not Path(above).is_dir():
            continue
        with tempfile.TemporaryDirectory(prefix="gateway-", dir=above) as private:
            link = Path(private, "d")
            link.symlink_to(directory)
            yield link
        return
    raise Unavailable(
        f"{directory} is too long for a socket, and there is no directory for a link to it: set XDG_RUNTIME_DIR"
    )


def _fits(directory: Path) -> bool:
    path = str(directory / SOCKET)
    return len(os.fsencode(path)) <= _LONGEST_SOCKET and _PLAIN_PATH.fullmatch(path) is not None


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold the lock of the directory in the block. The block may put another directory in its place."""
    descriptor = _locked(directory)
    try:
        yield
    finally:
        os.close(descriptor)


def _locked(directory: Path) -> int:
    until = time.monotonic() + _LOCK_TIMEOUT
    while time.monotonic() < until:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        if try_lock(descriptor, fcntl.LOCK_EX) and os.path.samestat(os.fstat(descriptor), directory.stat()):
            return descriptor
        os.close(descriptor)
        time.sleep(0.05)
    raise Unavailable(f"another process that starts or stops the database in {directory} does not finish: end it")


def try_lock(descriptor: int, kind: int) -> bool:
    """Take the lock without waiting; return whether that worked."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
