"""The same for an application that is a service of a Swarm of one node."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from gateway.cli.demo.process import free_port
from gateway.cli.demo.registry import private_registry
from gateway.docker.engine import services
from gateway.docker.engine.labels import APPLICATION, DIGEST
from gateway.docker.engine.services import Service, Task
from gateway.model.configuration import Order
from gateway.model.reference import Digest
from tests.faults.world import SETTINGS, Violation, World, world
from tests.support.swarm_nodes import swarm_of

QUICK = {"Parallelism": 1, "Monitor": 200_000_000}


class ServiceWorld(World):
    """Its tasks are in a network of their own: that one runs is all that is seen of its serving."""

    def configuration(self) -> dict[str, Any]:
        update = {**QUICK, "Order": str(self.order)}
        return {"stopGrace": 1, "runtime": "service", "updateConfigSwarm": update, "rollbackConfigSwarm": QUICK}

    async def clear(self) -> None:
        for service in await services.list_all(self.engine):
            await services.remove(self.engine, service)

    async def services(self) -> list[Service]:
        """Return those of the application: what becomes of one before, after a violation, is another story."""
        return [one for one in await services.list_all(self.engine) if one.labels.get(APPLICATION) == self.app]

    async def one_serves(self, wanted: Digest) -> None:
        ours = await self.services()
        if [(one.name, one.labels[DIGEST]) for one in ours] != [(await self.name(), wanted)]:
            raise Violation(f"{wanted[:19]} should be one service: {[(one.name, one.labels) for one in ours]}")
        running = await self._running(ours[0])
        if [task.image.rpartition("@")[2] for task in running] != [wanted]:
            raise Violation(f"{wanted[:19]} should run alone: {_seen(running)}")

    async def somebody_answers(self) -> None:
        if not any([await self._running(one) for one in await self.services()]):
            raise Violation("no task runs")

    async def _running(self, service: Service) -> list[Task]:
        return [task for task in await services.tasks(self.engine, service) if task.state == "running"]


def _seen(tasks: Sequence[Task]) -> str:
    return ", ".join(f"{task.state} {task.image.rpartition('@')[2][:19]} {task.message}" for task in tasks)


@asynccontextmanager
async def service_world(order: Order, directory: Path) -> AsyncIterator[World]:
    """Run a Swarm, a registry that its node reaches, and a gateway on it."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        swarm = await enter(swarm_of(1))
        registry = await enter(private_registry(directory / "registry", free_port(), host=swarm.host))
        settings = {**SETTINGS, "GATEWAY_INSECURE_REGISTRIES": registry.address}
        node = swarm.nodes[0]
        yield await enter(
            world(order, node.dockerd, f"{registry.address}/app", directory, settings=settings, kind=ServiceWorld)
        )
