"""What processes have used: processor time and memory, from /proc."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_MEGABYTE = 1024.0


@dataclass(frozen=True)
class Used:
    """Processor seconds since the start of a process, its memory in megabytes, and its open files."""

    seconds: float
    megabytes: float
    files: int = 0

    def __add__(self, other: "Used") -> "Used":
        return Used(self.seconds + other.seconds, self.megabytes + other.megabytes, self.files + other.files)


def used(pid: int) -> Used:
    """Return what a process uses."""
    place = Path(f"/proc/{pid}")
    fields = (place / "stat").read_text().rpartition(")")[2].split()
    return Used(
        (int(fields[11]) + int(fields[12])) / _TICKS,
        _private(place),
        sum(1 for _ in (place / "fd").iterdir()),
    )


def _private(place: Path) -> float:
    """Return the memory that is the process's own: PostgreSQL's shared buffers would count for each backend."""
    for line in (place / "smaps_rollup").read_text().splitlines():
        name, *words = line.split()
        if name == "Pss:":
            return int(words[0]) / _MEGABYTE
    return 0.0


def used_by_all(pids: Iterable[int]) -> Used:
    total = Used(0.0, 0.0)
    for pid in pids:
        total += used(pid)
    return total


def used_by_family(pid: int) -> Used:
    """Return what a process and its children use, and what children that have ended used."""
    total = Used(0.0, 0.0)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if entry.name == str(pid):
                total += Used((int(fields[13]) + int(fields[14])) / _TICKS, 0.0)
            if entry.name == str(pid) or fields[1] == str(pid):
                total += used(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total
