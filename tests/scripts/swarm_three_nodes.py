"""`make swarm`: a Swarm of three nodes, a service of three replicas on it, and a client that asks through the overlay.

It is updated start-first under load; then nodes are restarted in the middle of an update, and one dies in another. Ends
with 1 where a request failed, where what was told is not what is, or where a restart cost a sound version.
"""

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from gateway.cli import _logging as logs
from gateway.cli.demo.images import Behaviour, Image, push
from gateway.cli.demo.process import until
from gateway.docker.engine import containers, services
from gateway.docker.engine.client import Engine
from gateway.docker.engine.labels import DIGEST
from gateway.docker.engine.services import Task
from gateway.model.deployments import Deployment, Kind, Status
from gateway.model.errors import RolloutError
from gateway.queue import enqueue
from gateway.store import applications, database
from gateway.store.embedded_postgres import embedded_postgres
from gateway.store.migrate import migrate
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, DeployedApp, an_application
from tests.support.swarm_nodes import Node, Swarm, supervised, swarm_of

UPDATES = int(os.environ.get("UPDATES", "5"))
SECOND = 10**9
REPLICAS = 3
NETWORK = "front"
# A task is given to clients once it is healthy: without a check that is when its process is there.
CHECK = {"Test": ["CMD", "/bin/busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/"]}
CONFIGURATION = {
    "replicas": REPLICAS,
    "networks": [NETWORK],
    "stopGrace": 10,
    "endpointSpecSwarm": {"Mode": "dnsrr"},
    "updateConfigSwarm": {"Parallelism": 1, "Monitor": SECOND},
    "healthCheckSwarm": CHECK | {"Interval": SECOND, "Timeout": 10 * SECOND, "Retries": 5},
}


class Violation(Exception):
    """What must not be."""


@asynccontextmanager
async def migrated(place: Path) -> AsyncIterator[str]:
    """Run a PostgreSQL of its own; yields the address of a database that has the schema."""
    async with embedded_postgres(place) as url:
        async with database.connect(url) as pool:
            await migrate(pool)
        yield url


async def main() -> int:
    logs.configure("warning", "text")
    settings = {"GATEWAY_STABLE_WINDOW": "1", "GATEWAY_HEALTH_DEADLINE": "150", "GATEWAY_WATCH_WINDOW": "0"}
    with tempfile.TemporaryDirectory(prefix="gateway-swarm-") as place:
        async with (
            swarm_of(3) as swarm,
            migrated(Path(place) / "postgres") as url,
            supervised(swarm, Path(place), url, **settings) as one,
        ):
            await one.engine.call(
                "POST", "networks/create", body={"Name": NETWORK, "Driver": "overlay", "Attachable": True}
            )
            pushes = Pushes(one.registry, "tests/web")
            app = await an_application(one.pool, one.engine, pushes)
            await app.set(configuration=CONFIGURATION)
            try:
                await first(app, pushes)
                await under_load(app, pushes)
                await with_nodes_restarted(swarm, app, pushes)
                await with_a_node_lost(swarm, app, pushes)
            except Violation as violation:
                say(f"VIOLATION: {violation}")
                return 1
    return 0


async def first(app: DeployedApp, pushes: Pushes) -> None:
    await version("v0", pushes)
    deployment = await ended(app, await asked(app))
    require(deployment.status is Status.SUCCEEDED, f"the first deployment {deployment.status}: {deployment.reason}")
    nodes = {task.node_id for task in await running(app)}
    say(f"first deployment       {REPLICAS} tasks on {len(nodes)} nodes")


async def under_load(app: DeployedApp, pushes: Pushes) -> None:
    """Update it again and again while it is asked by its name in the overlay network."""
    took = []
    async with client(app.engine, f"app-{app.application_id}", pushes) as answers:
        for number in range(1, UPDATES + 1):
            digest = await version(f"v{number}", pushes)
            began = time.monotonic()
            deployment = await ended(app, await asked(app))
            took.append(time.monotonic() - began)
            require(deployment.status is Status.SUCCEEDED, f"update {number} {deployment.status}: {deployment.reason}")
            found = sorted(task.labels[DIGEST] for task in await running(app))
            require(found == [digest] * REPLICAS, f"update {number} succeeded with {found}")
    say(f"updates, start-first   {UPDATES} of {REPLICAS} replicas, {sum(took) / len(took):.1f} s each")
    say(f"requests meanwhile     {answers['asked']}, by version {answers['bodies']}")
    say(f"failed requests        {len(answers['failures'])}")
    for failure in answers["failures"][:20]:
        say(f"                       {failure}")
    require(not answers["failures"], f"{len(answers['failures'])} requests failed")
    require(len(answers["bodies"]) == UPDATES + 1, f"only {sorted(answers['bodies'])} have answered")


