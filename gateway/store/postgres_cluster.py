"""The server of the embedded PostgreSQL: created, started, shared and stopped.

Its directory has mode 0700 and holds the socket and the password that a connection needs. The server listens on no
port. Nothing here changes the mode of a directory above, or writes where other users may write.

Several processes share one server. Each holds a lock while it uses the server; the last one stops it. A lock ends with
its process, and is on a file that other users cannot open.
"""

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from gateway.model.errors import Unavailable
from gateway.store.data_directory import (
    SOCKET,
    exclusive,
    give_to_root,
    make_private,
    require_unshared,
    short_path,
    try_lock,
    write_private,
)
from gateway.store.postgres_programs import (
    ServerAccount,
    find_programs,
    program_environment,
    unprivileged_user,
    user_name,
)

_ROLE, _PASSWORD = "postgres", "gateway.password"
_HBA = "# Written by the gateway at each start.\nlocal all all scram-sha-256\n"
#: the command that tells whether a user can enter the directory and run the server
_REACH = 'cd -- "$1" && exec "$2" --version'
_FORMER_USER = "pgserver"  # the user that an earlier version of the gateway ran the server as
_START_TIMEOUT = 90.0  # seconds: after a crash, a start includes the recovery
_EXIT_TIMEOUT = 10.0  # seconds: by then, the process of a server that has stopped has ended
_STOP = 60.0  # seconds until a stop aborts open transactions
_LOG_BYTES = 1024**2

#: the servers started by this process: it must wait for them when they end
_CHILDREN: list[subprocess.Popen[bytes]] = []


