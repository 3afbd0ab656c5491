"""`make bench`: a table, bench.json and docs/benchmarks.md; exit code 1 when a gate is broken.

With the names of parts, only these are measured: `make bench PART="accepting growth"`. They take their places in
bench.json; the page is written when everything was measured, or with `PART=page`, from bench.json.
`make bench PART=dashboard MINUTES=10` keeps the tabs of the dashboard open for so long.
"""

import argparse
import asyncio
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from gateway.cli.demo.engine import PrivateEngine, private_engine
from gateway.cli.demo.process import free_port
from gateway.cli.demo.registry import PrivateRegistry, private_registry
from tests.bench import (
    accepting,
    dashboard,
    deploying,
    growth,
    outage,
    page,
    recovering,
    report,
    sources,
    starting,
    steady,
)
from tests.support import leftovers

#: parts that need an engine and a registry, and parts that need a directory alone
ON_ENGINE: dict[str, Callable[[PrivateEngine, PrivateRegistry, Path], Awaitable[list[report.Figure]]]] = {
    "deploying": deploying.measure,
    "fan-out": deploying.fan_out,
    "outage": outage.measure,
    "rollback": recovering.rollback,
    "takeover": recovering.takeover,
    "steady": steady.measure,
}
ALONE: dict[str, Callable[[Path], Awaitable[list[report.Figure]]]] = {
    "accepting": accepting.measure,
    "sources": sources.measure,
    "growth": growth.measure,
    "starting": starting.measure,
    "dashboard": dashboard.measure,
}
PARTS = [*ON_ENGINE, *ALONE]
RESULTS, PAGE = Path("bench.json"), Path("docs/benchmarks.md")


async def measure(parts: Sequence[str], minutes: float) -> bool:
    """Measure the parts, one after the other; return whether all could be, and every gate is kept."""
    well = True
    on_engine, alone = ([one for one in group if one in parts] for group in (ON_ENGINE, ALONE))
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as place:
        directory = Path(place)
        if on_engine:
            async with private_engine() as dockerd, private_registry(directory / "registry", free_port()) as registry:
                for part in on_engine:
                    well &= await _measured(part, ON_ENGINE[part](dockerd, registry, directory))
                    await dockerd.remove_containers()
        measures: dict[str, Callable[[Path], Awaitable[list[report.Figure]]]] = {
            **ALONE,
            "dashboard": partial(dashboard.measure, minutes=minutes),
        }
        for part in alone:
            well &= await _measured(part, measures[part](directory))
    return well


async def _measured(part: str, measuring: Awaitable[list[report.Figure]]) -> bool:
    """Measure one part, show its figures and add them to the results."""
    try:
        figures = await measuring
    except Exception:  # the other parts tell something all the same
        traceback.print_exc()
        return False
    report.show(figures)
    report.add(RESULTS, part, figures)
    return all(one.kept for one in figures)


def main() -> bool:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--minutes", type=float, default=0.5, help="for which the tabs of the dashboard stay open")
    given = parser.parse_args()
    words: list[str] = given.parts
    if unknown := set(words) - {*PARTS, "page"}:
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}, page")
    parts = PARTS if not words else [one for one in PARTS if one in words]
    well = asyncio.run(measure(parts, given.minutes))
    if parts == PARTS or "page" in words:
        PAGE.write_text(page.written(report.read(RESULTS), PARTS), encoding="utf-8")
    return well


leftovers.start_watcher()
sys.exit(0 if main() else 1)
