"""Runs an application as one container: creates, starts, stops and removes it.

`swap` replaces one container with another. `retention` keeps earlier versions and removes leftovers.
"""

import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from gateway.background import beside
from gateway.docker.container import (
    adopted_spec,
    boot_history,
    copies,
    create_request,
    dependents,
    exit_diagnosis,
    files,
    isolation,
    names,
    ownership,
    preflight,
    probes,
    readiness,
    stop_cause,
    update_order,
)
from gateway.docker.container import spec as container_spec
from gateway.docker.container.retention import UNREADY_GRACE, ApplicationContainers, remove, stop_for_good
from gateway.docker.container.swap import ContainerSwap
from gateway.docker.engine import containers, images
from gateway.docker.engine.client import Engine
from gateway.docker.engine.containers import Container
from gateway.docker.engine.labels import BOOT, DEPLOYMENT, ORIGIN
from gateway.docker.runtime import Boot, Progress, Serving, Timeouts, Version
from gateway.model.applications import Application
from gateway.model.configuration import Order
from gateway.model.configuration_diff import Running
from gateway.model.deployments import Swap
from gateway.model.errors import Code, Failed, NotOnEngine, Postponed, Reason
from gateway.model.health_checks import Probe
from gateway.model.reference import Reference
from gateway.model.registries import Credentials, CredentialsProvider, call_with_credentials

_LOG = structlog.get_logger()


_JUST_NOW = 1.0  # seconds for which an inspection counts as recent


async def _unseen(_detail: str) -> None:
    """Discard the progress of a pull."""


@dataclass(slots=True)
class _ServingCache:
    """The serving container as it was inspected last, so that it need not be inspected again in the same moment."""

    _container: Container | None = None
    _at: float = 0.0
    #: whether the container comes from a list, and `take_listed` has not returned it yet
    _is_unused: bool = False

    def keep_listed(self, listed: Container | None) -> None:
        """Keep the container from a list, for the next call of `take_listed`."""
        self.keep(listed)
        self._is_unused = True

    def keep(self, inspected: Container | None) -> None:
        self._container, self._at, self._is_unused = inspected, time.monotonic(), False

    def take_listed(self) -> Container | None:
        """Return the container if it was listed a moment ago, but only once, so that the next caller inspects it."""
        unused, self._is_unused = self._is_unused, False
        return self._container if unused and time.monotonic() - self._at < _JUST_NOW else None

    def recent(self, container_id: str) -> Container | None:
        """Return this container if it was inspected a moment ago."""
        one = self._container
        fresh = one is not None and one.container_id == container_id and time.monotonic() - self._at < _JUST_NOW
        return one if fresh else None

    def inspection_of(self, container_id: str) -> Mapping[str, Any] | None:
        """Return the last inspection of this container, whatever its age: for the properties that never change."""
        one = self._container
        return one.inspection if one is not None and one.container_id == container_id else None


