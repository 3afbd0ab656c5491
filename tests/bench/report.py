"""What was measured, for people and for programs."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Figure:
    """`ours` over `theirs`; a gate is the most the ratio may be."""

    name: str
    ours: float
    theirs: float
    unit: str
    gate: float | None = None

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs if self.theirs else 0.0

    @property
    def kept(self) -> bool:
        return self.gate is None or self.ratio <= self.gate


def figure(name: str, ours: list[float], theirs: list[float], unit: str, gate: float | None = None) -> Figure:
    return Figure(name, median(ours), median(theirs), unit, gate)


def show(figures: list[Figure], path: Path) -> bool:
    """Print a table, write JSON, and return whether every gate is kept."""
    print(f"{'':<58}{'ours':>10}{'theirs':>10} {'':<5}{'ratio':>7}  gate")  # noqa: T201 - that is what it is for
    for one in figures:
        gate = "" if one.gate is None else f"<= {one.gate} {'kept' if one.kept else 'BROKEN'}"
        print(f"{one.name:<58}{one.ours:>10.2f}{one.theirs:>10.2f} {one.unit:<5}{one.ratio:>7.2f}  {gate}")  # noqa: T201
    path.write_text(json.dumps([{**asdict(one), "ratio": one.ratio, "kept": one.kept} for one in figures], indent=2))
    return all(one.kept for one in figures)
