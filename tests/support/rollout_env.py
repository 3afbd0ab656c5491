"""One application's way from request to outcome, on a real engine, with a registry and PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.process import until
from gateway.config import Settings
from gateway.docker.container.runtime import ContainerRuntime
from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine
from gateway.docker.engine.containers import Container
from gateway.docker.swarm.runtime import ServiceRuntime
from gateway.model.deployments import FINISHED, Deployment, Kind, Status, Step, Swap
from gateway.model.endpoints import Endpoint
from gateway.model.errors import Code, Postponed
from gateway.model.events import Notification, PushEvent
from gateway.model.reference import Reference
from gateway.queue import enqueue, ingest
from gateway.registry import client
from gateway.store import applications, deployments, endpoints, queue, steps, subscriptions
from gateway.store.database import Pool
from gateway.store.encryption import Vault
from gateway.store.pagination import Page
from gateway.worker.alerts import Alert
from gateway.worker.supervisor import Supervisor, supervise
from tests.support.real_parts import Pushes

VAULT = Vault(b"k" * 32)


@dataclass
class DeployedApp:
    """One application's way from request to outcome."""

    pool: Pool
    engine: Engine
    application_id: str
    endpoint: Endpoint

    async def set(self, **changes: object) -> None:
        async with self.pool.acquire() as connection:
            await applications.update_application(connection, VAULT, self.application_id, changes)

    async def roll_back(self, to: str | None = None) -> Deployment:
        async with self.pool.acquire() as connection:
            application = await applications.select_application(connection, VAULT, self.application_id)
        return await self.ended(await enqueue.request_rollback(self.pool, VAULT, application, to=to, title="asked"))

    async def ask(self, kind: Kind) -> Deployment:
        async with self.pool.acquire() as connection:
            application = await applications.select_application(connection, VAULT, self.application_id)
        if kind in {Kind.DEPLOY, Kind.REDEPLOY}:
            queued = await enqueue.request_deployment(self.pool, application, kind, title="asked")
        else:
            answer = await enqueue.request_state(self.pool, application, kind, title="asked")
            assert answer is not None
            queued = answer
        return await self.ended(queued)

    async def pushed(self, name: str, body: bytes) -> ingest.Receipt:
        reference = Reference.parse(name)
        assert reference.tag is not None
        event = PushEvent(reference.repository, reference.tag)
        receipt = await ingest.ingest_delivery(self.pool, self.endpoint, body, Notification((event,)))
        async with self.pool.acquire() as connection:
            await queue.notify(connection)
        return receipt

    async def ended(self, deployment_id: str, *, within: float = 120) -> Deployment:
        async def look() -> Deployment | None:
            async with self.pool.acquire() as connection:
                found = await deployments.select_deployment(connection, deployment_id)
            return found if found.status in FINISHED else None

        return await until(look, within=within, stays=True)

    async def newest(self) -> Deployment:
        async with self.pool.acquire() as connection:
            return (await deployments.select_deployments_of(connection, [self.application_id], Page(1)))[0]

    async def went_back(self) -> Deployment:
        """Wait for a rollback that succeeded."""

        async def look() -> Deployment | None:
            found = await self.newest()
            return found if found.kind is Kind.ROLLBACK and found.status is Status.SUCCEEDED else None

        return await until(look)

    async def end_monitoring(self) -> None:
        """Close the monitor window, so that nothing is rolled back while the test removes the containers."""
        await self.pool.execute("DELETE FROM watches WHERE application_id = $1", self.application_id)

    async def inside(self, container_id: str, *words: str) -> None:
        """Run a command in a container, without waiting for it."""
        body = {"Cmd": ["/bin/busybox", *words]}
        made = await self.engine.call("POST", f"containers/{container_id}/exec", body=body)
        await self.engine.call("POST", f"exec/{made['Id']}/start", body={"Detach": True})

    async def steps(self, deployment: Deployment) -> list[Step]:
        async with self.pool.acquire() as connection:
            found = await steps.select_steps(connection, [deployment.deployment_id])
        return [record.step for record in found[deployment.deployment_id]]

    async def containers(self) -> list[Container]:
        return sorted(await containers.list_labelled(self.engine, self.application_id), key=lambda one: one.name)

    async def serving(self) -> Container:
        found = await containers.inspect(self.engine, "app-" + self.application_id)
        assert found is not None
        return found


class RecordedAlerts(list[Alert]):
    """An alert sink that keeps what it is sent."""

    def send(self, alert: Alert, /) -> None:
        self.append(alert)


@asynccontextmanager
async def a_gateway(pool: Pool, engine: Engine, docker_host: str, **settings: str) -> AsyncIterator[Supervisor]:
    """Roll out what is queued there, at a quick pace, without watch windows unless they are set."""
    environ = {
        "HOME": "/",
        "DOCKER_HOST": docker_host,
        "GATEWAY_STABLE_WINDOW": "0.1",
        "GATEWAY_HEALTH_DEADLINE": "20",
        "GATEWAY_WATCH_WINDOW": "0",
        **settings,
    }
    async with (
        client.connect() as registry,
        supervise(pool, VAULT, engine, registry, Settings.from_environ(environ)) as one,
    ):
        yield one


@pytest.fixture(scope="session")
async def supervisor(pool: Pool, engine: Engine, dockerd: PrivateEngine) -> AsyncIterator[Supervisor]:
    async with a_gateway(pool, engine, dockerd.host) as one:
        yield one


@pytest.fixture
def long_window(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a version run for longer than it takes to exit before it counts as stable."""
    monkeypatch.setattr(supervisor.context, "timeouts", replace(supervisor.context.timeouts, stable_window=0.5))


async def an_application(pool: Pool, engine: Engine, pushes: Pushes) -> DeployedApp:
    """Make an application that follows what the test pushes."""
    name = pushes.path.rpartition("/")[2]
    async with pool.acquire() as connection, connection.transaction():
        application_id = await applications.insert_application(
            connection, application_id=name, name=name, app_name=f"app-{name}", description=None
        )
        image = pushes.name()
        await applications.update_application(connection, VAULT, application_id, {"docker_image": image})
        await subscriptions.replace_subscription(connection, application_id, Reference.parse(image))
        _, token = await endpoints.insert_endpoint(
            connection, VAULT, source="distribution", name="", secret="s", host=None, aliases=[], settings={}
        )
        endpoint = await endpoints.select_endpoint(connection, VAULT, "distribution", token)
    return DeployedApp(pool, engine, application_id, endpoint)


@pytest.fixture
async def app(pool: Pool, engine: Engine, supervisor: Supervisor, pushes: Pushes) -> AsyncIterator[DeployedApp]:
    app = await an_application(pool, engine, pushes)
    yield app
    await app.end_monitoring()
    await asyncio.gather(*(containers.remove(engine, one.container_id) for one in await app.containers()))


def interrupt_swap(
    monkeypatch: pytest.MonkeyPatch,
    app: DeployedApp,
    runtime: type[ContainerRuntime | ServiceRuntime] = ContainerRuntime,
    *,
    sent: bool = True,
    **changes: object,
) -> None:
    """Leave the next swap open, as a kill before its proof does, and change the application then."""
    switch_over = runtime.switch_over

    async def interrupted(self: Any, swap: Swap, *booting: Any) -> None:
        monkeypatch.setattr(runtime, "switch_over", switch_over)
        if sent:
            await switch_over(self, swap, *booting)
        await app.set(**changes)
        raise Postponed(Code.GATEWAY_STOPPED, "it was killed")

    monkeypatch.setattr(runtime, "switch_over", interrupted)
