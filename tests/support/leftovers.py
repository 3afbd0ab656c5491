"""Ends what a session of tests started and left behind, however the session ended.

A process that is killed cannot clean up after itself. So a second process watches the session and outlives it. The
session adds a mark to PATH, which its workers and all that they start inherit. When the session has ended, the watcher
ends every process that still has the mark. It touches nothing else.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    import pytest

MARK = "/nonexistent/tests-"
_TERM_DEADLINE = 30.0  # seconds after SIGTERM; an engine stops its containers first
_KILL_DEADLINE = 10.0  # seconds after SIGKILL
_POLL_INTERVAL = 0.1  # seconds
# Milliseconds. Each scan reads the environment of every process of the machine.
_FIRST_SCANS, _SCAN_INTERVAL = 200, 2000
_FIRST_SCANS_FOR = 20.0  # seconds


def pytest_configure(config: "pytest.Config") -> None:
    if not hasattr(config, "workerinput"):
        start_watcher()
        # SIGTERM ends the session as Ctrl-C does: fixtures are torn down.
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def start_watcher() -> None:
    """Start a process that watches this one, and mark what this one starts from now on."""
    mark = f"{MARK}{uuid4().hex}"
    path = os.environ.get("PATH", os.defpath)
    unmarked = os.pathsep.join(part for part in path.split(os.pathsep) if not part.startswith(MARK))
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", __file__, str(os.getpid()), mark],
        {"PATH": unmarked},
        file_actions=[(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)],
        setsid=True,
    )
    os.environ["PATH"] = f"{path}{os.pathsep}{mark}"


# -- in the watcher


def watch(pid: int, mark: bytes) -> None:
    """Wait until the process has ended, then end what has the mark."""
    engines: set[tuple[Path, str]] = set()
    with suppress(ProcessLookupError):
        poll = select.poll()
        poll.register(os.pidfd_open(pid), select.POLLIN)
        began = time.monotonic()
        while not poll.poll(_FIRST_SCANS if time.monotonic() < began + _FIRST_SCANS_FOR else _SCAN_INTERVAL):
            # Engines often end with the session, too early for a scan after it.
            engines |= _engines(_marked(mark))
    began, signalled = time.monotonic(), set[int]()
    while (left := _marked(mark)) and time.monotonic() < began + _TERM_DEADLINE + _KILL_DEADLINE:
        engines |= _engines(left)
        late = time.monotonic() > began + _TERM_DEADLINE
        for one in left if late else left - signalled:
            _signal(one, mark, *((signal.SIGKILL,) if late else (signal.SIGTERM, signal.SIGCONT)))
        signalled |= left
        time.sleep(_POLL_INTERVAL)
    for directory, bridge in engines:
        # An engine that has cleaned up gave its bridge's name back, and another session may have taken it.
        if directory.exists():
            _remove_engine(directory, bridge)


def _marked(mark: bytes) -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdecimal() and mark in (entry / "environ").read_bytes():
                found.add(int(entry.name))
    return found


def _signal(pid: int, mark: bytes, *numbers: int) -> None:
    """Send it the signals, unless another process has its number by now."""
    with suppress(OSError):
        handle = os.pidfd_open(pid)
        try:
            if mark in Path(f"/proc/{pid}/environ").read_bytes():
                for number in numbers:
                    signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def _engines(pids: Iterable[int]) -> set[tuple[Path, str]]:
    """Return the directory and the network bridge of each private engine among them."""
    found = set()
    for pid in pids:
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
            given = dict(pairwise(words))
            directory = Path(given.get("--data-root", "/")).parent
            if directory.name.startswith("gateway-"):
                found.add((directory, given.get("--bridge", "")))
    return found


def _remove_engine(directory: Path, bridge: str) -> None:
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in sorted((point for point in points if point.startswith(f"{directory}/")), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False)
    shutil.rmtree(directory, ignore_errors=True)
    if bridge.startswith("gateway"):
        subprocess.run(["ip", "link", "delete", bridge], check=False)


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.argv[2].encode())
