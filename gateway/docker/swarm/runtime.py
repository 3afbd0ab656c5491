"""Runs an application as a Swarm service. The Swarm replaces the tasks, and the gateway watches it.

switch_over        send the new spec once; from then on the service has the deployment's labels
wait_until_ready   every task runs the new version for a while, and no task of another version is left
put_back           send the previous spec again, unless the Swarm has rolled back already

A success that the Swarm reports is verified; a failure is believed. Every call can be repeated.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import structlog

from gateway.docker.container import ownership
from gateway.docker.engine import log_driver, services
from gateway.docker.engine.client import CALL_DEADLINE, Engine
from gateway.docker.engine.labels import ADOPTED_COPY, APPLICATION, DEPLOYMENT, DIGEST, SPEC, image_reference
from gateway.docker.engine.services import Service, Task
from gateway.docker.runtime import Boot, Progress, Serving, Timeouts, Version
from gateway.docker.swarm import convergence, file_secrets, preflight, spec
from gateway.docker.swarm.convergence import AttemptKey
from gateway.docker.swarm.watcher import POLL_INTERVAL, ServiceWatcher
from gateway.model.adoption import AdoptedSpec
from gateway.model.applications import Application
from gateway.model.configuration import Order, RuntimeKind
from gateway.model.configuration_diff import Running
from gateway.model.deployments import Swap
from gateway.model.errors import Code, Failed, NotOnEngine, Postponed, Reason
from gateway.model.reference import Digest, Reference
from gateway.model.registries import CredentialsProvider

_LOG = structlog.get_logger()

_MAX_RESENDS = 3  # of an update that the Swarm gave up without a failure
_ROLLBACK_DEADLINE = 45.0  # seconds to watch a rollback; the Swarm continues it afterwards
# A rollback that is paused, or that left two tasks in a slot, is restarted after this long.
_STALLED_AFTER = 3.0  # seconds


@dataclass(frozen=True, slots=True)
class ServiceRuntime:
    """Runtime of one application as a service, through a manager of its Swarm."""

    engine: Engine
    application: Application
    login: CredentialsProvider
    timeouts: Timeouts
    #: the record of the version that served before
    previous: Running | None = None

    # -- inspect

    async def remove_leftovers(self) -> None:
        """Do nothing: nothing is created before it serves."""

    async def serving(self) -> Serving | None:
        service = await self._find_service()
        if service is None:
            return None
        seen, stopped = (
            await self._watcher.observe(service, AttemptKey.of(service.labels)),
            spec.is_stopped(service.spec),
        )
        digest, spec_hash = service.labels.get(DIGEST), service.labels.get(SPEC)
        if not service.image_matches_labels:
            digest, spec_hash = None, None
        if (adopted := self._original(service)) is not None:
            digest, spec_hash = adopted.reference.digest, spec.spec_hash(self.application.as_adopted())
        return Serving(
            object_id=service.service_id,
            name=service.name,
            running=not stopped,
            healthy=seen.converged and not stopped,
            digest=digest,
            spec_hash=spec_hash,
            deployment_id=service.labels.get(DEPLOYMENT),
            restarts=seen.restarts,
        )

    def spec_hash(self) -> str:
        return spec.spec_hash(self.application)

    async def _find_service(self) -> Service | None:
        found = await services.inspect(self.engine, self._name)
        if found is None or self._original(found) is not None:
            return found
        if not ownership.labels_belong_to(self.application, found.labels):
            conflict = ownership.describe_owner(self.application, "service", found.name, found.labels)
            raise Failed(Code.NAME_TAKEN, conflict)
        return found

    def _original(self, service: Service) -> AdoptedSpec | None:
        """Return the adopted spec if the service is still the one that somebody else created."""
        adopted = self.application.adopted_spec
        if adopted is None or APPLICATION in service.labels or service.service_id != adopted.object_id:
            return None
        return adopted

    # -- prepare

    async def check_requirements(self, serving: Serving | None) -> None:  # noqa: ARG002
        await preflight.check(self.engine, self.application)

    async def platforms(self) -> frozenset[str]:
        return await services.platforms(self.engine)

    async def pull(self, reference: Reference, progress: Progress) -> None:
        """Do nothing: each node pulls by itself."""

    async def create(self, version: Version, serving: Serving | None, *, obstacle: str = "") -> Swap:  # noqa: ARG002
        image = version.reference.with_digest(version.digest)
        hosts = await self._host_network_ids()
        made = spec.build(self.application, version, host_network_ids=hosts)
        if why := spec.update_blocker(made, hosts):
            raise Failed(Code.BAD_CONFIGURATION, f"{self._name} cannot be updated: {why}")
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

    async def rebuild_swap(self, serving: Serving, deployment_id: str) -> Swap:
        return Swap(
            application_id=self.application.application_id,
            deployment_id=deployment_id,
            serving_name=self._name,
            runtime=RuntimeKind.SERVICE,
            old=None,
            old_restart_policy=None,
            new=serving.object_id,
        )

    async def find_begun_swap(self, deployment_id: str) -> Swap | None:  # noqa: ARG002 - the containers'
        """Return None: a service is one object, whose update is sent again."""
        return None

    async def find_kept(self, version: Version, serving: Serving | None) -> Swap | None:  # noqa: ARG002 - the containers'
        """Return None: earlier versions are not kept but sent again."""
        return None

    async def start_beside(self, swap: Swap) -> None:
        """Do nothing: the Swarm starts each new task in the configured order."""

    async def boot_beside(self, swap: Swap) -> Boot:
        raise NotImplementedError("the Swarm starts the tasks of a service")

    async def discard(self, swap: Swap) -> None:
        """Do nothing: nothing was created."""

    # -- the swap

    async def switch_over(self, swap: Swap, booting: Awaitable[Boot] | None = None) -> None:  # noqa: ARG002 - the containers'
        service = await self._find_service()
        if service is None or not await self._was_sent(service, swap):
            await self._send(_version(swap), service)

    async def _send(self, version: Version, service: Service | None) -> None:
        made = spec.build(
            self.application,
            version,
            networks=await preflight.network_ids(self.engine, self.application),
            secrets=await file_secrets.ensure(self.engine, self.application),
            monitor=self.timeouts.stable_window,
            host_network_ids=await self._host_network_ids(),
            log=None if spec.adopted_service_spec(self.application) else await log_driver.for_service(self.engine),
        )
        made, authorized = services.with_registry_auth(made, version.reference, await self.login(None))
        if service is not None:
            try:
                await services.update(self.engine, service, made, authorized)
            except NotOnEngine:
                if await self._find_service() is not None:
                    raise
            else:
                return
        await services.create(self.engine, made, authorized)
        await self._find_service()

    async def _was_sent(self, service: Service, swap: Swap) -> bool:
        """Return whether the swap's spec was sent already, even if the Swarm has rolled back since."""
        if AttemptKey.of(service.labels) == _key(swap):
            return True
        if service.rolled_back_from is not None and AttemptKey.of(service.rolled_back_from) == _key(swap):
            return False  # restarting the update was interrupted between rollback and resend
        tasks = await services.tasks(self.engine, service)
        return any(AttemptKey.of(task.labels) == _key(swap) for task in tasks)

    async def wait_until_ready(self, swap: Swap, *, again: bool = False) -> None:  # noqa: ARG002 - it proves itself once
        """Return when every task runs the version. An update that the Swarm gave up without a failure is resent."""
        for _ in range(_MAX_RESENDS):
            try:
                return await self._watcher.wait_until_converged(_key(swap))
            except (convergence.Interrupted, NotOnEngine) as error:
                _LOG.warning("An update is sent again", service=self._name, reason=error.reason.message)
                await self._send(_version(swap), await self._find_service())
        return await self._watcher.wait_until_converged(_key(swap))

    async def stop_old(self, swap: Swap) -> None:
        """Do nothing: the Swarm has stopped the old tasks."""

    async def wait_out_pending_calls(self, swap: Swap) -> None:
        """Do nothing: the Swarm refuses a late call, because it names an old version."""

    async def put_back(self, swap: Swap) -> None:
        try:
            await self._put_back(swap)
        except Failed as error:
            raise Postponed(
                error.reason.code, f"{self._name} cannot be put back yet: {error.reason.message}"
            ) from error

    async def _put_back(self, swap: Swap) -> None:
        service = await self._find_service()
        if service is None or AttemptKey.of(service.labels) == _key(swap):
            if swap.old is None:
                return await self.remove()
            if not await self._restore_spec(swap, service):
                return None
        return await self._wait_until_restored()

    async def _restore_spec(self, swap: Swap, service: Service | None) -> bool:
        """Send the spec that served before: the Swarm's previous one, else the recorded one. False if there is none."""
        if service is not None and not service.image_matches_labels:
            _LOG.warning("Somebody else has set an image: it is kept", service=self._name, image=service.image)
            return False
        previous = service.previous_spec if service else None
        if service is not None and previous is not None and AttemptKey.of(previous.get("Labels") or {}) != _key(swap):
            await services.update(self.engine, service, service.spec, {}, rollback=True)
            return True
        reference = self.previous.reference if self.previous else None
        if self.previous is None or reference is None or reference.digest is None:
            _LOG.warning("The version that served before a service was changed is unknown", service=self._name)
            return False
        version = Version(reference, Digest(reference.digest), self.previous.deployment_id or ADOPTED_COPY, 0)
        await replace(self, application=self.previous.application)._send(version, service)  # noqa: SLF001 - its own
        return True

    async def check_restored(self, swap: Swap, serving: Serving) -> None:
        service = await self._find_service()
        if service is None:
            raise NotOnEngine(Code.CONTAINER_MISSING, f"the service {self._name} was removed by somebody else")
        reference = self.previous.reference if self.previous else None
        theirs = reference is not None and reference.digest != serving.digest
        if not service.image_matches_labels or (theirs and serving.deployment_id != swap.deployment_id):
            raise Failed(Code.ENGINE_REFUSED, f"somebody else has set its image to {service.image}")
        if serving.deployment_id == swap.deployment_id:
            return await self._watcher.wait_until_converged(_key(swap))
        # What failed before does not count. The Swarm may replace a restored task just when it is looked at.
        before = frozenset(task.task_id for task in await services.tasks(self.engine, service))
        return await self._watcher.wait_until_converged(AttemptKey.of(service.labels), before)

    async def is_superseded(self, swap: Swap) -> bool:
        service = await self._find_service()
        if service is None or self._original(service) is not None:
            return False
        known = {swap.deployment_id, (self.previous.deployment_id if self.previous else None) or ADOPTED_COPY}
        return service.labels.get(DEPLOYMENT) not in known

    async def _wait_until_restored(self) -> None:
        """Watch the rollback for a limited time, and restart it if it stalls. A rollback that is late is logged."""
        clock = asyncio.get_running_loop().time
        moved, resends = clock(), 0

        async def is_done() -> bool:
            nonlocal moved, resends
            service = await self._find_service()
            if service is None:
                _LOG.warning("The Swarm did not roll a service back", service=self._name)
                return True
            seen = await self._watcher.observe(service, AttemptKey.of(service.labels))
            if spec.is_stopped(service.spec):
                return not seen.leftover
            if seen.converged and not seen.crowded:
                return True
            if not (seen.converged or service.update_state.endswith("paused")):
                moved = clock()
            elif clock() - moved >= _STALLED_AFTER and resends < _MAX_RESENDS:
                # The same spec again: the Swarm continues with what does not run it, and removes surplus tasks.
                _LOG.warning("A rollback is restarted", service=self._name, state=service.update_state)
                try:
                    await services.update(self.engine, service, service.spec, {})
                except Failed as error:
                    _LOG.warning("A rollback cannot be restarted", service=self._name, error=str(error))
                    return True
                moved, resends = clock(), resends + 1
            return False

        if not await _poll_until(is_done, within=_ROLLBACK_DEADLINE):
            _LOG.warning("The Swarm is still rolling a service back", service=self._name)

    # -- after the swap

    async def clean_up(self, swap: Swap, *, at_least: int = 0) -> None:  # noqa: ARG002 - the containers'
        """Remove secrets of earlier versions. Each node removes images by its own rules."""
        if (service := await self._find_service()) is not None:
            used = file_secrets.secret_ids([service.spec, service.previous_spec])
            await file_secrets.prune(self.engine, self.application, used=used)

    async def last_lines(self, swap: Swap) -> str:
        return await self._watcher.last_lines(_key(swap))

    async def start(self, serving: Serving) -> None:
        service = await self._watcher.require(serving.object_id)
        before = frozenset(task.task_id for task in await services.tasks(self.engine, service))
        await self._scale(service, running=True)
        key = AttemptKey.of(service.labels)
        try:
            await self._watcher.wait_until_converged(key, before)
        except Failed as error:
            raise Failed(error.reason.code, error.reason.message, log=await self._watcher.last_lines(key)) from error

    async def stop(self, serving: Serving) -> None:
        service = await self._watcher.require(serving.object_id)
        await self._scale(service, running=False)

        async def is_done() -> bool:
            return await self._all_ended(await services.tasks(self.engine, service))

        if not await _poll_until(is_done, within=self._grace):
            raise Postponed(Code.ENGINE_REFUSED, f"tasks of {self._name} still run after {self._grace:.0f} s")

    async def _scale(self, service: Service, *, running: bool) -> None:
        made = spec.scaled(service.spec, self.application, running=running)
        if made == service.spec:
            return
        image, authorized = image_reference(service.labels), dict[str, str]()
        if image is not None:
            made, authorized = services.with_registry_auth(made, image, await self.login(None))
        await services.update(self.engine, service, made, authorized)

    async def remove(self) -> None:
        service = await self._find_service()
        if service is not None and self._original(service) is not None:
            return  # an adopted service that was never updated does not belong to the gateway
        if service is not None:
            await services.remove(self.engine, service)

        async def is_done() -> bool:
            found = await services.tasks_of_application(self.engine, self.application.application_id)
            return await self._all_ended(
                [one for one in found if ownership.labels_belong_to(self.application, one.labels)]
            )

        await _poll_until(is_done, within=self._grace)
        await file_secrets.prune(self.engine, self.application)

    async def failure_reason(self, object_id: str, restarts: int) -> Reason | None:
        try:
            service = await self._watcher.require(object_id)
        except NotOnEngine as error:
            return error.reason
        seen = await self._watcher.observe(service, AttemptKey.of(service.labels))
        return (
            convergence.task_failure(self._name, seen.failed_task).reason
            if seen.failed_task and seen.restarts > restarts
            else None
        )

    async def run_probe(self, object_id: str) -> Reason | None:  # noqa: ARG002 - a service has no probe
        return None

    async def prune_kept(self) -> None:
        """Do nothing: earlier versions are not kept."""

    def longest_call(self) -> float:
        return self.timeouts.call_margin

    async def _host_network_ids(self) -> list[str]:
        found = spec.adopted_service_spec(self.application)
        return [] if found is None else await preflight.host_network_ids(self.engine, found)

    # -- helpers

    async def _all_ended(self, tasks: list[Task]) -> bool:
        if convergence.all_ended(tasks):
            return True
        down = frozenset(node_id for node_id, node in (await services.nodes(self.engine)).items() if node.down)
        return convergence.all_ended(tasks, down=down)

    @property
    def _watcher(self) -> ServiceWatcher:
        grace = self.application.configuration.stop_grace
        return ServiceWatcher(self.engine, self._name, self.timeouts, grace, self.login)

    @property
    def _name(self) -> str:
        return self.application.app_name

    @property
    def _grace(self) -> float:
        return self.application.configuration.stop_grace + CALL_DEADLINE


def _version(swap: Swap) -> Version:
    image = Reference.parse(swap.new)
    return Version(image, Digest(str(image.digest)), swap.deployment_id, swap.attempt)


def _key(swap: Swap) -> AttemptKey:
    return AttemptKey(swap.deployment_id, str(swap.attempt))


async def _poll_until(is_done: Callable[[], Awaitable[bool]], *, within: float) -> bool:
    """Poll until the condition holds. Return False after `within` seconds."""
    try:
        async with asyncio.timeout(within):
            while not await is_done():  # noqa: ASYNC110 - what is looked at is elsewhere
                await asyncio.sleep(POLL_INTERVAL)
    except TimeoutError:
        return False
    return True
