"""docs/benchmarks.md, written from bench.json."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.bench.report import Figure

#: what is measured in each part, and what it is compared with
_SIDES = {
    "deploying": (
        "from one push until the new version runs",
        "the same by `docker pull`, `stop`, `rm`, `run`, and by calls of the Engine API",
    ),
    "fan-out": (
        "one push for many applications, by swaps at once: seconds until all are done, and outage of one",
        "as many containers replaced by calls of the Engine API, so many at once",
    ),
    "outage": (
        "the time without service that a client sees under stop-first",
        "a bare stop and start of the same container",
    ),
    "rollback": (
        "the way back to a kept version",
        "a bare start",
    ),
    "takeover": (
        "how soon another gateway takes over from a killed one",
        "the lease, the longest call of a rollout, and a second",
    ),
    "steady": (
        "200 pushes a second for ten minutes: what must not grow",
        "the middle third of the same run",
    ),
    "accepting": (
        "pushes that are accepted in a second, and the time of one",
        "an empty handler, or statements in the same PostgreSQL",
    ),
    "sources": (
        "the same for each [source](webhooks.md)",
        "an empty handler",
    ),
    "growth": (
        "statements and pages with 10,000,000 deliveries",
        "the same with one full page of everything",
    ),
    "starting": (
        "the start of `gateway serve` and of commands; an idle gateway",
        "fixed bounds",
    ),
    "dashboard": (
        "the overview, and what 200 open tabs cost",
        "fixed bounds, or the same without tabs",
    ),
}

_HEAD = """\
# Benchmarks

After this page you know how fast the gateway is beside others, and how to measure it again. `make bench` wrote the
figures, and writes them anew with each whole run.

    make bench                            # all parts; the table, bench.json, and this page
    make bench PART="accepting growth"    # some parts: the table, and their places in bench.json
    make bench PART=page                  # this page from bench.json, without a measurement

`python -m tests.bench.profile` shows in which functions the gateway spends its time while it accepts pushes.

The exit code is 1 when a gate is broken. It needs `wrk` and, to compare with it, Debian's `webhook`; as root on Debian
it installs both. The parts:

| PART | Ours | Theirs |
| --- | --- | --- |
{parts}

A part without a table below was not measured for this page.

## How to read the figures

Machines differ more than versions do, so each figure is a **ratio** of ours to theirs, measured in turn inside one run:
ours, theirs, theirs, ours. The ratio is the median of the pairs, and the spread is the least and the greatest of them.
A **gate** is a bound of the ratio: `<= 1.1 kept` means that the ratio may be 1.1 at most, and is. A row without a gate
is only for comparison. `BROKEN` means that this version does not reach the bound yet. Where "theirs" is a fixed bound
(`over 1.5 s`), the gate is 1. "Before" is the ratio, or the figure, before the work on speed began. A letter such as
(e) groups rows that belong together.

An accepted push is proven, stored, matched, queued and committed with fsync before it is answered. What it is compared
with does less: an **empty handler** is one of aiohttp that reads the request and answers `{{}}`; a **plain INSERT** is
one statement of asyncpg with its commit, on the same server; **adnanh/webhook** starts `/bin/true` and stores nothing.
The load generator, wrk, runs on the same cores; its own share is in the table. One push at a time is measured before
the load, of a gateway and a PostgreSQL at rest.
"""


def written(found: Mapping[str, Any], parts: Sequence[str]) -> str:
    """Return the page."""
    rows = "\n".join(f"| {part} | {' | '.join(_SIDES[part])} |" for part in parts)
    sections = [_HEAD.format(parts=rows)]
    sections += ["\n".join(_section(part, found[part])) for part in parts if part in found]
    return "\n".join(sections)


def _section(part: str, measured: Mapping[str, Any]) -> Iterator[str]:
    changed = ", changed" if measured["changed"] else ""
    yield f"## {part.capitalize()}"
    yield ""
    yield f"Commit {measured['commit']}{changed}, {measured['at'][:10]}, on {measured['machine']}."
    yield ""
    yield "| | before | ours | theirs | ratio | spread | gate |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for one in map(Figure.from_json, measured["figures"]):
        sides = (f"{_short(side)} {one.unit}" for side in (one.ours, one.theirs))
        told = (*sides, f"**{one.ratio:.3g}**", one.spread)
        yield f"| {one.name} | {one.before} | {' | '.join(told)} | {one.verdict} |"
    yield ""


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
