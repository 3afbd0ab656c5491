"""Pushes at a steady rate for MINUTES=10, while deployments are carried out: what must not grow with time.

The run is compared with itself: its last third with its middle one.
"""

import asyncio
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import aiohttp
import asyncpg

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.images import Image, push
from gateway.cli.demo.process import GatewayProcess, gateway_process
from gateway.cli.demo.registry import PrivateRegistry
from gateway.model.reference import Digest
from gateway.store.embedded_postgres import embedded_postgres
from tests.bench.processor import resident
from tests.bench.report import Figure, bound
from tests.support.distribution_hooks import Hook, envelope

RATE = 200  # pushes a second
MINUTES = float(os.environ.get("MINUTES", "10"))
APPLICATIONS = 20
SAMPLED = 2.0  # seconds between two samples
NEW_IMAGE = 5.0  # seconds between two pushes that are of a new image
BEHIND = 30  # seconds that the answers may be behind the pushes
OLDEST = 15.0  # seconds that a deployment may be queued

_SETTINGS = {"GATEWAY_STABLE_WINDOW": "0.5", "GATEWAY_LOG_LEVEL": "error", "GATEWAY_WEBHOOK_RATE": "100000"}


@dataclass
class _Run:
    """What is seen of a run: one value a sample, and the milliseconds of each answer."""

    memory: list[float] = field(default_factory=list)
    dead: list[float] = field(default_factory=list)
    age: list[float] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)


async def measure(dockerd: PrivateEngine, registry: PrivateRegistry, directory: Path) -> list[Figure]:
    async with gateway_process(directory / "steady", dockerd.host, _SETTINGS) as gateway:
        hook, images = await Hook.open(gateway), await _applications(gateway, registry)
        for number, name in enumerate(images):
            await hook.post(envelope(name, images[name]))
            await gateway.settled(f"s{number}")
        run = _Run()
        began = time.monotonic()
        others = [asyncio.create_task(act) for act in (_sample(gateway, run), _renew(hook, images))]
        try:
            await _push(hook, images, run)
        finally:
            for one in others:
                one.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        rate = len(run.answers) / (time.monotonic() - began)
    return [
        Figure(f"(i) pushes a second for {MINUTES:g} minutes, over {RATE}", rate, RATE, "/s", 0.98, ">="),
        _last_over_middle("(i) resident memory: last third over middle", run.memory, "MB", 1.1),
        _last_over_middle("(i) dead rows: last third over middle", run.dead, "rows", 1.5),
        _last_over_middle("(i) answer to a push: last third over middle", run.answers, "ms", 1.5),
        bound(f"(i) age of the queue at most, over {OLDEST:g} s", [max(run.age)], OLDEST, "s"),
    ]


async def _applications(gateway: GatewayProcess, registry: PrivateRegistry) -> dict[str, Digest]:
    """Return the images of new applications, with what they name."""
    images = {}
    for number in range(APPLICATIONS):
        name = f"{registry.address}/bench/steady{number}:latest"
        images[name] = await push(Image("first"), name)
        made = {"name": f"s{number}", "applicationId": f"s{number}", "dockerImage": name}
        await gateway.mutate("application.create", made)
    return images


async def _push(hook: Hook, images: dict[str, Digest], run: _Run) -> None:
    """Push in time, whether or not what came before was answered; raises what a push does."""
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as pushes:

        async def one(name: str) -> None:
            began = time.monotonic()
            status, body = await hook.post(envelope(name, images[name]), session)
            assert status in {200, 202}, body
            run.answers.append((time.monotonic() - began) * 1000)

        began = time.monotonic()
        for number in range(int(RATE * MINUTES * 60)):
            await asyncio.sleep(began + number / RATE - time.monotonic())
            if number - len(run.answers) > RATE * BEHIND:
                raise RuntimeError(f"{BEHIND} seconds behind after {time.monotonic() - began:.0f} seconds")
            pushes.create_task(one(random.choice(list(images))))


async def _renew(hook: Hook, images: dict[str, Digest]) -> None:
    """Give one application after the other a new image, which the pushes then tell of."""
    number = 0
    while True:
        await asyncio.sleep(NEW_IMAGE)
        name = list(images)[number % len(images)]
        images[name] = await push(Image(f"new {number}"), name)
        number += 1


async def _sample(gateway: GatewayProcess, run: _Run) -> None:
    async with embedded_postgres(Path(gateway.environment["GATEWAY_DATA_DIR"])) as url:
        connection = await asyncpg.connect(url)
        while True:
            await asyncio.sleep(SAMPLED)
            run.memory.append(await asyncio.to_thread(resident, gateway.pid))
            run.dead.append(await connection.fetchval("SELECT sum(n_dead_tup)::float8 FROM pg_stat_user_tables"))
            age = "SELECT extract(epoch FROM now() - min(created_at))::float8 FROM deployments WHERE status = 'queued'"
            run.age.append(await connection.fetchval(age) or 0.0)


def _last_over_middle(name: str, seen: Sequence[float], unit: str, gate: float) -> Figure:
    third = len(seen) // 3
    return Figure(name, median(seen[2 * third :]), median(seen[third : 2 * third]), unit, gate)
