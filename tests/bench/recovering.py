"""The way back to a version that was kept, and how soon another gateway takes over from one that was killed."""

import os
import signal
import time
from datetime import datetime
from pathlib import Path

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.images import Image, push
from gateway.cli.demo.process import GatewayProcess, gateway_process, until
from gateway.cli.demo.registry import PrivateRegistry
from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine, connect
from gateway.model.configuration import Order
from tests.bench.report import Figure, figure
from tests.faults.strikes import KILL
from tests.faults.world import SETTINGS, Asked, World, world
from tests.support.distribution_hooks import Hook, envelope

ROUNDS = 11
LEASE, GRACE = 3.0, 1  # seconds
# A call may take as long as a lease beyond the grace it is given, five seconds at most.
LONGEST_CALL = GRACE + LEASE


async def rollback(dockerd: PrivateEngine, registry: PrivateRegistry, directory: Path) -> list[Figure]:
    """From the request until the kept container runs, against a bare start of one like it, in turn."""
    name = f"{registry.address}/bench/back:latest"
    async with (
        connect(dockerd.host) as engine,
        gateway_process(directory / "back", dockerd.host, {"GATEWAY_STABLE_WINDOW": "0.5"}) as gateway,
    ):
        hook = await Hook.open(gateway)
        await gateway.mutate("application.create", {"name": "b", "applicationId": "b", "dockerImage": name})
        ran = []
        for count in (1, 2):
            await hook.post(envelope(name, await push(Image(f"back {count}"), name)))
            ran.append((await gateway.settled("b", count=count))["deploymentId"])
        like = await containers.create(engine, "like", {"Image": name}, {})
        ours, theirs = [], []
        for number in range(ROUNDS):
            ours.append(await _back(gateway, engine, ran[number % 2], count=number + 3))
            began = time.time()
            await containers.start(engine, like)
            theirs.append(await _running_since(engine, like) - began)
            await containers.stop(engine, like, grace=10)
    return [figure("(g) rollback asked to kept one running, over a bare start", ours, theirs, "s", gate=1.3)]


async def _back(gateway: GatewayProcess, engine: Engine, to: str, *, count: int) -> float:
    began = time.time()
    await gateway.mutate("application.rollback", {"applicationId": "b", "deploymentId": to})
    row = await gateway.settled("b", count=count)
    assert row["state"] == "succeeded", row["reason"]
    serving = await containers.inspect(engine, (await gateway.query("application.one", applicationId="b"))["appName"])
    assert serving is not None
    return await _running_since(engine, serving.container_id) - began


async def _running_since(engine: Engine, container_id: str) -> float:
    found = await containers.inspect(engine, container_id)
    assert found is not None
    # Python reads six digits of the engine's nine.
    return datetime.fromisoformat(f"{found.started_at[:26].rstrip('Z')}+00:00").timestamp()


async def takeover(dockerd: PrivateEngine, registry: PrivateRegistry, directory: Path) -> list[Figure]:
    """From the kill of a gateway that is stopping the old container until another one settles what it left."""
    settings = {**SETTINGS, "GATEWAY_LEASE": str(LEASE)}
    repository = f"{registry.address}/bench/takeover"
    async with world(Order.STOP_FIRST, dockerd, repository, directory / "first", settings=settings) as one:
        taken = [await _taken_over(one) for _ in range(3)]
    return [
        Figure("(h) takeover, over lease, longest call and 1 s", max(taken), LEASE + LONGEST_CALL + 1, "s", gate=1.0)
    ]


async def _taken_over(one: World) -> float:
    async with one.second_gateway() as second:
        second.key = one.gateway.key
        os.kill(second.pid, signal.SIGSTOP)  # it is there, and claims nothing yet
        try:
            wanted, call = await one.struck(KILL.on(one), Asked.PUSH, "/stop", after=False)
            killed = time.time()
        finally:
            os.kill(second.pid, signal.SIGCONT)
        assert call is not None
        await until(lambda: _settled(one, second))
        (newest, *_) = await second.deployments(one.app)
        row = await second.query("deployment.one", deploymentId=newest["deploymentId"])
        settle = next(step["startedAt"] for step in row["steps"] if step["step"] == "settle")
        await KILL.mend(one)
        await one.ends(wanted)
    return datetime.fromisoformat(settle).timestamp() - killed


async def _settled(one: World, second: GatewayProcess) -> bool | None:
    return await one.settled(second) or None
