"""What engines cost while nothing is deployed."""

import asyncio
import time
from dataclasses import dataclass

from tests.scale.measure import Used, used_by_all, used_by_family
from tests.scale.world import World

_SETTLED = 15.0  # seconds until the first checks of all engines are over
_MEASURED = 30.0  # seconds
_REACH_DEADLINE = 150.0  # seconds


@dataclass(frozen=True)
class Idle:
    """What the gateways together, and PostgreSQL, use with so many engines: percent of one core, megabytes."""

    engines: int
    #: seconds until a gateway had reached every engine
    reached_in: float
    gateways_percent: float
    gateways_megabytes: float
    postgres_percent: float
    files: int
    requests_a_second: float

    def cost_of_one(self, none: "Idle") -> tuple[float, float]:
        """Return the percent of one core and the kilobytes for each engine beyond `none`: gateways and PostgreSQL."""
        percent = self.gateways_percent + self.postgres_percent - none.gateways_percent - none.postgres_percent
        return percent / self.engines, 1024 * (self.gateways_megabytes - none.gateways_megabytes) / self.engines


async def measure(world: World, registered: int, engines: int) -> Idle:
    """Register engines until there are so many, and measure once a gateway has reached all."""
    began = time.monotonic()
    if engines > registered:
        await world.register(registered, engines)
    async with asyncio.timeout(_REACH_DEADLINE):
        while await world.reached() < engines:  # noqa: ASYNC110 - it is elsewhere
            await asyncio.sleep(0.5)
    reached_in = time.monotonic() - began
    await asyncio.sleep(_SETTLED)
    before, requests, began = _used(world), (await world.state())["requests"], time.monotonic()
    await asyncio.sleep(_MEASURED)
    after, took = _used(world), time.monotonic() - began
    answered = (await world.state())["requests"] - requests
    return Idle(
        engines,
        reached_in,
        100 * (after[0].seconds - before[0].seconds) / took,
        after[0].megabytes,
        100 * (after[1].seconds - before[1].seconds) / took,
        after[0].files,
        answered / took,
    )


def _used(world: World) -> tuple[Used, Used]:
    return used_by_all(one.pid for one in world.gateways), used_by_family(world.postgres)