@dataclass(frozen=True, slots=True)
class ContainerRuntime:
    """Runtime of one application as a container. `platform` has the form `linux/amd64`."""

    engine: Engine
    platform: str
    application: Application
    login: CredentialsProvider
    timeouts: Timeouts
    #: the record of the serving version
    previous: Running | None = None
    _cache: _ServingCache = field(default_factory=_ServingCache, repr=False, compare=False)

    # -- inspect

    async def remove_leftovers(self) -> None:
        there = await self._containers.remove_leftovers()
        self._cache.keep_listed(next((one for one in there if one.name == self._name), None))
        await isolation.sweep(self.engine, self.application)

    async def serving(self) -> Serving | None:
        found = (
            self._cache.take_listed()
            or await containers.inspect(self.engine, self._name)
            or await self._containers.restore_name()
        )
        if found is None:
            return None
        self._cache.keep(found)
        if not ownership.belongs_to(self.application, found):
            raise Failed(Code.NAME_TAKEN, ownership.describe_conflict(self.application, found))
        digest, spec_hash = await self._containers.version_of(found)
        return Serving(
            object_id=found.container_id,
            name=found.name,
            running=found.running or found.restarting,
            healthy=found.healthy,
            digest=digest,
            spec_hash=spec_hash,
            deployment_id=found.labels.get(DEPLOYMENT) if digest else None,
            restarts=found.restart_count,
        )

    def spec_hash(self) -> str:
        return container_spec.spec_hash(self.application)

    # -- prepare

    async def platforms(self) -> frozenset[str]:
        return frozenset({self.platform})

    async def check_requirements(self, serving: Serving | None) -> None:
        body = container_spec.user_config(self.application)
        if serving is not None:
            update_order.reject_impossible(body, self.application.configuration.order)
        await preflight.check(
            self.engine,
            body,
            self._networks,
            serving=serving.object_id if serving else None,
            held=self._cache.inspection_of(serving.object_id) if serving else None,
        )

    async def _pull_quietly(self, reference: Reference) -> None:
        await self.pull(reference, _unseen)

    async def pull(self, reference: Reference, progress: Progress) -> None:
        async def pull(credentials: Credentials | None) -> images.Image:
            stall = self.timeouts.pull_stall
            return await images.pull(self.engine, reference, credentials, progress=progress, stall=stall)

        image = await create_request.find_image(self.engine, self.application, reference)
        if image is None or not image.has_digest(str(reference.digest)):
            image = await call_with_credentials(self.login, pull)
        if image.platform != self.platform:
            raise Failed(Code.WRONG_ARCHITECTURE, f"{reference} is for {image.platform}; the engine is {self.platform}")

    async def create(self, version: Version, serving: Serving | None, *, obstacle: str = "") -> Swap:
        old = None
        if serving is not None:
            old = self._cache.recent(serving.object_id) or await containers.inspect(self.engine, serving.object_id)
        found = old.inspection if old else None
        body = await create_request.build(self.engine, self.application, version, old.mounts if old else ())
        limits = create_request.manual_limits(self.application, self.previous, old, found)
        joined = await create_request.manual_networks(self.engine, self.application, self.previous, old, found)
        if limits or joined:
            _LOG.info("Manual changes of the container are carried over", limits=limits, networks=sorted(joined))
        body["HostConfig"] |= limits
        endpoints = self._networks
        order = self._order(old, joined)
        if order is Order.START_FIRST:
            # Until the new container is ready, clients must not find it by a name of the old one.
            body, endpoints, joined = (
                container_spec.without_aliases(body),
                container_spec.strip_aliases(endpoints),
                container_spec.strip_aliases(joined),
            )
        if old is None or order is Order.START_FIRST:
            obstacle = ""
        elif not obstacle:
            obstacle = await self._boot_obstacle(body, joined, old)
        boots = old is not None and order is Order.STOP_FIRST and not obstacle
        if boots:
            body["Labels"] |= {BOOT: isolation.ISOLATED}
            created, obstacle = await self._create_to_boot(version, body, endpoints)
        else:
            created = await self._create_new(version, body, endpoints)
        try:
            await self._connect_and_fill(created, joined)
        except Failed:
            await containers.remove(self.engine, created)
            raise
        if old is not None and old.removes_itself:
            await copies.create_stand_in(self.engine, old, names.stand_in(self._name, old.container_id))
        swap = self._swap(version.deployment_id, old, created, order)
        if boots and not obstacle:
            new = await readiness.require(self.engine, created)
            obstacle = isolation.obstacle_in(self.application, new)
            quickly = not obstacle and boot_history.boots_quickly(self.engine, self.application)
            swap = replace(swap, boots_beside_old=not obstacle, boots_quickly=quickly)
        return replace(swap, boot_obstacle=obstacle)

    async def _create_new(self, version: Version, body: dict[str, Any], endpoints: dict[str, dict[str, Any]]) -> str:
        name = names.new(self._name, version.deployment_id)
        try:
            return await self._create(name, body, endpoints)
        except Failed as error:
            if error.reason.code is not Code.NAME_TAKEN:
                raise
            # A delayed call of an earlier attempt has created a container of this name meanwhile.
            await self._containers.remove_leftovers()
            return await self._create(name, body, endpoints)

    async def _create_to_boot(
        self, version: Version, body: dict[str, Any], endpoints: dict[str, dict[str, Any]]
    ) -> tuple[str, str]:
        """Create the new container and its boot network at the same time. Return the container's id and an obstacle."""
        making = isolation.create_network(self.engine, self.application, version.deployment_id)
        try:
            async with beside(making) as network:
                return await self._create_new(version, body, endpoints), await network
        except Failed:
            await isolation.sweep(self.engine, self.application)
            raise

    async def _boot_obstacle(self, body: dict[str, Any], joined: dict[str, dict[str, Any]], old: Container) -> str:
        """Return why the new container of a stop-first swap may not boot beside the old one, or ""."""
        chosen = self.application.configuration.order
        if reason := update_order.boot_obstacle(body, {**joined, **self._networks}, chosen):
            return reason
        return await isolation.obstacle(self.engine, self.application, old)

    async def _connect_and_fill(self, created: str, joined: dict[str, dict[str, Any]]) -> None:
        if joined:
            new = await readiness.require(self.engine, created)
            for network, endpoint in joined.items():
                await containers.connect(self.engine, new, network, endpoint)
        await files.put(self.engine, created, self.application.configuration.files)

    async def _create(self, name: str, body: dict[str, Any], networks: dict[str, dict[str, Any]]) -> str:
        try:
            return await containers.create(self.engine, name, body, networks)
        except Failed as error:
            text = f"{self._name} cannot be created: {error.reason.message}"
            if error.reason.code is Code.NOT_FOUND:
                # Somebody has removed the image since it was pulled.
                raise Postponed(Code.PULL_INTERRUPTED, text) from error
            raise Failed(error.reason.code, text) from error

    async def find_kept(self, version: Version, serving: Serving | None) -> Swap | None:
        wanted = (version.digest, container_spec.spec_hash(self.application))
        old = await containers.inspect(self.engine, serving.object_id) if serving else None
        for kept in await self._containers.list_kept():
            if await self._containers.version_of(kept) == wanted and await self._can_start(kept):
                joined = await create_request.manual_networks(self.engine, self.application, self.previous, old)
                swap = self._swap(version.deployment_id, old, kept.container_id, self._order(old, joined))
                return replace(swap, new_restart_policy=ownership.restart_policy_of(self.application, kept))
        return None

    async def _can_start(self, kept: Container) -> bool:
        """Return whether everything exists that the container refers to by id."""
        return await preflight.networks_exist(self.engine, kept) and await dependents.holders_run(self.engine, kept)

    def _swap(self, deployment_id: str, old: Container | None, new: str, order: Order) -> Swap:
        return Swap(
            application_id=self.application.application_id,
            deployment_id=deployment_id,
            serving_name=self._name,
            order=order,
            old=old.container_id if old else None,
            old_restart_policy=old.restart_policy if old else None,
            new=new,
        )

    async def rebuild_swap(self, serving: Serving, deployment_id: str) -> Swap:
        old = next(iter(await self._containers.list_kept()), None)
        return self._swap(deployment_id, old, serving.object_id, Order.STOP_FIRST)

    async def find_begun_swap(self, deployment_id: str) -> Swap | None:
        found = await self._containers.list_all()
        made = [one for one in found if one.labels.get(DEPLOYMENT) == deployment_id]
        aside = [one for one in self._containers.kept_of(found) if one not in made]
        bearer = next((one for one in found if one.name == self._name), None)
        if not made or not aside or (bearer is not None and bearer not in made):
            return None
        old = next((one for one in aside if not one.stopped), aside[0])
        new = bearer or max(made, key=lambda one: containers.parse_time(one.created))
        policy = ownership.restart_policy_of(self.application, old)
        return replace(
            self._swap(deployment_id, old, new.container_id, self._order(old, {})), old_restart_policy=policy
        )

    # -- the swap

    def _swap_of(self, swap: Swap) -> ContainerSwap:
        return ContainerSwap(self.engine, self.application, self.previous, self._pull_quietly, swap)

    async def start_beside(self, swap: Swap) -> None:
        await self._swap_of(swap).start_new()

    async def boot_beside(self, swap: Swap) -> Boot:
        boot_history.note_boot(self.engine, self.application)
        boot = isolation.IsolatedBoot(self.engine, self.application, swap)
        await boot.take_off_network()
        await boot.start()
        return boot

    async def discard(self, swap: Swap) -> None:
        await self._swap_of(swap).remove_new()
        await self._swap_of(swap).drop_stand_in()

    async def switch_over(self, swap: Swap, booting: Awaitable[Boot] | None = None) -> None:
        await self._swap_of(swap).switch_over(booting)

    async def wait_until_ready(self, swap: Swap, *, again: bool = False) -> None:
        timeouts = replace(self.timeouts, stable_window=0.0) if again else self.timeouts
        new = await readiness.wait_until_ready(self.engine, swap.new, timeouts, self._probe)
        if swap.order is Order.STOP_FIRST or again:  # before a start-first swap it must not have its aliases
            await self._swap_of(swap).rejoin_networks(new)

    async def stop_old(self, swap: Swap) -> None:
        await self._swap_of(swap).stop_old()

    async def wait_out_pending_calls(self, swap: Swap) -> None:
        await self._swap_of(swap).wait_out_pending_calls(self.longest_call())

    async def put_back(self, swap: Swap) -> None:
        try:
            await self._swap_of(swap).put_back()
        except Failed as error:
            raise Postponed(
                error.reason.code, f"{swap.serving_name} cannot be put back yet: {error.reason.message}"
            ) from error

    async def is_superseded(self, swap: Swap) -> bool:
        found = await containers.inspect(self.engine, self._name)
        if (
            found is None
            or found.container_id in {swap.old, swap.new}
            or not ownership.belongs_to(self.application, found)
        ):
            return False
        if self.application.adopted_spec is not None and found.container_id == self.application.adopted_spec.object_id:
            return True  # adopted again meanwhile
        known = {swap.deployment_id, self.previous.deployment_id if self.previous else None}
        if ORIGIN in found.labels or found.labels.get(DEPLOYMENT) in known:
            return False  # a copy of the old container
        new = await containers.inspect(self.engine, swap.new)
        return (
            not found.stopped
            or new is None
            or containers.parse_time(new.created) < containers.parse_time(found.created)
        )

    async def check_restored(self, swap: Swap, serving: Serving) -> None:
        previous = self.previous.application.configuration.probe if self.previous else self._probe
        probe = self._probe if serving.object_id == swap.new else previous
        await readiness.wait_until_ready(self.engine, serving.object_id, self.timeouts, probe)

    # -- after the swap

    async def clean_up(self, swap: Swap, *, at_least: int = 0) -> None:
        listed, found = time.monotonic(), await self._containers.list_all()
        by_id = {one.container_id: one for one in found}
        new = by_id.get(swap.new) or await readiness.require(self.engine, swap.new)
        changed = False
        if swap.old is not None and swap.order is Order.STOP_FIRST:
            await dependents.move_to(self.engine, swap.old, swap.new)
            old = by_id.get(swap.old) or await containers.inspect(self.engine, swap.old)
            if old is not None:  # in case somebody started it again
                changed = await stop_for_good(self.engine, old, grace=UNREADY_GRACE)
        if reference := ownership.image_reference_of(self.application, new):
            await images.tag(self.engine, new.image_id, reference)
        # Compose would start a kept container of its own beside the new one.
        own = adopted_spec.belongs_to_compose(new.labels)
        if isolation.is_marked(new):
            await isolation.sweep(self.engine, self.application)
        if changed or time.monotonic() - listed > _JUST_NOW:
            # Somebody may have renamed one meanwhile, which must count for `prune`.
            found = await self._containers.list_all()
        found = await self._containers.remove_leftovers(found)  # the copy of the old container, and renamed ones
        at_most = 0 if own else max(self.application.configuration.kept, at_least)
        left = await self._containers.prune(self.timeouts.kept_for, at_most=at_most, found=found)
        if not await self._containers.remain(left):
            await self._containers.remove_leftovers()  # containers that somebody has started again meanwhile

    async def prune_kept(self) -> None:
        await self._containers.prune(self.timeouts.kept_for, at_most=self.application.configuration.kept)

    async def last_lines(self, swap: Swap) -> str:
        return await containers.last_lines(self.engine, swap.new)

    async def start(self, serving: Serving) -> None:
        found = await readiness.require(self.engine, serving.object_id)
        if found.stopped and not await self._can_start(found):
            found = await self._recreate(found)
        try:
            await containers.start(self.engine, found.container_id)
        except NotOnEngine:
            raise
        except Failed as error:
            cause = await preflight.name_port_holder(self.engine, error, but=found.container_id)
            raise Failed(cause.reason.code, f"{self._name} cannot be started: {cause.reason.message}") from error
        try:
            await readiness.wait_until_ready(self.engine, found.container_id, self.timeouts, self._probe)
        except Failed as error:
            log = await containers.last_lines(self.engine, found.container_id)
            raise Failed(error.reason.code, error.reason.message, log=log) from error
        await dependents.rejoin(self.engine, serving.object_id, found.container_id)

    async def _recreate(self, down: Container) -> Container:
        """Replace a container that refers to something that is gone, such as a recreated network, with a copy."""
        reference = ownership.image_reference_of(self.application, down)
        if reference is not None and await images.inspect(self.engine, down.image_id) is None:
            await self._pull_quietly(reference)
        ran = self.previous.application if self.previous else self.application
        made = await copies.copy(self.engine, down.container_id, names.stand_in(self._name, down.container_id), ran)
        new = await readiness.require(self.engine, made or down.container_id)
        await containers.rename(self.engine, down, names.aside(self._name, down.container_id))
        new = await containers.rename(self.engine, new, self._name)
        await containers.remove(self.engine, down.container_id)
        return new

    async def stop(self, serving: Serving) -> None:
        await containers.stop(self.engine, serving.object_id, grace=self._grace)

    async def remove(self) -> None:
        for container in await self._containers.list_all():
            if ownership.is_original(self.application, container) and container.name == self._name:
                continue  # an adopted container that was never replaced does not belong to the gateway
            if container.running or container.restarting:
                await containers.stop(self.engine, container.container_id, grace=self._grace)
            await remove(self.engine, container, image=False)  # the image is removed with the application

    async def failure_reason(self, object_id: str, restarts: int) -> Reason | None:
        found = await containers.inspect(self.engine, object_id)
        if found is None:
            return readiness.missing_reason(object_id)
        reason = readiness.failure_reason(found, restarts=restarts)
        if reason is None or (found.stopped and await stop_cause.was_stopped(self.engine, found)):
            return None  # a person or the engine stopped it, so the version is not at fault
        return await exit_diagnosis.diagnose_exit(self.engine, found, reason)

    async def run_probe(self, object_id: str) -> Reason | None:
        if self._probe is None:
            return None
        return await probes.run(self.engine, await readiness.require(self.engine, object_id), self._probe)

    def longest_call(self) -> float:
        return self._grace + self.timeouts.call_margin

    # -- parts

    @property
    def _containers(self) -> ApplicationContainers:
        return ApplicationContainers(self.engine, self.application)

    @property
    def _name(self) -> str:
        return self.application.app_name

    @property
    def _probe(self) -> Probe | None:
        return self.application.configuration.probe

    @property
    def _networks(self) -> dict[str, dict[str, Any]]:
        return container_spec.endpoints(self.application)

    def _order(self, old: Container | None, joined: dict[str, dict[str, Any]]) -> Order:
        body = adopted_spec.carry_volumes(container_spec.user_config(self.application), old.mounts if old else ())
        return update_order.choose_order(body, {**joined, **self._networks}, self.application.configuration.order)

    @property
    def _grace(self) -> int:
        return self.application.configuration.stop_grace
