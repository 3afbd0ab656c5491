"""docs/benchmarks.md, written from bench.json."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.bench.report import Figure

_HEAD = """\
# Benchmarks

After this page you know how fast the gateway is beside others, and how to measure it again. `make bench` wrote the
figures, and writes them anew with each whole run.

    make bench                            # all parts; the table, bench.json, and this page
    make bench PART="accepting growth"    # some parts: the table, and their places in bench.json
    make bench PART=page                  # this page from bench.json, without a measurement

`python -m tests.bench.profile` shows in which functions the gateway spends its time while it accepts pushes.

The exit code is 1 when a gate is broken. It needs `wrk` and, to compare with it, Debian's `webhook`; as root on Debian
it installs both. The parts are:

    {parts}

## How to read the figures

Machines differ more than versions do, so each figure is a **ratio** of ours to theirs, measured in turn inside one run:
ours, theirs, theirs, ours. The ratio is the median of the pairs, and the spread is the least and the greatest of them.
A gate is a bound that the ratio must keep. "Before" is what the issue about speed found, before the work on it.

An accepted push is proven, stored, matched, queued and committed with fsync before it is answered. What it is compared
with does less: an **empty handler** is one of aiohttp that reads the request and answers `{{}}`; a **plain INSERT** is
one statement of asyncpg with its commit, on the same server; **adnanh/webhook** starts `/bin/true` and stores nothing.
The load generator, wrk, runs on the same cores; its own share is in the table.
"""


def written(found: Mapping[str, Any], parts: Sequence[str]) -> str:
    """Return the page."""
    sections = [_HEAD.format(parts=" ".join(parts))]
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
