"""What a rollout does to a real service of a real Swarm."""

from collections.abc import AsyncIterator

import pytest

from gateway.config import Settings
from gateway.demo.process import free_port
from gateway.demo.registry import private_registry
from gateway.deployments import Kind, Status
from gateway.engine import services, spec
from gateway.engine.client import Engine
from gateway.engine.services import Service, Task
from gateway.reference import parse_domain
from gateway.registry import client as registries
from gateway.store.database import Pool, connect
from gateway.store.embedded import embedded_postgres
from gateway.store.migrations import migrate
from gateway.supervisor import supervise
from tests.lane import VAULT, Lane, an_application
from tests.real_parts import Pushes
from tests.swarm_nodes import Swarm, swarm_of

#: so that a test does not wait for a task to be watched, or restarted
QUICK = {
    "updateConfigSwarm": {"Parallelism": 1, "Monitor": 300_000_000},
    "rollbackConfigSwarm": {"Parallelism": 1, "Monitor": 300_000_000},
    "stopGrace": 1,
}


@pytest.fixture(scope="module")
async def swarm() -> AsyncIterator[Swarm]:
    async with swarm_of(1) as one:
        yield one


@pytest.fixture(scope="module")
async def swarm_lanes(
    swarm: Swarm, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Pool, Engine, str]]:
    """A supervisor for the Swarm, and the registry's address."""
    dockerd = swarm.nodes[0].dockerd
    place = tmp_path_factory.mktemp("swarm")
    async with (
        private_registry(place / "registry", free_port(), host=swarm.host) as registry,
        embedded_postgres(place / "postgres") as url,
        connect(url) as pool,
        registries.connect(frozenset({parse_domain(registry.address)})) as client,
    ):
        await migrate(pool)
        environment = {
            "HOME": "/",
            "DOCKER_HOST": dockerd.host,
            "GATEWAY_STABLE_WINDOW": "0.3",
            "GATEWAY_HEALTH_DEADLINE": "15",
        }
        async with supervise(pool, VAULT, swarm.nodes[0].engine, client, Settings.from_environ(environment)):
            yield pool, swarm.nodes[0].engine, registry.address


@pytest.fixture
def pushes(swarm_lanes: tuple[Pool, Engine, str], request: pytest.FixtureRequest) -> Pushes:
    return Pushes(swarm_lanes[2], f"tests/{abs(hash(request.node.nodeid)):x}")


@pytest.fixture
async def lane(swarm_lanes: tuple[Pool, Engine, str], pushes: Pushes) -> AsyncIterator[Lane]:
    pool, engine, _ = swarm_lanes
    lane = await an_application(pool, engine, pushes)
    await lane.set(configuration=QUICK)
    yield lane
    for service in await services.select(engine):
        await services.remove(engine, service)


async def service_of(lane: Lane) -> Service:
    found = await services.inspect(lane.engine, f"app-{lane.application_id}")
    assert found is not None
    return found


async def running(lane: Lane) -> list[Task]:
    found = await services.tasks(lane.engine, await service_of(lane))
    return [task for task in found if task.state == "running"]


async def test_on_a_manager_it_runs_as_a_service_pinned_by_digest(lane: Lane, pushes: Pushes) -> None:
    digest = await pushes("v1")
    deployment = await lane.ask(Kind.DEPLOY)
    assert (deployment.status, deployment.digest) == (Status.SUCCEEDED, digest), deployment.reason
    service = await service_of(lane)
    assert service.spec["TaskTemplate"]["ContainerSpec"]["Image"] == f"{pushes.name()}@{digest}"
    assert service.labels[spec.DEPLOYMENT] == deployment.deployment_id
    assert len(await running(lane)) == 1
    again = await lane.ask(Kind.DEPLOY)
    assert again.status is Status.UNCHANGED
