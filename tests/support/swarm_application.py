"""An application on a Swarm of one node, with a gateway's supervisor: fixtures for the tests of services."""

from collections.abc import AsyncIterator

import pytest

from gateway.docker.engine import services
from gateway.docker.engine.services import Service, Task
from gateway.docker.runtime import Timeouts
from gateway.docker.swarm.runtime import ServiceRuntime
from gateway.model.registries import anonymous
from gateway.store import applications
from tests.support.databases import create_database
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, DeployedApp, an_application
from tests.support.swarm_nodes import Supervised, supervised, swarm_of

#: so that a test does not wait for a task to be watched, or restarted
QUICK = {
    "updateConfigSwarm": {"Parallelism": 1, "Monitor": 300_000_000},
    "rollbackConfigSwarm": {"Parallelism": 1, "Monitor": 300_000_000},
    "restartPolicySwarm": {"Delay": 100_000_000},
    "stopGrace": 1,
}


@pytest.fixture(scope="module")
async def supervised_swarm(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: str, worker_id: str
) -> AsyncIterator[Supervised]:
    quick = {"GATEWAY_STABLE_WINDOW": "0.3", "GATEWAY_HEALTH_DEADLINE": "15", "GATEWAY_WATCH_WINDOW": "0"}
    database, place = await create_database(postgres_server, f"swarm_{worker_id}"), tmp_path_factory.mktemp("swarm")
    async with swarm_of(1) as swarm, supervised(swarm, place, database, **quick) as one:
        yield one


@pytest.fixture
def pushes(supervised_swarm: Supervised, request: pytest.FixtureRequest) -> Pushes:
    return Pushes(supervised_swarm.registry, f"tests/{abs(hash(request.node.nodeid)):x}")


@pytest.fixture
async def app(supervised_swarm: Supervised, pushes: Pushes) -> AsyncIterator[DeployedApp]:
    app = await an_application(supervised_swarm.pool, supervised_swarm.engine, pushes)
    await app.set(configuration=QUICK)
    yield app
    for service in await services.list_all(app.engine):
        await services.remove(app.engine, service)


async def service_of(app: DeployedApp) -> Service:
    found = await services.inspect(app.engine, f"app-{app.application_id}")
    assert found is not None
    return found


async def runtime_of(app: DeployedApp) -> ServiceRuntime:
    async with app.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, app.application_id)
    timeouts = Timeouts(stable_window=0.3, health_deadline=15, pull_stall=15, call_margin=5, kept_for=60)
    return ServiceRuntime(app.engine, application, anonymous, timeouts)


async def running(app: DeployedApp) -> list[Task]:
    found = await services.tasks(app.engine, await service_of(app))
    return [task for task in found if task.state == "running"]