class Cluster:
    """One use of the server in a data directory. The methods block; call `enter` first and `leave` last."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.absolute()  # the server runs in a directory of its own
        self.directory = self._data_dir / "postgres"
        self._using: int | None = None  # a descriptor that holds the shared lock
        self._stack = ExitStack()
        self._host = self.directory

    def url(self, database: str) -> str:
        """Return the URL of a database. Raises Unavailable when the password cannot be read."""
        try:
            password = self._password.read_text(encoding="ascii").strip()
        except OSError as error:
            raise Unavailable(f"the password of the embedded PostgreSQL cannot be read: {error}") from error
        return f"postgresql://{_ROLE}:{password}@/{database}?host={quote(str(self._host), safe='/')}"

    def make(self) -> None:
        """Create the database if there is none. No server is started. Raises Unavailable, or OSError."""
        self._make_directory()
        with ExitStack() as held:
            held.enter_context(exclusive(self.directory))
            if not self._is_made():
                programs = find_programs(self.directory)
                self._make(programs / "initdb", self._account(programs / "postgres"), held)

    def enter(self) -> None:
        """Begin using the server; create and start it if necessary. Raises Unavailable."""
        try:
            self._make_directory()
            self._host = self._stack.enter_context(short_path(self.directory.resolve()))
            self._start(use=True)
        except OSError as error:
            self._stack.close()
            raise Unavailable(f"the embedded PostgreSQL in {self.directory} does not start: {error}") from error
        except BaseException:
            self._stack.close()
            raise

    def restart(self) -> None:
        """Start the server again if it has ended. Raises Unavailable."""
        try:
            self._start(use=False)
        except OSError as error:
            raise Unavailable(f"the embedded PostgreSQL in {self.directory} does not start: {error}") from error

    def leave(self) -> None:
        """End using the server. The last process that leaves stops it."""
        if self._using is None:
            return
        try:
            with exclusive(self.directory):
                if try_lock(self._using, fcntl.LOCK_EX):
                    self._stop()
        finally:
            os.close(self._using)
            self._using = None
            self._stack.close()

    def postmaster(self) -> int | None:
        """Return the process id of the server, None if it does not run."""
        pid = self._noted()
        return pid if pid is not None and _serves(pid, self.directory) else None

    def _make_directory(self) -> None:
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_unshared(self._data_dir)
        make_private(self.directory)

    # -- under the lock of the directory

    def _start(self, *, use: bool) -> None:
        with ExitStack() as held:
            held.enter_context(exclusive(self.directory))
            if not (self._listens() and self._password.exists()):
                self._clear()
                if not self._listens():
                    self._begin(held)
            if use:
                self._using = os.open(self.directory / "PG_VERSION", os.O_RDONLY)
                try_lock(self._using, fcntl.LOCK_SH)

    def _clear(self) -> None:
        """Remove what prevents a start. Raises Unavailable when that is impossible."""
        _reap()
        pid = self.postmaster()
        if pid is None:
            if (noted := self._noted()) is not None and _lives(noted):
                # Another process has that id now, and PostgreSQL would not start because of it.
                (self.directory / "postmaster.pid").unlink(missing_ok=True)
        elif self._password.exists():
            if not _until(lambda: self._listens() or self.postmaster() is None, _START_TIMEOUT):
                raise Unavailable(
                    f"PostgreSQL, process {pid}, neither accepts connections in {self.directory} nor ends: end it"
                )
        elif users := self._former_users():
            raise Unavailable(
                f"an earlier version of the gateway uses the database in {self.directory}: "
                f"stop it first, process {', '.join(map(str, users))}"
            )
        elif self._is_used():
            raise Unavailable(
                f"{self._password} is missing while the database is in use: restart the gateway that uses it"
            )
        else:
            self._stop()

    def _former_users(self) -> list[int]:
        """Return the processes of an earlier version that use the server, from the list that it kept."""
        try:
            listed = json.loads((self.directory / ".handle_pids.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        return [pid for pid in listed if pid != os.getpid() and _lives(pid)]

    def _is_used(self) -> bool:
        descriptor = os.open(self.directory / "PG_VERSION", os.O_RDONLY)
        try:
            return not try_lock(descriptor, fcntl.LOCK_EX)
        finally:
            os.close(descriptor)

    def _begin(self, held: ExitStack) -> None:
        programs = find_programs(self.directory)
        account = self._account(programs / "postgres")
        if not self._is_made():
            self._make(programs / "initdb", account, held)
        self._lock_up(programs / "postgres", account)
        self._spawn(programs / "postgres", account)

    def _make(self, initdb: Path, account: ServerAccount, held: ExitStack) -> None:
        """Create the database completely, or not at all."""
        if any(self.directory.iterdir()):
            raise Unavailable(f"{self.directory} is not empty and has no database: move its files elsewhere")
        for left in self._data_dir.glob(".postgres-*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        place = Path(tempfile.mkdtemp(prefix=".postgres-", dir=self._data_dir))
        try:
            account.give(place)
            draft, password = place / "data", place / _PASSWORD
            write_private(password, secrets.token_urlsafe(32) + "\n", account)
            locale = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
            made = ("-U", _ROLE, "--auth=reject", f"--pwfile={password}", "--encoding=UTF8", *locale, "-D", str(draft))
            account.run([str(initdb), *made], cwd=self.directory)
            password.rename(draft / _PASSWORD)
            held.enter_context(exclusive(draft))  # it becomes the directory now
            draft.rename(self.directory)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _lock_up(self, postgres: Path, account: ServerAccount) -> None:
        """Require a password for each connection. Earlier versions let in everybody who reached the socket."""
        write_private(self.directory / "pg_hba.conf", _HBA, account)
        if self._password.exists():
            return
        password = secrets.token_urlsafe(32)
        try:
            account.run(
                [str(postgres), "--single", "-D", str(self.directory), "template1"],
                cwd=self.directory,
                stdin=f"ALTER ROLE {_ROLE} PASSWORD '{password}'\n",
            )
        except Unavailable as error:
            raise Unavailable(str(error).replace(password, "…")) from None
        write_private(self._password, password + "\n", account)

    def _spawn(self, postgres: Path, account: ServerAccount) -> None:
        path = self.directory / "log"
        mode = "ab" if not path.exists() or path.stat().st_size < _LOG_BYTES else "wb"
        # Several gateways and their processes may share the server: PostgreSQL's own limit is 100.
        settings = ("listen_addresses=", "unix_socket_permissions=0600", "port=5432", "max_connections=400")
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
                env=program_environment(),
                start_new_session=True,
                **account.options,
            )
        _CHILDREN.append(child)
        _until(lambda: self._listens() or child.poll() is not None, _START_TIMEOUT)
        if not self._listens():
            said = path.read_bytes()[begins_at:][-2000:].decode(errors="replace").strip()
            raise Unavailable(f"the embedded PostgreSQL in {self.directory} does not start: {said or 'without output'}")

    def _stop(self) -> None:
        """Stop the server: first with time for open transactions, then at once."""
        pid = self.postmaster()
        for number, seconds in ((signal.SIGINT, _STOP), (signal.SIGQUIT, _START_TIMEOUT - _STOP)):
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
                if _until(lambda: self.postmaster() is None, seconds):
                    # It removes its pid file shortly before its process ends.
                    _until(lambda: pid not in _reap(), _EXIT_TIMEOUT)
                    break
        _reap()

    # -- the state of the directory

    def _is_made(self) -> bool:
        return (self.directory / "PG_VERSION").exists()

    @property
    def _password(self) -> Path:
        return self.directory / _PASSWORD

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self._host / SOCKET))
            except OSError:
                return False
        return True

    def _noted(self) -> int | None:
        try:
            return int((self.directory / "postmaster.pid").read_text(encoding="utf-8").split()[0])
        except (OSError, ValueError, IndexError):
            return None

    def _account(self, postgres: Path) -> ServerAccount:
        """Return the user of the server: the owner of the directory. Raises Unavailable if that fails."""
        if os.geteuid() != 0:
            return ServerAccount()
        found = self.directory.stat()
        if found.st_uid != 0:
            owner = (found.st_uid, found.st_gid)
            theirs = ServerAccount(options={"user": owner[0], "group": owner[1], "extra_groups": []}, owner=owner)
            try:
                theirs.run(["/bin/sh", "-c", _REACH, "sh", str(self.directory), str(postgres)], cwd=self.directory)
            except (OSError, Unavailable) as error:
                name = user_name(found.st_uid)
                if name != _FORMER_USER:
                    raise Unavailable(
                        f"{self.directory} belongs to {name}, who cannot access it or {postgres}: "
                        "run the gateway as that user"
                    ) from error
                give_to_root(self.directory)
            else:
                return theirs
        apart = Path(__file__).with_name("unprivileged.py")
        return ServerAccount(words=(sys.executable, "-I", "-S", str(apart), str(unprivileged_user())))


@contextmanager
def making(data_dir: Path) -> Iterator[None]:
    """Create the database while the block runs, if there is none. If that fails, `Cluster.enter` reports why."""

    def make() -> None:
        with suppress(Unavailable, OSError):
            Cluster(data_dir).make()

    thread = threading.Thread(target=make, name="making a database")
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _reap() -> set[int]:
    """Wait for the servers of this process that have ended; return the process ids of those that run."""
    _CHILDREN[:] = [child for child in _CHILDREN if child.poll() is None]
    return {child.pid for child in _CHILDREN}


def _until(holds: Callable[[], bool], seconds: float) -> bool:
    """Wait until the condition holds; return whether it did within so many seconds."""
    until = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < until:
        time.sleep(0.005)
    return held


def _serves(pid: int, directory: Path) -> bool:
    """Return whether a process is the server of the directory, by its working directory."""
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
