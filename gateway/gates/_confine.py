"""Run a program within bounds, in a directory of its own, and end all that it has started when it has to end.

Run by path: `python -I -S _confine.py DIRECTORY LIFELINE MEMORY DISK SECONDS PROGRAM ARGUMENT…`. It ends as the program
does. The gateway holds the other end of the pipe LIFELINE: once that is closed, because the gateway gives up or was
killed, the program is killed with its children. Then the directory is removed, in any case.
"""

import ctypes
import fcntl
import os
import resource
import select
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

_PARENT_DEATH_SIGNAL, _CHILD_SUBREAPER = 1, 36  # of prctl
_LINUX = sys.platform == "linux"
_LOOK_INTERVAL = 0.25  # seconds between two looks at the size of the directory
_NICE = 10
_FILES = 1024
# Bytes: what it may write in any case, and what it leaves free otherwise, since a database may be on that disk.
_SMALL, _RESERVE = 32 * 1024**2, 512 * 1024**2
GIVEN_UP, DISK_FULL, NOT_STARTED = 122, 123, 127  # exit codes


def main(directory: str, lifeline: str, memory: str, disk: str, seconds: str, *command: str) -> int:
    place = Path(directory)
    lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # who sweeps leaves the directory alone
    if _LINUX:
        ctypes.CDLL(None).prctl(_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, _end)
    wakes, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, _pass)
    child = os.fork()
    if not child:
        _become(command, place, int(memory), int(disk), int(seconds))
    try:
        return _wait(child, int(lifeline), wakes, place, int(disk))
    finally:
        _kill_all(child)
        shutil.rmtree(place, ignore_errors=True)


def _become(command: tuple[str, ...], place: Path, memory: int, disk: int, seconds: int) -> None:
    """Become the program: in a group of its own, with low priority, the first to end when memory runs out."""
    os.setpgid(0, 0)
    os.nice(_NICE)
    if _LINUX:
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    # DATA and not AS: programs in Go reserve addresses that they do not use, and map their database.
    for kind, most in (
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_FSIZE, disk),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (bound, bound))
    os.chdir(place)
    # What Python has set for itself: the program gets the usual signals.
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(command[0], command)  # noqa: S606 - the purpose of this file
    except OSError as error:
        os.write(2, f"{command[0]} cannot be run: {error.strerror}\n".encode(errors="replace"))
        os._exit(NOT_STARTED)


def _wait(child: int, lifeline: int, wakes: int, place: Path, disk: int) -> int:
    """Return the exit code of the program; 128 and the signal's number where a signal ended it."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        ready, _, _ = select.select([wakes, lifeline], [], [], _LOOK_INTERVAL)
        if lifeline in ready:
            return GIVEN_UP
        if wakes in ready:
            os.read(wakes, 4096)
        if _is_full(place, disk):
            return DISK_FULL


def _is_full(place: Path, disk: int) -> bool:
    """Tell whether the program has written more than it may, or takes the space that others on the disk need."""
    size = _size(place)
    if size <= min(disk, _SMALL):
        return False
    there = os.statvfs(place)
    return size > disk or there.f_bavail * there.f_frsize < _RESERVE


def _size(place: Path) -> int:
    """Return the bytes that the files there occupy."""
    total = 0
    for folder, _, names in os.walk(place):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512  # noqa: PTH118 - it may not exist any more
    return total


def _kill_all(child: int) -> None:
    """Kill the program's group, then all its descendants, which become children of this process."""
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    while True:
        for pid in _children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    with suppress(OSError):
        own = os.getpid()
        return [int(pid) for pid in Path(f"/proc/{own}/task/{own}/children").read_text(encoding="ascii").split()]
    return []


def _end(_number: int, _frame: FrameType | None) -> None:
    sys.exit(GIVEN_UP)


def _pass(_number: int, _frame: FrameType | None) -> None:
    """Let the signal wake `select`."""


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
