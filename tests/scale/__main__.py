"""`make scale`: prints what it has measured, and writes scale.json; exit code 1 when something does not hold."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.scale import idle, terms
from tests.scale.report import Result, table, write
from tests.scale.storm import storm
from tests.scale.world import World, world
from tests.support import leftovers

_SMALLER = (100, 1000)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make scale", description=__doc__)
    parser.add_argument("--engines", type=int, default=10_000)
    parser.add_argument("--rollouts", type=int, default=2_000, help="applications that are deployed at once")
    parser.add_argument("--gateways", type=int, default=3)
    parser.add_argument("--pull", type=float, default=40.0, help="seconds that a pull takes at most")
    parser.add_argument("--minutes", type=float, default=15.0, help="after which the run is given up")
    return parser.parse_args()


async def main(given: argparse.Namespace) -> bool:
    settings = {"GATEWAY_DATABASE_CONNECTIONS": "20"}
    with tempfile.TemporaryDirectory(prefix="gateway-scale-") as place:
        async with (
            asyncio.timeout(60 * given.minutes),
            world(
                Path(place), gateways=given.gateways, engines=given.engines, pull=given.pull, settings=settings
            ) as one,
        ):
            result = await _run(one, given)
    print(table(result))  # noqa: T201 - that is what it is for
    write(result, Path("scale.json"))
    return all(result.gates().values())


async def _run(one: World, given: argparse.Namespace) -> Result:
    none, measured, registered = await idle.measure(one, 0, 0), [], 0
    found = await terms.measure(one)
    print(found, flush=True)  # noqa: T201
    for size in sorted({size for size in _SMALLER if size < given.engines} | {given.engines}):
        measured.append(await idle.measure(one, registered, size))
        registered = size
        print(measured[-1], flush=True)  # noqa: T201
    step = max(1, given.engines // given.rollouts)
    names = [f"app-{number}" for number in range(0, given.engines, step)][: given.rollouts]
    return Result(given.gateways, none, measured, await storm(one, names), found)


leftovers.start_watcher()
sys.exit(0 if asyncio.run(main(_arguments())) else 1)
