"""What was measured, for people and for programs."""

import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Literal

Direction = Literal["<=", ">="]


@dataclass(frozen=True)
class Figure:
    """`ours` over `theirs`; a gate is the most, or with `>=` the least, that the ratio may be.

    `ratios` are those of the single pairs, measured one beside the other: their median is the ratio.
    """

    name: str
    ours: float
    theirs: float
    unit: str
    gate: float | None = None
    direction: Direction = "<="
    ratios: tuple[float, ...] = ()
    #: what it was before the work on speed, in the words of its issue
    before: str = ""

    @property
    def ratio(self) -> float:
        if self.ratios:
            return median(self.ratios)
        return self.ours / self.theirs if self.theirs else 0.0

    @property
    def kept(self) -> bool:
        if self.gate is None:
            return True
        return self.ratio <= self.gate if self.direction == "<=" else self.ratio >= self.gate

    @property
    def spread(self) -> str:
        """The least and the greatest ratio of the pairs."""
        return f"{min(self.ratios):.3g} - {max(self.ratios):.3g}" if len(self.ratios) > 1 else ""

    @property
    def verdict(self) -> str:
        if self.gate is None:
            return ""
        return f"{self.direction} {self.gate:g} {'kept' if self.kept else 'BROKEN'}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "kept": self.kept}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Figure":
        given = {name: value for name, value in found.items() if name not in {"ratio", "kept"}}
        return cls(**{**given, "ratios": tuple(given["ratios"])})


def figure(
    name: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    unit: str,
    gate: float | None = None,
    direction: Direction = "<=",
    before: str = "",
) -> Figure:
    """Return the figure of what was measured in turn: the first of ours beside the first of theirs, and so on."""
    pairs = zip(ours, theirs, strict=True)
    ratios = tuple(one / other for one, other in pairs if other)
    return Figure(name, median(ours), median(theirs), unit, gate, direction, ratios, before)


def bound(name: str, ours: Sequence[float], most: float, unit: str, before: str = "") -> Figure:
    """Return the figure of what has a bound of its own: the gate is that it stays within it."""
    return figure(name, ours, [most] * len(ours), unit, gate=1.0, before=before)


def show(figures: Iterable[Figure]) -> None:
    """Print a table."""
    figures = list(figures)
    width = max((len(one.name) for one in figures), default=0)
    head = f"{'':<{width}}{'ours':>10}{'theirs':>10} {'':<5}{'ratio':>7}  {'spread':<18}gate"
    print(head)  # noqa: T201 - that is what it is for
    for one in figures:
        told = f"{one.ours:>10.2f}{one.theirs:>10.2f} {one.unit:<5}{one.ratio:>7.3f}  {one.spread:<18}{one.verdict}"
        print(f"{one.name:<{width}}{told}", flush=True)  # noqa: T201


def read(path: Path) -> dict[str, Any]:
    """Return what bench.json holds: each part with its figures, and where, when and of which commit they are."""
    found: Any = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found if isinstance(found, dict) else {}


def add(path: Path, part: str, figures: Iterable[Figure]) -> None:
    """Put the figures of a part into bench.json, in the place of its earlier ones."""
    found = read(path)
    found[part] = {
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "changed": _git("status", "--porcelain", "--untracked-files=no") != "",
        "at": datetime.now(UTC).isoformat(timespec="minutes"),
        "machine": machine(),
        "figures": [one.to_json() for one in figures],
    }
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _git(*words: str) -> str:
    """Return what git says, nothing where there is none."""
    try:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def machine() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    model = found[1] if found else platform.machine()
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GB, Linux {platform.release()}, "
        f"Python {platform.python_version()}"
    )