async def with_nodes_restarted(swarm: Swarm, app: DeployedApp, pushes: Pushes) -> None:
    """Restart an engine when the first new task runs on it: no sound version is given up for that."""
    for number, node in enumerate(reversed(swarm.nodes)):
        here = await node_id(swarm, node)
        digest = await version(f"restarted {number}", pushes)
        queued, began = await asked(app), time.monotonic()
        await until(partial(_runs_there, app, digest, here), within=60)
        await node.dockerd.stop()
        await node.restart()
        deployment = await ended(app, queued)
        say(f"a node is restarted    {deployment.status} after {time.monotonic() - began:.1f} s")
        require(deployment.status is Status.SUCCEEDED, f"it {deployment.status}: {deployment.reason}")
        found = sorted(task.image.rpartition("@")[2] for task in await running(app))
        require(set(found) == {digest}, f"it succeeded with {found}")


async def _runs_there(app: DeployedApp, digest: str, node_id: str) -> bool | None:
    found = [task.node_id for task in await running(app) if task.labels[DIGEST] == digest]
    return True if node_id in found else None


async def with_a_node_lost(swarm: Swarm, app: DeployedApp, pushes: Pushes) -> None:
    """Kill a node's engine when the first new task runs: it converges or rolls back, and says which."""
    before = {task.labels[DIGEST] for task in await running(app)}
    digest = await version("lost", pushes)
    queued, began = await asked(app), time.monotonic()

    async def under_way() -> bool | None:
        return any(task.labels[DIGEST] == digest for task in await running(app)) or None

    await until(under_way)
    lost = swarm.nodes[2]
    await lost.dockerd.stop(signal.SIGKILL)
    say("a node is killed       in the middle of an update")
    deployment = await ended(app, queued)
    told = deployment.reason.message if deployment.reason else ""
    say(f"it ended               {deployment.status} after {time.monotonic() - began:.1f} s {told}")
    require(deployment.status in {Status.SUCCEEDED, Status.ROLLED_BACK}, f"it {deployment.status}: {told}")
    expected = {digest} if deployment.status is Status.SUCCEEDED else before
    gone = await node_id(swarm, lost)

    async def as_told() -> bool | None:
        digests = [task.labels[DIGEST] for task in await running(app, without=gone)]
        return True if digests == sorted(expected) * REPLICAS else None

    # The Swarm itself learns of a dead node only after a while, and starts its tasks elsewhere then.
    await or_violation(as_told, f"told {deployment.status}, and something else runs on the nodes that are left")
    await lost.restart()

    async def one_version() -> bool | None:
        everywhere = [await of_application(node.engine, app.application_id) for node in swarm.nodes]
        digests = [one for node in everywhere for one in node]
        return True if digests == sorted(expected) * REPLICAS else None

    await or_violation(one_version, "the node that came back runs something else, or more")
    say(f"the node is back       {REPLICAS} containers of one version on all nodes, none else")


# -- parts


async def version(name: str, pushes: Pushes) -> str:
    return await push(Image(name, Behaviour.FINISHES), pushes.name())


async def asked(app: DeployedApp) -> str:
    async with app.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, app.application_id)
    return await enqueue.request_deployment(app.pool, application, Kind.DEPLOY, title="asked")


async def ended(app: DeployedApp, deployment_id: str) -> Deployment:
    return await app.ended(deployment_id, within=400)


async def running(app: DeployedApp, *, without: str = "") -> list[Task]:
    service = await services.inspect(app.engine, f"app-{app.application_id}")
    require(service is not None, "the service is gone")
    assert service is not None
    found = await services.tasks(app.engine, service)
    return [task for task in found if task.state == "running" and task.node_id != without]


async def of_application(engine: Engine, application_id: str) -> list[str]:
    """Return the digests of the application's containers that run on an engine."""
    try:
        found = await containers.list_labelled(engine, application_id)
    except RolloutError:
        return ["(no answer)"]
    return [container.labels[DIGEST] for container in found if container.running]


async def node_id(swarm: Swarm, lost: Node) -> str:
    for node in await swarm.nodes[0].engine.call("GET", "nodes"):
        if node["Status"]["Addr"] == lost.address:
            return str(node["ID"])
    raise Violation("the Swarm does not know the node")


@asynccontextmanager
async def client(engine: Engine, name: str, pushes: Pushes) -> AsyncIterator[dict[str, Any]]:
    """Ask the name from within a container's network until the block is left; what came back stands in the value."""
    image = pushes.name("client")
    await push(Image("client"), image)
    await engine.images.pull(image)
    body = {"Image": image, "HostConfig": {"NetworkMode": NETWORK}}
    container = await containers.create(engine, "client", body, {NETWORK: {}})
    await containers.start(engine, container)
    state = (await engine.call("GET", f"containers/{container}/json"))["State"]
    process = await asyncio.create_subprocess_exec(
        "nsenter", "--target", str(state["Pid"]), "--net", sys.executable,
        "-m", "tests.support.http_load", name, "8080",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    answers: dict[str, Any] = {}
    try:
        yield answers
    finally:
        said, _ = await process.communicate(b"")
        await containers.remove(engine, container)
    answers |= orjson.loads(said)


async def or_violation(look: Callable[[], Awaitable[bool | None]], otherwise: str) -> None:
    """Look until it is so; raises Violation."""
    try:
        await until(look, within=120)
    except TimeoutError as error:
        raise Violation(otherwise) from error


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Violation(otherwise)


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
