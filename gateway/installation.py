"""Where a gateway keeps its files on this host, and the sockets on which those that run take commands.

Each gateway listens on a Unix socket of its own in `sockets` in its data directory. The socket's name tells which
database it serves, so that a command reaches no gateway of another one. A gateway that was killed leaves its socket;
the next one removes what nobody answers at.
"""

import hashlib
import os
import re
import secrets
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

# Names of the data directory: the present one, and the first one, which is used where it has a database.
_NAME, _FORMER_NAME = "pushdeploy", "webhook-gateway"
#: where the gateway of the whole machine has its data, as its packages set it up
_OF_MACHINE = Path("/var/lib") / _NAME
_SOCKETS = "sockets"
_LONGEST_NAME = 100  # bytes of a path that a socket's address can hold
_CONNECT = 2.0  # seconds
_BACKLOG = 128  # connections that wait to be accepted
EMBEDDED = "embedded"


def data_directory(environ: Mapping[str, str]) -> Path:
    """Return the data directory of the settings: the user's own, unless GATEWAY_DATA_DIR names one."""
    if given := environ.get("GATEWAY_DATA_DIR"):
        return Path(given)
    base = Path(environ.get("XDG_DATA_HOME") or f"{environ.get('HOME') or Path.home()}/.local/share")
    return next((base / name for name in (_NAME, _FORMER_NAME) if is_installed(base / name)), base / _NAME)


def searched_directories(environ: Mapping[str, str]) -> list[Path]:
    """Return the data directories in which a command looks for a gateway, the first one first."""
    own = data_directory(environ)
    return [own] if environ.get("GATEWAY_DATA_DIR") or own == _OF_MACHINE else [own, _OF_MACHINE]


def machine_directory(environ: Mapping[str, str]) -> Path | None:
    """Return the data directory of the whole machine's gateway, where the settings and this user have none."""
    own = data_directory(environ)
    if environ.get("GATEWAY_DATA_DIR") or own == _OF_MACHINE or is_installed(own) or not _OF_MACHINE.is_dir():
        return None
    return _OF_MACHINE


def is_installed(directory: Path) -> bool:
    """Tell whether the data directory has a database or a key."""
    return any(os.path.lexists(directory / kept) for kept in ("postgres", "master.key"))


def database_mark(url: str | None) -> str:
    """Return a word that stands for a database, the embedded one if no URL is given. The password is no part of it."""
    if url is None:
        return EMBEDDED
    parts = urlsplit(url)
    address = "|".join((parts.username or "", parts.netloc.rpartition("@")[2], parts.path, parts.query))
    return hashlib.sha256(address.encode(errors="surrogateescape")).hexdigest()[:16]


def socket_directory(data_dir: Path) -> Path:
    return data_dir / _SOCKETS


def answering_sockets(data_dir: Path, mark: str | None) -> Iterator[tuple[str, socket.socket]]:
    """Yield the mark and a connection of each gateway that takes commands here, of one database if a mark is given."""
    for path in _sockets(data_dir):
        of = path.name.partition("-")[0]
        if mark is not None and of != mark:
            continue
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_CONNECT)
        try:
            with short_address(path) as address:
                connection.connect(address)
        except OSError:
            connection.close()
            continue
        yield of, connection


@contextmanager
def listening_socket(data_dir: Path, mark: str) -> Iterator[socket.socket]:
    """Yield a socket of one's own in the socket directory, which exists; only its owner can connect. Raises OSError."""
    remove_dead_sockets(data_dir)
    path = socket_directory(data_dir) / f"{mark}-{secrets.token_hex(4)}.sock"
    draft = path.with_suffix(".new")
    with socket.socket(socket.AF_UNIX) as bound:
        with short_address(draft) as address:
            bound.bind(address)
        try:
            draft.chmod(0o600)
            bound.listen(_BACKLOG)
            draft.rename(path)  # now it answers: nobody takes it for a dead one
            yield bound
        finally:
            draft.unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def remove_dead_sockets(data_dir: Path) -> None:
    """Remove the sockets at which nobody listens any more."""
    for path in _sockets(data_dir):
        with socket.socket(socket.AF_UNIX) as probe, short_address(path) as address:
            probe.settimeout(_CONNECT)
            try:
                probe.connect(address)
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:  # it may live, and be busy
                continue


def _sockets(data_dir: Path) -> list[Path]:
    with suppress(OSError):
        above, found = data_dir.stat(), socket_directory(data_dir).stat()
        if above.st_mode & stat.S_IWOTH and found.st_uid not in {0, above.st_uid, os.geteuid()}:
            return []  # somebody else may have put it there, to get secrets
        return sorted(one for one in socket_directory(data_dir).iterdir() if re.fullmatch(r"\w+-\w+\.sock", one.name))
    return []


@contextmanager
def short_address(path: Path) -> Iterator[str]:
    """Yield the path in a form that fits into a socket's address, however long it is; only this process can use it."""
    if len(os.fsencode(path)) <= _LONGEST_NAME:
        yield str(path)
        return
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)
