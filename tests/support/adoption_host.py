"""A host on which somebody runs containers, which a gateway may take over."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.admin.adoption import adopt
from gateway.cli.demo.process import until
from gateway.docker.engine import containers, images
from gateway.docker.engine.client import Engine
from gateway.model.applications import Application
from gateway.model.deployments import FINISHED, Deployment, Kind
from gateway.model.errors import NotFound
from gateway.queue import enqueue
from gateway.store import applications, deployments
from gateway.store.database import Pool
from gateway.worker.supervisor import Supervisor
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT

#: runs and does nothing, until it is killed
BUSY: dict[str, Any] = {
    "Entrypoint": ["/bin/busybox", "sh", "-c", "exec /bin/busybox sleep 1000"],
    "StopSignal": "SIGKILL",
}


@dataclass
class Host:
    """A host on which somebody runs containers, and a gateway that may take them over."""

    pool: Pool
    engine: Engine
    pushes: Pushes
    made: list[str] = field(default_factory=list)
    networks: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"Own_{self.pushes.path.rpartition('/')[2]}"

    async def network(self, name: str, *, subnet: str | None = None) -> None:
        config = {"IPAM": {"Config": [{"Subnet": subnet}]}} if subnet else {}
        await self.engine.call("POST", "networks/create", body={"Name": name, **config})
        self.networks.append(name)

    async def run(self, name: str = "", networks: dict[str, Any] | None = None, **body: Any) -> dict[str, Any]:
        """Run a container as docker run does, and return its inspection."""
        name = name or self.name
        pulled = self.pushes.name()
        if await images.inspect(self.engine, pulled) is None:
            await self.engine.images.pull(pulled)
        self.made.append(name)
        made = await containers.create(self.engine, name, {"Image": pulled, **body}, networks or {})
        await containers.start(self.engine, made)
        return await self.inspect(name)

    async def inspect(self, name: str = "") -> dict[str, Any]:
        found = await containers.inspect_raw(self.engine, name or self.name)
        assert found is not None
        return found

    async def adopt(self, name: str = "") -> Application:
        application_id = await adopt(self.pool, VAULT, self.engine, name or self.name)
        async with self.pool.acquire() as connection:
            await applications.update_application(connection, VAULT, application_id, {"configuration": {"drain": 0}})
        return await self.application(application_id)

    async def application(self, application_id: str) -> Application:
        async with self.pool.acquire() as connection:
            return await applications.select_application(connection, VAULT, application_id)

    async def deploy(self, application: Application, *, tag: str = "latest") -> Deployment:
        named: dict[str, Any] = {"title": "asked", "image": self.pushes.name(tag)}
        return await self.ended(await enqueue.request_deployment(self.pool, application, Kind.DEPLOY, **named))

    async def roll_back(self, application: Application, to: str | None = None) -> Deployment:
        return await self.ended(await enqueue.request_rollback(self.pool, VAULT, application, to=to, title="asked"))

    async def delete(self, application: Application) -> None:
        await enqueue.request_state(self.pool, application, Kind.DELETE, title="asked")

        async def gone() -> bool | None:
            with suppress(NotFound):
                await self.application(application.application_id)
                return None
            return True

        await until(gone)

    async def ended(self, deployment_id: str) -> Deployment:
        async def look() -> Deployment | None:
            async with self.pool.acquire() as connection:
                found = await deployments.select_deployment(connection, deployment_id)
            return found if found.status in FINISHED else None

        return await until(look)

    async def names(self) -> list[str]:
        """Return what is there, beside what serves, of the names this host runs."""
        listed = await self.engine.call("GET", "containers/json", params={"all": 1})
        # The engine may list a container that it has removed already; it has no name then.
        names = [item["Names"][0].removeprefix("/") for item in listed if item["Names"]]
        return sorted(name for name in names if any(name.startswith(made) for made in self.made))

    async def clear(self) -> None:
        """Remove what was run, and its networks."""
        given = {"force": 1, "v": 1}
        await asyncio.gather(
            *(self.engine.call("DELETE", f"containers/{name}", params=given) for name in await self.names())
        )
        for name in self.networks:
            await self.engine.call("DELETE", f"networks/{name}")
        self.made, self.networks = [], []


@pytest.fixture
async def host(pool: Pool, engine: Engine, supervisor: Supervisor, pushes: Pushes) -> AsyncIterator[Host]:
    host = Host(pool, engine, pushes)
    await pushes("v1")
    yield host
    await host.clear()
