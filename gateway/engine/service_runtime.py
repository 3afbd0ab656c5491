"""An application as a service of a Swarm: the Swarm replaces its tasks, and what it does is watched here.

exchange   the next spec is sent, once: the service bears the deployment's labels from then on
prove      every task runs in that version, stays so for a while, and none of another version is left
put back   the spec before is sent for again, unless the Swarm has done so already

What the Swarm says of itself is believed only for the worse. Every call may be repeated.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from gateway.applications import Application, Order, RuntimeKind
from gateway.bases import Base
from gateway.deployments import Swap
from gateway.engine import containers, convergence, service_spec, services, spec
from gateway.engine.client import CALL_DEADLINE, Engine, named
from gateway.engine.convergence import Mark, Seen
from gateway.engine.runtime import Pace, Progress, Serving, Version
from gateway.engine.services import Service, Task
from gateway.errors import Code, Failed, Postponed, Reason
from gateway.reference import Digest, Reference
from gateway.registries import Credentials

_LOG = structlog.get_logger()

_LOOK_AGAIN = 0.2  # seconds
# The port of a task that is being stopped is free a moment later: only a task that no node takes for so long is stuck.
_UNPLACED = 10.0  # seconds
# The Swarm learns of a lost node after some 15 s, and starts its tasks elsewhere then.
_STUCK = 5.0  # seconds
_BACK = 45.0  # seconds to watch the Swarm going back; it goes on all the same


@dataclass(frozen=True, slots=True)
class ServiceRuntime:
    """Implements engine.runtime.Runtime for one application, on a manager of its Swarm."""

    engine: Engine
    application: Application
    credentials: Credentials | None
    pace: Pace

    # -- what is there

    async def clear(self) -> None:
        """Nothing is created before it serves."""

    async def serving(self) -> Serving | None:
        service = await self._own()
        if service is None:
            return None
        seen, stopped = await self._see(service, Mark.of(service.labels)), service_spec.is_stopped(service.spec)
        digest, spec_hash = service.labels.get(spec.DIGEST), service.labels.get(spec.SPEC)
        if (base := self._original(service)) is not None:
            digest, spec_hash = base.reference.digest, service_spec.spec_hash(self.application.as_found())
        return Serving(
            object_id=service.service_id,
            name=service.name,
            running=not stopped,
            sound=seen.converged and not stopped,
            digest=digest,
            spec_hash=spec_hash,
            deployment_id=service.labels.get(spec.DEPLOYMENT),
            restarts=seen.restarts,
        )

    def spec_hash(self) -> str:
        return service_spec.spec_hash(self.application)

    async def _own(self) -> Service | None:
        found = await services.inspect(self.engine, self._name)
        if found is None or self._original(found) is not None:
            return found
        if found.labels.get(spec.APPLICATION) != self.application.application_id:
            raise Failed(Code.NAME_TAKEN, f"a service called {found.name} is there that is not this application's")
        return found

    def _original(self, service: Service) -> Base | None:
        """Return what the application was adopted with, where the service is still as somebody else made it."""
        base = self.application.base
        if base is None or spec.APPLICATION in service.labels or service.service_id != base.object_id:
            return None
        return base

    # -- before anything is touched

    async def check(self) -> None:
        if self.application.configuration.probe is not None:
            raise Failed(
                Code.BAD_CONFIGURATION,
                f"{self._name} is a service, whose tasks a probe does not reach: set healthCheckSwarm instead",
            )
        await self._network_ids()
        wanted = service_spec.mesh_ports(service_spec.wanted(self.application, {}))
        for other in await services.select(self.engine) if wanted else ():
            if other.name != self._name and (taken := sorted(wanted & service_spec.mesh_ports(other.spec))):
                ports = ", ".join(f"{number}/{protocol}" for number, protocol in taken)
                raise Failed(Code.PORT_TAKEN, f"port {ports} is published by the service {other.name}")

    async def _network_ids(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in service_spec.network_names(self.application):
            network = await self.engine.call("GET", f"networks/{named(name)}")
            if network["Scope"] != "swarm" and name != "host":
                how = f"docker network create --driver overlay --attachable {name}"
                raise Failed(Code.BAD_CONFIGURATION, f"the network {name} is of one engine only, not as by: {how}")
            found[name] = network["Id"]
        return found

    async def obtain(self, reference: Reference, progress: Progress) -> None:
        """Each node pulls for itself."""

    async def prepare(self, version: Version, serving: Serving | None) -> Swap:
        image = version.reference.with_digest(version.digest)
        made = service_spec.service_spec(self.application, version)
        return Swap(
            application_id=self.application.application_id,
            deployment_id=version.deployment_id,
            attempt=version.attempt,
            serving_name=self._name,
            runtime=RuntimeKind.SERVICE,
            order=Order(made["UpdateConfig"]["Order"]),
            old=serving.object_id if serving else None,
            old_restart_policy=None,
            new=str(image),
        )

    async def recall(self, version: Version, serving: Serving | None) -> Swap | None:  # noqa: ARG002 - the containers'
        """Nothing is kept: a version that ran before is sent anew."""
        return None

    async def present(self, swap: Swap) -> None:
        """The Swarm starts each new task itself, in the order it was given."""

    async def discard(self, swap: Swap) -> None:
        """Nothing was created."""

    # -- the swap

    async def exchange(self, swap: Swap) -> None:
        service = await self._own()
        if service is not None and await self._was_sent(service, swap):
            return
        image = Reference.parse(swap.new)
        made = service_spec.service_spec(
            self.application,
            Version(image, Digest(str(image.digest)), swap.deployment_id, swap.attempt),
            networks=await self._network_ids(),
            monitor=self.pace.stable_window,
        )
        authorized = services.authorization(image, self.credentials)
        if service is not None:
            await services.update(self.engine, service, made, authorized)
            return
        await services.create(self.engine, made, authorized)
        await self._own()

    async def _was_sent(self, service: Service, swap: Swap) -> bool:
        """Tell whether the swap's spec was sent already, though the Swarm may have gone back from it since."""
        if Mark.of(service.labels) == _mark(swap):
            return True
        tasks = await services.tasks(self.engine, service)
        return any(Mark.of(task.labels) == _mark(swap) for task in tasks)

    async def prove(self, swap: Swap, *, again: bool = False) -> None:  # noqa: ARG002 - it proves itself once
        await self._converge(_mark(swap))

    async def _converge(self, mark: Mark, before: frozenset[str] = frozenset()) -> None:
        """Return once every task has run in the version for the stability window; raises Failed."""
        clock = asyncio.get_running_loop().time
        progressed = stable_since = placed = clock()
        best, steady, seen_stuck = 0, frozenset[str](), set[str]()
        while True:
            service, now = await self._expect(self._name), clock()
            seen = await self._see(service, mark, before)
            try:
                convergence.refuse(service, seen, mark)
            except Failed as error:
                raise await self._explained(error, seen.broke) from error
            if seen.running > best:
                best, progressed = seen.running, now
            if seen.tasks != steady:
                steady, stable_since = seen.tasks, now
            if seen.unplaced is None:
                placed = now
            if seen.stuck is not None and seen.stuck.task_id not in seen_stuck and now - progressed >= _STUCK:
                seen_stuck.add(seen.stuck.task_id)
                await self._send_again(service)
            if seen.converged and now - stable_since >= self.pace.stable_window:
                return
            if seen.unplaced is not None and now - placed >= min(_UNPLACED, self.pace.health_deadline):
                raise Failed(Code.NO_SUITABLE_NODE, f"{self._name}.{seen.unplaced.slot}: {seen.unplaced.said}")
            if now - progressed >= self.pace.health_deadline + self.application.configuration.stop_grace:
                raise self._late(seen)
            await asyncio.sleep(_LOOK_AGAIN)

    async def _send_again(self, service: Service) -> None:
        """Let the Swarm begin its update anew, where it waits for a task on a node that is gone.

        It takes no notice of the spec it has. So it is told to go back and, at once, forward again, which leaves what
        runs in the new version as it is, and the spec before as the one to go back to.
        """
        image = spec.reference(service.labels)
        if image is None or service.previous_spec is None:
            return
        _LOG.warning("A node was lost during an update, which is begun anew", service=self._name)
        await services.update(self.engine, service, service.spec, {}, back=True)
        gone_back = await self._expect(self._name)
        await services.update(self.engine, gone_back, service.spec, services.authorization(image, self.credentials))

    async def _explained(self, error: Failed, broke: Task | None) -> Failed:
        """Return it with what the task's container tells more, where that is on this engine.

        A task that its health check ends, and that obeys, is said to be complete; one that is out of memory, killed.
        """
        container = await containers.inspect(self.engine, broke.container_id) if broke and broke.container_id else None
        if container is not None and container.out_of_memory:
            return Failed(Code.OUT_OF_MEMORY, f"{error.reason.message}: it was killed for want of memory")
        if container is not None and container.health == "unhealthy":
            return Failed(Code.UNHEALTHY, f"{error.reason.message}: it is unhealthy: {container.health_output}")
        return error

    def _late(self, seen: Seen) -> Failed:
        lagging = seen.lagging
        waited_for = [lagging] if lagging else seen.leftover[:1]
        last = "".join(f"; {self._name}.{task.slot} is {task.state}: {task.said}" for task in waited_for)
        code = Code.UNHEALTHY if lagging is not None and lagging.state == "starting" else Code.TIMED_OUT
        so_far = f"{seen.running} of {seen.wanted} tasks run, {len(seen.leftover)} of another version are left"
        return Failed(code, f"{self._name} has not come further for {self.pace.health_deadline:.0f} s: {so_far}{last}")

    async def retire(self, swap: Swap) -> None:
        """The Swarm has stopped the old tasks."""

    async def outlast(self, swap: Swap) -> None:
        """A call that lands late is refused: the version it was made for is over."""

    async def put_back(self, swap: Swap) -> None:
        service = await self._own()
        if service is None:
            return
        if Mark.of(service.labels) == _mark(swap):
            if swap.old is None:
                await self.remove()
                return
            if service.previous_spec is None or Mark.of(service.previous_spec.get("Labels") or {}) == _mark(swap):
                raise Failed(
                    Code.ENGINE_REFUSED, f"the Swarm knows no earlier spec of {self._name}: it was changed meanwhile"
                )
            await services.update(self.engine, service, service.spec, {}, back=True)
        await self._until_back()

    async def _until_back(self) -> None:
        """Watch the Swarm going back; that it does not get there is told, not waited for."""

        async def look() -> bool:
            service = await self._own()
            if service is None or service.update_state == "rollback_paused":
                _LOG.warning("The Swarm did not get a service back", service=self._name)
                return True
            seen = await self._see(service, Mark.of(service.labels))
            return seen.converged or (service_spec.is_stopped(service.spec) and not seen.leftover)

        if not await _until(look, within=_BACK):
            _LOG.warning("The Swarm is still getting a service back", service=self._name)

    # -- after

    async def tidy(self, swap: Swap) -> None:
        """Each node keeps and removes its images by its own rules."""

    async def last_lines(self, swap: Swap) -> str:
        return await self._lines(_mark(swap))

    async def _lines(self, mark: Mark) -> str:
        service = await services.inspect(self.engine, self._name)
        found = [] if service is None else await services.tasks(self.engine, service)
        ours = [task for task in found if Mark.of(task.labels) == mark and task.state != "rejected" and task.node_id]
        broke = [task for task in ours if task.state in {"failed", "complete"}]
        for task in (broke or ours)[:1]:
            return await services.last_lines(self.engine, task)
        return ""

    async def start(self, serving: Serving) -> None:
        service = await self._expect(serving.object_id)
        before = frozenset(task.task_id for task in await services.tasks(self.engine, service))
        await self._scale(service, running=True)
        mark = Mark.of(service.labels)
        try:
            await self._converge(mark, before)
        except Failed as error:
            raise Failed(error.reason.code, error.reason.message, log=await self._lines(mark)) from error

    async def stop(self, serving: Serving) -> None:
        service = await self._expect(serving.object_id)
        await self._scale(service, running=False)

        async def look() -> bool:
            return await self._is_over(await services.tasks(self.engine, service))

        if not await _until(look, within=self._grace):
            raise Postponed(Code.ENGINE_REFUSED, f"tasks of {self._name} still run after {self._grace:.0f} s")

    async def _scale(self, service: Service, *, running: bool) -> None:
        made = service_spec.scaled(service.spec, self.application, running=running)
        if made == service.spec:
            return
        image = spec.reference(service.labels)
        await services.update(
            self.engine, service, made, services.authorization(image, self.credentials) if image else {}
        )

    async def remove(self) -> None:
        service = await self._own()
        if service is not None and self._original(service) is not None:
            return  # it was never the gateway's to remove
        if service is not None:
            await services.remove(self.engine, service)

        async def look() -> bool:
            return await self._is_over(await services.tasks_of(self.engine, self.application.application_id))

        await _until(look, within=self._grace)

    async def trouble(self, object_id: str, restarts: int) -> Reason | None:
        try:
            service = await self._expect(object_id)
        except Failed as error:
            if error.reason.code is not Code.EXITED:
                raise
            return error.reason
        seen = await self._see(service, Mark.of(service.labels))
        return convergence.broken(self._name, seen.broke).reason if seen.broke and seen.restarts > restarts else None

    async def answer(self, object_id: str) -> Reason | None:  # noqa: ARG002 - a service has no probe
        return None

    async def expire(self) -> None:
        """Nothing is kept."""

    def longest_call(self) -> float:
        return self.pace.call_margin

    # -- looking

    async def _expect(self, known_as: str) -> Service:
        service = await services.inspect(self.engine, known_as)
        if service is None:
            raise Failed(Code.EXITED, f"the service {self._name} was removed by somebody else")
        return service

    async def _see(self, service: Service, mark: Mark, before: frozenset[str] = frozenset()) -> Seen:
        tasks = await services.tasks(self.engine, service)
        down = await services.down_nodes(self.engine)
        return convergence.observe(service, tasks, mark, down=down, before=before)

    async def _is_over(self, tasks: list[Task]) -> bool:
        return convergence.is_over(tasks) or convergence.is_over(tasks, down=await services.down_nodes(self.engine))

    @property
    def _name(self) -> str:
        return self.application.app_name

    @property
    def _grace(self) -> float:
        return self.application.configuration.stop_grace + CALL_DEADLINE


def _mark(swap: Swap) -> Mark:
    return Mark(swap.deployment_id, str(swap.attempt))


async def _until(look: Callable[[], Awaitable[bool]], *, within: float) -> bool:
    """Look until it is so; False where it is not within so many seconds."""
    try:
        async with asyncio.timeout(within):
            while not await look():  # noqa: ASYNC110 - what is looked at is elsewhere
                await asyncio.sleep(_LOOK_AGAIN)
    except TimeoutError:
        return False
    return True
