"""Thousands of rollouts at once, while each gateway is killed once and started again."""

import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count

import aiohttp
import orjson

from gateway.cli.demo.process import GatewayProcess
from gateway.model.reference import Digest
from tests.scale.engines import digest_of
from tests.scale.measure import used, used_by_family
from tests.scale.world import World
from tests.support.distribution_hooks import envelope

_SENDERS = 32
_AWAY = 5.0  # seconds between a kill and the start
_BETWEEN = 15.0  # seconds between two kills
_LOOK = 0.5  # seconds
_NUMBERS = count()

_WAITS = """
    SELECT percentile_cont(ARRAY[0.5, 0.99, 1.0]) WITHIN GROUP (ORDER BY extract(epoch FROM waited))
      FROM (
           SELECT started_at - greatest(requested_at, lag(finished_at) OVER (
                      PARTITION BY application_id ORDER BY created_at)) AS waited
             FROM deployments
           ) AS first_claims
     WHERE waited IS NOT NULL
"""
_NOW = """
    SELECT count(*) FILTER (WHERE status = 'running') AS running,
           count(*) FILTER (WHERE status = 'queued') AS queued,
           coalesce(max(extract(epoch FROM now() - lease_until)) FILTER (WHERE status = 'running'), 0)::float8 AS silent
      FROM deployments
     WHERE status IN ('queued', 'running')
"""


@dataclass
class Storm:
    """What was seen."""

    applications: int
    pushes: int = 0
    kills: int = 0
    #: the most rollouts that ran at once, and the most deployments that waited
    at_once: int = 0
    queued: int = 0
    seconds: float = 0.0
    #: seconds from when a deployment could be claimed until it was: median, p99, longest
    claimed_after: list[float] = field(default_factory=list)
    #: the longest that a deployment of a killed gateway waited after the end of its lease
    taken_over_after: float = 0.0
    states: dict[str, int] = field(default_factory=dict)
    #: processor seconds of the gateways that were not killed meanwhile, and of PostgreSQL
    postgres_seconds: float = 0.0
    gateways_seconds: float = 0.0
    #: applications that do not serve what was pushed last, and what must never happen
    lost: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


class _Gauge:
    """Adds up what processes used that were started again."""

    def __init__(self, gateways: Sequence[GatewayProcess]) -> None:
        self._began = {one.pid: used(one.pid).seconds for one in gateways}
        self._gateways = gateways
        self._ended = 0.0

    def ends(self, gateway: GatewayProcess) -> None:
        self._ended += used(gateway.pid).seconds - self._began.pop(gateway.pid, 0.0)

    def total(self) -> float:
        return self._ended + sum(used(one.pid).seconds - self._began.get(one.pid, 0.0) for one in self._gateways)


async def storm(world: World, names: Sequence[str]) -> Storm:
    """Push one version of each application, and another one of each second; return once all has ended."""
    seen, began = Storm(len(names)), time.monotonic()
    gauge, postgres = _Gauge(world.gateways), used_by_family(world.postgres)
    versions = dict.fromkeys(names, 1)
    async with asyncio.TaskGroup() as tasks:
        doing = [
            tasks.create_task(_push_all(world, seen, versions)),
            tasks.create_task(_kill_each(world, seen, gauge)),
        ]
        while await _look(world, seen) or not all(task.done() for task in doing):  # noqa: ASYNC110 - it is elsewhere
            await asyncio.sleep(_LOOK)
    seen.seconds = time.monotonic() - began
    seen.gateways_seconds = gauge.total()
    seen.postgres_seconds = used_by_family(world.postgres).seconds - postgres.seconds
    seen.claimed_after = [float(one) for one in await world.database.fetchval(_WAITS)]
    rows = await world.database.fetch("SELECT status::text, count(*) AS n FROM deployments GROUP BY 1 ORDER BY 1")
    seen.states = {row["status"]: row["n"] for row in rows}
    seen.lost, seen.violations = await world.wrong(versions), (await world.state())["violations"]
    return seen


async def _look(world: World, seen: Storm) -> bool:
    """Look at the queue; return whether something runs or waits."""
    row = await world.database.fetchrow(_NOW)
    assert row is not None
    seen.at_once, seen.queued = max(seen.at_once, row["running"]), max(seen.queued, row["queued"])
    seen.taken_over_after = max(seen.taken_over_after, row["silent"])
    return bool(row["running"] or row["queued"])


async def _push_all(world: World, seen: Storm, versions: dict[str, int]) -> None:
    names = list(versions)
    await world.publish(versions)
    await _push(world, seen, versions, names)
    again = names[::2]
    versions |= dict.fromkeys(again, 2)
    await world.publish(versions)
    await _push(world, seen, versions, again)


async def _push(world: World, seen: Storm, versions: dict[str, int], names: Sequence[str]) -> None:
    waiting = iter(names)

    async def send() -> None:
        for name in waiting:
            await _tell(world, envelope(f"{world.registry}/{name}:latest", Digest(digest_of(name, versions[name]))))
            seen.pushes += 1

    await asyncio.gather(*(send() for _ in range(_SENDERS)))


async def _tell(world: World, body: bytes) -> None:
    """Tell a gateway of a push, and another one until it is taken, as a registry behind a balancer does."""
    assert world.hook is not None
    headers = {
        "Authorization": f"Bearer {world.hook.secret}",
        "Content-Type": "application/vnd.docker.distribution.events.v2+json",
    }
    while True:
        gateway = world.gateways[next(_NUMBERS) % len(world.gateways)]
        with suppress(aiohttp.ClientError, TimeoutError):
            url = f"{gateway.url}{world.hook.path}"
            async with world.session.post(url, data=body, headers=headers, timeout=aiohttp.ClientTimeout(30)) as answer:
                said = orjson.loads(await answer.read())
                if answer.status in {HTTPStatus.OK, HTTPStatus.ACCEPTED}:
                    if not said["deployments"] and not said.get("duplicateOf"):
                        raise AssertionError(f"a push was answered with {said}")
                    return
        await asyncio.sleep(0.2)


async def _kill_each(world: World, seen: Storm, gauge: _Gauge) -> None:
    """Kill each gateway in turn, the first once a third of the rollouts runs."""
    while seen.at_once < seen.applications / 3:  # noqa: ASYNC110 - `_look` sets it
        await asyncio.sleep(_LOOK)
    for gateway in world.gateways:
        gauge.ends(gateway)
        await gateway.stop(signal.SIGKILL)
        seen.kills += 1
        await asyncio.sleep(_AWAY)
        await gateway.start()
        await asyncio.sleep(_BETWEEN)
