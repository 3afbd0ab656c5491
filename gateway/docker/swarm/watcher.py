"""Watching a service until every one of its tasks runs in a version, or it is clear that they will not."""

import asyncio
from dataclasses import dataclass

import structlog

from gateway.docker.container import exit_diagnosis
from gateway.docker.engine import containers, services
from gateway.docker.engine.client import Engine
from gateway.docker.engine.labels import image_reference
from gateway.docker.engine.services import Service, Task
from gateway.docker.runtime import Timeouts
from gateway.docker.swarm import convergence
from gateway.docker.swarm.convergence import AttemptKey, ServiceProgress
from gateway.model.errors import Code, Failed, NotOnEngine, RolloutError
from gateway.model.registries import CredentialsProvider

_LOG = structlog.get_logger()

POLL_INTERVAL = 0.2  # seconds
# The port of a task that is being stopped is free a moment later: only a task that no node takes for so long is stuck.
_PLACEMENT_DEADLINE = 10.0  # seconds
# The Swarm learns of a lost node after some 15 s, and starts its tasks elsewhere then.
_STUCK_AFTER = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class ServiceWatcher:
    """One service; `grace` is the seconds its tasks have to stop."""

    engine: Engine
    name: str
    timeouts: Timeouts
    grace: int
    login: CredentialsProvider

    async def wait_until_converged(self, mark: AttemptKey, before: frozenset[str] = frozenset()) -> None:
        """Return once every task has run in the version for the stability window; raises Failed."""
        clock = asyncio.get_running_loop().time
        progressed = stable_since = placed = clock()
        best, steady, seen_stuck, excused = 0, frozenset[str](), set[str](), frozenset[str]()
        while True:
            service, seen = await self._observe(mark, before)
            now = clock()
            if not seen.excused <= excused:  # others take their place
                excused, best, progressed = seen.excused, 0, now
            if seen.running > best:
                best, progressed = seen.running, now
            if seen.tasks != steady:
                steady, stable_since = seen.tasks, now
            if seen.unplaced is None:
                placed = now
            if seen.stuck is not None and seen.stuck.task_id not in seen_stuck and now - progressed >= _STUCK_AFTER:
                seen_stuck.add(seen.stuck.task_id)
                await self._restart_update(service)
            if seen.converged and now - stable_since >= self.timeouts.stable_window:
                return
            if seen.unplaced is not None and now - placed >= min(_PLACEMENT_DEADLINE, self.timeouts.health_deadline):
                raise convergence.placement_failure(self.name, seen.unplaced)
            if now - progressed >= self.timeouts.health_deadline + self.grace:
                raise self._timed_out(seen)
            await asyncio.sleep(POLL_INTERVAL)

    async def _observe(self, mark: AttemptKey, before: frozenset[str]) -> tuple[Service, ServiceProgress]:
        """Return what is seen of the version; raises Failed where it will not come to serve.

        That a task ended may be told a moment before that its node has come back, so it is looked at twice.
        """
        doubted = False
        while True:
            service = await self.require(self.name)
            seen = await self.observe(service, mark, before)
            try:
                convergence.raise_if_failed(service, seen, mark)
            except Failed as error:
                if doubted or seen.broke is None:
                    raise await self.diagnose(error, seen.broke) from error
                doubted = True
                await asyncio.sleep(POLL_INTERVAL)
            else:
                return service, seen

    async def _restart_update(self, service: Service) -> None:
        """Let the Swarm begin its update anew, where it waits for a task on a node that is gone.

        It takes no notice of the spec it has. So it is told to go back and, at once, forward again, which leaves what
        runs in the new version as it is, and the spec before as the one to go back to.
        """
        image = image_reference(service.labels)
        if image is None or service.previous_spec is None:
            return
        _LOG.warning("A node was lost during an update, which is begun anew", service=self.name)
        await services.update(self.engine, service, service.spec, {}, back=True)
        gone_back = await self.require(self.name)
        authorized = services.registry_auth_header(image, await self.login(None))
        await services.update(self.engine, gone_back, service.spec, authorized)

    async def diagnose(self, error: Failed, broke: Task | None) -> Failed:
        """Return it with what the task's container tells more, where that is on this engine.

        A task that its health check ends, and that obeys, is said to be complete; one that is out of memory, killed.
        """
        container = await containers.inspect(self.engine, broke.container_id) if broke and broke.container_id else None
        if container is not None and container.out_of_memory:
            return Failed(
                Code.OUT_OF_MEMORY, f"{error.reason.message}: {exit_diagnosis.out_of_memory(container).message}"
            )
        if container is not None and container.health == "unhealthy":
            return Failed(Code.UNHEALTHY, f"{error.reason.message}: it is unhealthy: {container.health_output}")
        if broke is not None and container is None and error.reason.code is Code.UNHEALTHY:
            return await self._point_to_node(error, broke)
        if broke is not None and error.reason.code is Code.EXITED and broke.state == "failed":
            return await self._diagnose_exec(error, broke)
        return error

    async def _point_to_node(self, error: Failed, broke: Task) -> Failed:
        """Return it with where its check's output is kept: only the engine that ran the task has that."""
        try:
            name = await services.node_hostname(self.engine, broke)
        except RolloutError:
            return error
        how = f"docker inspect {broke.container_id[:12]}"
        return Failed(error.reason.code, f"{error.reason.message}; on {name}, this tells what its check said: {how}")

    async def _diagnose_exec(self, error: Failed, broke: Task) -> Failed:
        """Return it with what the task's log says, where its process could not be started."""
        try:
            told = exit_diagnosis.failed_to_exec(await services.last_lines(self.engine, broke))
            platform = await services.node_platform(self.engine, broke) if told else ""
        except RolloutError:
            return error
        if told is None:
            return error
        return Failed(told[0], f"{error.reason.message}: {told[1]}; its node is {platform}")

    def _timed_out(self, seen: ServiceProgress) -> Failed:
        lagging = seen.lagging
        waited_for = [lagging] if lagging else seen.leftover[:1]
        last = "".join(f"; {self.name}.{task.slot} is {task.state}: {task.said}" for task in waited_for)
        code = Code.UNHEALTHY if lagging is not None and lagging.state == "starting" else Code.TIMED_OUT
        so_far = f"{seen.running} of {seen.wanted} tasks run, {len(seen.leftover)} of another version are left"
        return Failed(
            code, f"{self.name} has not come further for {self.timeouts.health_deadline:.0f} s: {so_far}{last}"
        )

    async def last_lines(self, mark: AttemptKey) -> str:
        service = await services.inspect(self.engine, self.name)
        found = [] if service is None else await services.tasks(self.engine, service)
        ours = [
            task
            for task in found
            if AttemptKey.of(task.labels) == mark
            and task.image_matches_labels
            and task.state != "rejected"
            and task.node_id
        ]
        broke = [task for task in ours if task.state in {"failed", "complete"}]
        for task in (broke or ours)[:1]:
            return await services.last_lines(self.engine, task)
        return ""

    async def require(self, known_as: str) -> Service:
        service = await services.inspect(self.engine, known_as)
        if service is None:
            raise NotOnEngine(Code.CONTAINER_MISSING, f"the service {self.name} was removed by somebody else")
        return service

    async def observe(
        self, service: Service, mark: AttemptKey, before: frozenset[str] = frozenset()
    ) -> ServiceProgress:
        tasks = await services.tasks(self.engine, service)
        # Asked for after the tasks: a node that has come back is known before what its tasks did is.
        nodes = await services.nodes(self.engine)
        return convergence.observe(service, tasks, mark, nodes=nodes, before=before)
