"""Ends what a session of tests has started and left behind, however the session ended.

A process that is killed clears nothing away. So another one watches it, and outlives it. All that a session starts has
the session's mark in its PATH, which every environment here is given; what bears the mark once the session has ended
is ended too. Nothing else is touched.
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
_PATIENCE = 30.0  # seconds to end by itself; an engine stops its containers first
_LAST = 10.0  # seconds to end when it is killed
_LOOK_AGAIN = 0.1  # seconds
_NOTE_EVERY = 1000  # milliseconds


def pytest_configure(config: "pytest.Config") -> None:
    begin()
    if not hasattr(config, "workerinput"):
        # Told to end, it clears away as when it is interrupted.
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def begin() -> None:
    """Let this process be watched, and mark what it starts from now on."""
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


# -- in the process that watches


def watch(pid: int, mark: bytes) -> None:
    """Wait until the process has ended, then end what bears the mark."""
    engines: set[tuple[Path, str]] = set()
    with suppress(ProcessLookupError):
        poll = select.poll()
        poll.register(os.pidfd_open(pid), select.POLLIN)
        while not poll.poll(_NOTE_EVERY):
            # They end with the session by themselves, often before they could be seen then.
            engines |= _engines(_marked(mark))
    began, told = time.monotonic(), set[int]()
    while (left := _marked(mark)) and time.monotonic() < began + _PATIENCE + _LAST:
        engines |= _engines(left)
        late = time.monotonic() > began + _PATIENCE
        for one in left if late else left - told:
            _signal(one, mark, *((signal.SIGKILL,) if late else (signal.SIGTERM, signal.SIGCONT)))
        told |= left
        time.sleep(_LOOK_AGAIN)
    for directory, bridge in engines:
        _clear(directory, bridge)


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


def _clear(directory: Path, bridge: str) -> None:
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in sorted((point for point in points if point.startswith(f"{directory}/")), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False)
    shutil.rmtree(directory, ignore_errors=True)
    if bridge.startswith("gateway"):
        subprocess.run(["ip", "link", "delete", bridge], check=False)


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.argv[2].encode())
