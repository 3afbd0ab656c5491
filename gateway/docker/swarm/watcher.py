"""Waits until all tasks of a service run a version, or until it is clear that they will not."""

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
# A port of a stopping task becomes free a moment later, so a task may stay unplaced for this long.
_PLACEMENT_DEADLINE = 10.0  # seconds
# The Swarm notices a lost node after about 15 s, and then starts its tasks elsewhere.
_STUCK_AFTER = 5.0  # seconds
# Tasks that end with their nodes' engines extend the deadline: so often, as a node may reject tasks without end.
_MAX_EXCUSES = 20


@dataclass(frozen=True, slots=True)
class ServiceWatcher:
    """Watches one service. `grace` is the number of seconds its tasks have to stop."""

    engine: Engine
    name: str
    timeouts: Timeouts
    grace: int
    login: CredentialsProvider

    async def wait_until_converged(self, key: AttemptKey, before: frozenset[str] = frozenset()) -> None:
        """Return when every task has run the version for the stability window. Raises Failed."""
        clock = asyncio.get_running_loop().time
        progressed = stable_since = placed = clock()
        best, steady, handled_stuck, excused, excuses = 0, frozenset[str](), set[str](), frozenset[str](), 0
        while True:
            service, progress = await self._observe(key, before)
            now = clock()
            if not progress.excused <= excused and excuses < _MAX_EXCUSES:  # other tasks replace them
                excused, excuses, best, progressed = progress.excused, excuses + 1, 0, now
            if progress.running > best:
                best, progressed = progress.running, now
            if progress.tasks != steady:
                steady, stable_since = progress.tasks, now
            if progress.unplaced is None:
                placed = now
            if (
                progress.stuck is not None
                and progress.stuck.task_id not in handled_stuck
                and now - progressed >= _STUCK_AFTER
            ):
                handled_stuck.add(progress.stuck.task_id)
                await self._restart_update(service)
            if progress.converged and now - stable_since >= self.timeouts.stable_window:
                return
            if progress.unplaced is not None and now - placed >= min(
                _PLACEMENT_DEADLINE, self.timeouts.health_deadline
            ):
                raise convergence.placement_failure(self.name, progress.unplaced)
            if now - progressed >= self.timeouts.health_deadline + self.grace:
                raise self._timed_out(progress)
            await asyncio.sleep(POLL_INTERVAL)

    async def _observe(self, key: AttemptKey, before: frozenset[str]) -> tuple[Service, ServiceProgress]:
        """Return the progress of the version. Raises Failed when it will not succeed.

        An ended task may be reported before its node's restart is. Therefore a failure is confirmed by a second look.
        """
        doubted = False
        while True:
            service = await self.require(self.name)
            progress = await self.observe(service, key, before)
            try:
                convergence.raise_if_failed(service, progress, key)
            except Failed as error:
                if doubted or progress.failed_task is None:
                    raise await self.diagnose(error, progress.failed_task) from error
                doubted = True
                await asyncio.sleep(POLL_INTERVAL)
            else:
                return service, progress

    async def _restart_update(self, service: Service) -> None:
        """Restart an update that waits for a task on a lost node.

        The Swarm ignores a spec that equals the current one. So this requests a rollback and at once the new spec
        again. Tasks of the new version keep running, and the previous spec stays the one to roll back to.
        """
        image = image_reference(service.labels)
        if image is None or service.previous_spec is None:
            return
        _LOG.warning("A node was lost during an update: the update is restarted", service=self.name)
        await services.update(self.engine, service, service.spec, {}, rollback=True)
        gone_back = await self.require(self.name)
        authorized = services.registry_auth_header(image, await self.login(None))
        await services.update(self.engine, gone_back, service.spec, authorized)

    async def diagnose(self, error: Failed, failed_task: Task | None) -> Failed:
        """Return the error with details from the task's container, if that is on this engine.

        The Swarm reports a task that exits because it is unhealthy as complete, and one that is out of memory as
        killed.
        """
        container = (
            await containers.inspect(self.engine, failed_task.container_id)
            if failed_task and failed_task.container_id
            else None
        )
        if container is not None and container.out_of_memory:
            return Failed(
                Code.OUT_OF_MEMORY, f"{error.reason.message}: {exit_diagnosis.out_of_memory(container).message}"
            )
        if container is not None and container.health == "unhealthy":
            return Failed(Code.UNHEALTHY, f"{error.reason.message}: it is unhealthy: {container.health_output}")
        if failed_task is not None and container is None and error.reason.code is Code.UNHEALTHY:
            return await self._point_to_node(error, failed_task)
        if failed_task is not None and error.reason.code is Code.EXITED and failed_task.state == "failed":
            return await self._diagnose_exec(error, failed_task)
        return error

    async def _point_to_node(self, error: Failed, failed_task: Task) -> Failed:
        """Add how to read the health check's output on the task's node, which alone has it."""
        try:
            name = await services.node_hostname(self.engine, failed_task)
        except RolloutError:
            return error
        how = f"docker inspect {failed_task.container_id[:12]}"
        return Failed(
            error.reason.code, f"{error.reason.message}; on {name}, this shows the output of its health check: {how}"
        )

    async def _diagnose_exec(self, error: Failed, failed_task: Task) -> Failed:
        """Add what the task's log says when its process could not be executed."""
        try:
            diagnosis = exit_diagnosis.failed_to_exec(await services.last_lines(self.engine, failed_task))
            platform = await services.node_platform(self.engine, failed_task) if diagnosis else ""
        except RolloutError:
            return error
        if diagnosis is None:
            return error
        return Failed(diagnosis[0], f"{error.reason.message}: {diagnosis[1]}; its node is {platform}")

    def _timed_out(self, progress: ServiceProgress) -> Failed:
        lagging = progress.lagging
        waited_for = [lagging] if lagging else progress.leftover[:1]
        last = "".join(f"; {self.name}.{task.slot} is {task.state}: {task.message}" for task in waited_for)
        code = Code.UNHEALTHY if lagging is not None and lagging.state == "starting" else Code.TIMED_OUT
        so_far = (
            f"{progress.running} of {progress.wanted} tasks run, {len(progress.leftover)} of another version are left"
        )
        return Failed(
            code, f"{self.name} has made no progress for {self.timeouts.health_deadline:.0f} s: {so_far}{last}"
        )

    async def last_lines(self, key: AttemptKey) -> str:
        service = await services.inspect(self.engine, self.name)
        found = [] if service is None else await services.tasks(self.engine, service)
        ours = [
            task
            for task in found
            if AttemptKey.of(task.labels) == key
            and task.image_matches_labels
            and task.state != "rejected"
            and task.node_id
        ]
        failed = [task for task in ours if task.state in {"failed", "complete"}]
        for task in (failed or ours)[:1]:
            return await services.last_lines(self.engine, task)
        return ""

    async def require(self, known_as: str) -> Service:
        service = await services.inspect(self.engine, known_as)
        if service is None:
            raise NotOnEngine(Code.CONTAINER_MISSING, f"the service {self.name} was removed by somebody else")
        return service

    async def observe(self, service: Service, key: AttemptKey, before: frozenset[str] = frozenset()) -> ServiceProgress:
        tasks = await services.tasks(self.engine, service)
        # After the tasks: a node's return is known before the end of its earlier tasks.
        nodes = await services.nodes(self.engine)
        return convergence.observe(service, tasks, key, nodes=nodes, before=before)
