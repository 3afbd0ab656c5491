"""What a run has shown, as a table for people and as JSON for programs, and which of it must hold."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.scale.idle import Idle
from tests.scale.storm import Storm

_CLAIM_P99 = 1.0  # seconds
_FLAT = 1.5  # how much more an engine may cost among the most than among the fewest


@dataclass(frozen=True)
class Result:
    """One run. `none` was measured without engines."""

    gateways: int
    none: Idle
    idle: list[Idle]
    storm: Storm
    terms: dict[str, float]

    def gates(self) -> dict[str, bool]:
        """Return what must hold, and whether it does."""
        costs = [one.cost_of_one(self.none) for one in self.idle]
        return {
            "nothing is lost": not self.storm.lost,
            "no two rollouts of an application at once": not self.storm.violations,
            f"claimed within {_CLAIM_P99:g} s (p99)": self.storm.claimed_after[1] <= _CLAIM_P99,
            "processor time of an engine does not grow": costs[-1][0] <= _FLAT * costs[0][0],
            "memory of an engine does not grow": costs[-1][1] <= _FLAT * costs[0][1],
        }


def table(result: Result) -> str:
    """Return the result in Markdown."""
    lines = [
        "| Engines | reached in | gateways, % of a core | PostgreSQL, % | gateways, MB | an engine: % of a core | KB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in (result.none, *result.idle):
        cost = one.cost_of_one(result.none) if one.engines else None
        lines.append(
            f"| {one.engines} | {one.reached_in:.0f} s | {one.gateways_percent:.1f} | {one.postgres_percent:.1f} "
            f"| {one.gateways_megabytes:.0f} | {f'{cost[0]:.4f} | {cost[1]:.0f}' if cost else '- | -'} |"
        )
    storm = result.storm
    rows = [
        ("applications, pushes", f"{storm.applications}, {storm.pushes}"),
        ("gateways, kills", f"{result.gateways}, {storm.kills}"),
        ("rollouts at once, deployments that waited, at most", f"{storm.at_once}, {storm.queued}"),
        ("seconds until all had ended", f"{storm.seconds:.0f}"),
        ("deployments by state", ", ".join(f"{state} {number}" for state, number in storm.states.items())),
        ("claimed after, s: median, p99, longest", ", ".join(f"{one:.2f}" for one in storm.claimed_after)),
        ("taken over after the end of the lease, s, longest", f"{storm.taken_over_after:.1f}"),
        (
            "processor of one deployment, ms: gateways, PostgreSQL",
            f"{_each(storm.gateways_seconds, storm):.0f}, {_each(storm.postgres_seconds, storm):.0f}",
        ),
        ("applications that serve something else", str(len(storm.lost))),
        ("two callers at once", str(len(storm.violations))),
    ]
    lines += ["", "| Storm | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)]
    lines += ["", "| Term | |", "| --- | --- |", *(f"| {name} | {value:.3g} |" for name, value in result.terms.items())]
    lines += ["", *(f"- {name}: {'kept' if kept else 'BROKEN'}" for name, kept in result.gates().items())]
    return "\n".join(lines)


def _each(seconds: float, storm: Storm) -> float:
    return 1000 * seconds / max(1, sum(storm.states.values()))


def write(result: Result, path: Path) -> None:
    path.write_text(json.dumps({**asdict(result), "gates": result.gates()}, indent=2) + "\n")
