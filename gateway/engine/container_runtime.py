"""An application as one container of an engine: how the next one takes the place of the last.

stop-first    old renamed aside, new takes the name; old stopped, new started; the restart policy of old off
start-first   new is given its aliases, then the name, with no moment in which nobody answers to it; old is drained,
              its restart policy off, and stopped
put back      whatever of that was done is undone, and the new one removed

The only part that touches what serves. Every call may be repeated.
"""

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.applications import Application
from gateway.configuration import Order
from gateway.deployments import Swap
from gateway.engine import (
    adoption,
    conditions,
    containers,
    creation,
    dependents,
    endings,
    files,
    health,
    identity,
    images,
    order,
    probes,
    spec,
    stops,
)
from gateway.engine.client import Engine
from gateway.engine.containers import Container
from gateway.engine.runtime import Pace, Progress, Serving, Version
from gateway.errors import Code, Failed, Postponed, Reason
from gateway.health import Probe
from gateway.reference import Reference
from gateway.registries import Credentials, Obtain, with_login

_NO_RESTART: dict[str, object] = {"Name": "no", "MaximumRetryCount": 0}
_PUT_BACK_GRACE = 3  # seconds an unproven container gets to stop
_LOOK_AGAIN = 0.1  # seconds


@dataclass(frozen=True, slots=True)
class ContainerRuntime:
    """Implements engine.runtime.Runtime for one application; `platform` is `linux/amd64`."""

    engine: Engine
    platform: str
    application: Application
    login: Obtain
    pace: Pace

    # -- what is there

    async def clear(self) -> None:
        for container in await self._all():
            if container.name.startswith(f"{self._name}.new."):
                await containers.remove(self.engine, container.container_id)
            elif container.running and container.name.startswith(f"{self._name}.old."):
                # A kept one that was to serve again, and whose rollback died or was overtaken.
                await self._rest(container)

    async def serving(self) -> Serving | None:
        found = await containers.inspect(self.engine, self._name)
        if found is None:
            return None
        if not identity.is_of(self.application, found):
            raise Failed(Code.NAME_TAKEN, identity.refusal(self.application, found))
        digest, spec_hash = identity.version_of(self.application, found)
        return Serving(
            object_id=found.container_id,
            name=found.name,
            running=found.running or found.restarting,
            sound=found.sound,
            digest=digest,
            spec_hash=spec_hash,
            deployment_id=found.labels.get(spec.DEPLOYMENT),
            restarts=found.restart_count,
        )

    def spec_hash(self) -> str:
        return spec.spec_hash(self.application)

    # -- before anything is touched

    async def check(self) -> None:
        serving, body = await self.serving(), spec.wanted(self.application)
        if serving is not None:
            order.refuse_impossible(body, self.application.configuration.order)
        await conditions.check(
            self.engine,
            body,
            self._networks,
            serving=serving.object_id if serving else None,
        )

    async def obtain(self, reference: Reference, progress: Progress) -> None:
        async def pull(credentials: Credentials | None) -> images.Image:
            stall = self.pace.pull_stall
            return await images.pull(self.engine, reference, credentials, progress=progress, stall=stall)

        image = await creation.find_image(self.engine, reference)
        if image is None or not image.has_digest(str(reference.digest)):
            image = await with_login(self.login, pull)
        if image.platform != self.platform:
            raise Failed(Code.WRONG_ARCHITECTURE, f"{reference} is for {image.platform}; the engine is {self.platform}")

    async def prepare(self, version: Version, serving: Serving | None) -> Swap:
        old = await containers.inspect(self.engine, serving.object_id) if serving else None
        body, shown = await creation.request(self.engine, self.application, version, old), self._networks
        if self._order(old) is Order.START_FIRST:
            # Until it is proven, nobody is to find it by a name that another answers to.
            body, shown = spec.without_aliases(body), spec.unnamed(shown)
        name = f"{self._name}.new.{version.deployment_id[:12]}"
        try:
            created = await self._create(name, body, shown)
        except Failed as error:
            if error.reason.code is not Code.NAME_TAKEN:
                raise
            # By a call of an attempt that died, which has landed only now.
            await self.clear()
            created = await self._create(name, body, shown)
        try:
            await files.put(self.engine, created, self.application.configuration.files)
        except Failed:
            await containers.remove(self.engine, created)
            raise
        if old is not None and old.removes_itself:
            await creation.stand_in(self.engine, old, self._stand_in_name(old.container_id))
        return self._swap(version.deployment_id, old, created)

    async def _create(self, name: str, body: dict[str, Any], networks: dict[str, dict[str, Any]]) -> str:
        try:
            return await containers.create(self.engine, name, body, networks)
        except Failed as error:
            raise Failed(error.reason.code, f"{self._name} cannot be created: {error.reason.message}") from error

    async def recall(self, version: Version, serving: Serving | None) -> Swap | None:
        wanted = (version.digest, spec.spec_hash(self.application))
        old = await containers.inspect(self.engine, serving.object_id) if serving else None
        for kept in await self._kept():
            same = identity.version_of(self.application, kept) == wanted
            if same and await dependents.can_start(self.engine, kept):
                swap = self._swap(version.deployment_id, old, kept.container_id)
                return replace(swap, new_restart_policy=identity.restart_policy(self.application, kept))
        return None

    def _swap(self, deployment_id: str, old: Container | None, new: str) -> Swap:
        return Swap(
            application_id=self.application.application_id,
            deployment_id=deployment_id,
            serving_name=self._name,
            order=self._order(old),
            old=old.container_id if old else None,
            old_restart_policy=old.restart_policy if old else None,
            new=new,
        )

    async def present(self, swap: Swap) -> None:
        await self._start_new(swap)

    async def discard(self, swap: Swap) -> None:
        await self._set_new_aside(swap)
        await self._drop_stand_in(swap)

    # -- the swap

    async def exchange(self, swap: Swap) -> None:
        old = await containers.inspect(self.engine, swap.old) if swap.old else None
        new = await health.expect(self.engine, swap.new)
        if swap.order is Order.START_FIRST:
            await self._move_names(swap, old, new)
            return
        if old is not None:
            await containers.rename(self.engine, old, self._aside(old))
        await containers.rename(self.engine, new, swap.serving_name)
        if old is not None and (old.running or old.restarting):
            await containers.stop(self.engine, old.container_id, grace=self._grace)
        await self._start_new(swap)
        if old is not None:
            await containers.set_restart_policy(self.engine, old, _NO_RESTART)

    async def _move_names(self, swap: Swap, old: Container | None, new: Container) -> None:
        """Give the new one the aliases, then the name, so that at each moment somebody answers to both."""
        for network, endpoint in self._networks.items():
            await containers.connect(self.engine, new, network, endpoint)
        if old is not None and old.name == swap.serving_name:
            new = await containers.rename(self.engine, new, self._away(swap))
        if old is not None:
            await containers.rename(self.engine, old, self._aside(old))
        await containers.rename(self.engine, new, swap.serving_name)

    async def prove(self, swap: Swap, *, again: bool = False) -> None:
        pace = replace(self.pace, stable_window=0.0) if again else self.pace
        await health.prove(self.engine, swap.new, pace, self._probe)

    async def retire(self, swap: Swap) -> None:
        old = await containers.inspect(self.engine, swap.old) if swap.old else None
        if old is None:
            return
        await dependents.follow(self.engine, old.container_id, swap.new)
        if old.running and self._networks:
            await asyncio.sleep(self.application.configuration.drain)
        await containers.set_restart_policy(self.engine, old, _NO_RESTART)
        if old.running or old.restarting:
            await containers.stop(self.engine, old.container_id, grace=self._grace)

    async def outlast(self, swap: Swap) -> None:
        # What runs stopped-first may be about to be stopped: once put back, it would not serve for long.
        clock = asyncio.get_running_loop().time
        deadline = clock() + self.longest_call()
        while swap.old and swap.order is Order.STOP_FIRST and clock() < deadline:
            old = await containers.inspect(self.engine, swap.old)
            if old is None or not old.running:
                return
            await asyncio.sleep(_LOOK_AGAIN)

    async def put_back(self, swap: Swap) -> None:
        try:
            await self._put_back(swap)
        except Failed as error:
            raise Postponed(
                error.reason.code, f"{swap.serving_name} cannot be put back yet: {error.reason.message}"
            ) from error

    async def _put_back(self, swap: Swap) -> None:
        new = await containers.inspect(self.engine, swap.new)
        old = await self._returning(swap)
        if swap.old is not None and old is None and new is not None:
            # It was removed once the new one had proven itself, or by somebody: the new one is all there is.
            await self.exchange(swap)
            return
        if old is not None and not old.running and swap.order is Order.START_FIRST:
            await self._start(old.container_id)
        if new is not None and (new.running or new.restarting) and swap.order is Order.STOP_FIRST:
            await containers.stop(self.engine, new.container_id, grace=_PUT_BACK_GRACE)
        if old is not None and not old.running and swap.order is Order.STOP_FIRST:
            await self._start(old.container_id)
        if new is not None and new.name == swap.serving_name:
            await containers.rename(self.engine, new, self._away(swap))
        if old is not None:
            await containers.rename(self.engine, old, swap.serving_name)
            await containers.set_restart_policy(self.engine, old, swap.old_restart_policy or _NO_RESTART)
            await dependents.rejoin(self.engine, swap.old or old.container_id, old.container_id)
        await self._set_new_aside(swap)
        await self._drop_stand_in(swap)

    async def _drop_stand_in(self, swap: Swap) -> None:
        """Remove what was to stand in for the old one, which serves on."""
        if swap.old and (left := await containers.inspect(self.engine, self._stand_in_name(swap.old))):
            await containers.remove(self.engine, left.container_id)

    async def _returning(self, swap: Swap) -> Container | None:
        if swap.old is None:
            return None
        name = self._stand_in_name(swap.old)
        return await creation.returning(self.engine, swap.old, name, swap.serving_name, swap.new)

    async def _start_new(self, swap: Swap) -> None:
        if swap.new_restart_policy is not None:
            kept = await health.expect(self.engine, swap.new)
            await containers.set_restart_policy(self.engine, kept, swap.new_restart_policy)
        await self._start(swap.new)

    async def _start(self, container_id: str) -> None:
        try:
            await containers.start(self.engine, container_id)
        except Failed as error:
            told = await conditions.by_whom(self.engine, error, but=container_id)
            raise Failed(told.reason.code, f"{self._name} cannot be started: {told.reason.message}") from error

    async def _set_new_aside(self, swap: Swap) -> None:
        """Remove it, or keep on keeping it where it was kept."""
        new = await containers.inspect(self.engine, swap.new)
        if new is None:
            return
        if swap.new_restart_policy is None and swap.reason is None:
            await containers.remove(self.engine, new.container_id)  # it is tried again, with the same image
            return
        if swap.new_restart_policy is None:
            await self._remove(new)
            return
        await containers.rename(self.engine, new, self._aside(new))
        await self._rest(new)

    async def _rest(self, container: Container) -> None:
        """Let a container that is kept stay down."""
        await containers.set_restart_policy(self.engine, container, _NO_RESTART)
        if container.running or container.restarting:
            await containers.stop(self.engine, container.container_id, grace=_PUT_BACK_GRACE)

    # -- after

    async def tidy(self, swap: Swap) -> None:
        new = await health.expect(self.engine, swap.new)
        if swap.old is not None and swap.order is Order.STOP_FIRST:
            await dependents.follow(self.engine, swap.old, swap.new)
        if reference := identity.reference(self.application, new):
            await images.tag(self.engine, new.image_id, reference)
        if new.removes_itself:
            await self.clear()  # what was to stand in for the old one
        # What compose takes for its own it would start beside the new one.
        own = adoption.of_compose(new.labels)
        await self._forget(at_most=0 if own else self.application.configuration.kept)

    async def expire(self) -> None:
        await self._forget()

    async def _forget(self, *, at_most: int | None = None) -> None:
        """Remove what is kept for too long, and beyond so many; never what somebody has started again."""
        oldest = datetime.now(UTC) - timedelta(seconds=self.pace.kept_for)
        for number, container in enumerate(await self._kept()):
            young = (at_most is None or number < at_most) and container.finished_at >= oldest
            if young or container.running:
                continue
            await self._remove(container)

    async def _remove(self, container: Container) -> None:
        """Remove it, and its image where nothing else holds on to that."""
        await containers.remove(self.engine, container.container_id)
        if reference := spec.reference(container.labels):
            await images.untag(self.engine, reference)

    async def last_lines(self, swap: Swap) -> str:
        return await containers.last_lines(self.engine, swap.new)

    async def start(self, serving: Serving) -> None:
        await self._start(serving.object_id)
        try:
            await health.prove(self.engine, serving.object_id, self.pace, self._probe)
        except Failed as error:
            log = await containers.last_lines(self.engine, serving.object_id)
            raise Failed(error.reason.code, error.reason.message, log=log) from error
        await dependents.rejoin(self.engine, serving.object_id, serving.object_id)

    async def stop(self, serving: Serving) -> None:
        await containers.stop(self.engine, serving.object_id, grace=self._grace)

    async def remove(self) -> None:
        for container in await self._all():
            if identity.is_original(self.application, container) and container.name == self._name:
                continue  # it serves as somebody else made it, and was never the gateway's to remove
            if container.running or container.restarting:
                await containers.stop(self.engine, container.container_id, grace=self._grace)
            await self._remove(container)

    async def trouble(self, object_id: str, restarts: int) -> Reason | None:
        found = await containers.inspect(self.engine, object_id)
        if found is None:
            return health.missing(object_id)
        reason = health.befallen(found, restarts=restarts)
        if reason is None or (found.down and await stops.was_stopped(self.engine, found)):
            return None  # that somebody stopped it, or the engine on its way down, is no fault of the version
        return await endings.explain(self.engine, found, reason)

    async def answer(self, object_id: str) -> Reason | None:
        if self._probe is None:
            return None
        return await probes.ask(self.engine, await health.expect(self.engine, object_id), self._probe)

    def longest_call(self) -> float:
        return self._grace + self.pace.call_margin

    # -- names

    @property
    def _name(self) -> str:
        return self.application.app_name

    @property
    def _probe(self) -> Probe | None:
        return self.application.configuration.probe

    @property
    def _networks(self) -> dict[str, dict[str, Any]]:
        return spec.networks(self.application)

    def _order(self, old: Container | None) -> Order:
        body = adoption.carry(spec.wanted(self.application), old.mounts if old else ())
        return order.order_of(body, self._networks, self.application.configuration.order)

    @property
    def _grace(self) -> int:
        return self.application.configuration.stop_grace

    def _aside(self, container: Container) -> str:
        return f"{self._name}.old.{container.container_id[:12]}"

    def _away(self, swap: Swap) -> str:
        """Return a name beside the serving one: names that differ in case are two to the engine, one to its DNS."""
        other = self._name.swapcase()
        return other if other != self._name else f"{self._name}.new.{swap.deployment_id[:12]}"

    def _stand_in_name(self, container_id: str) -> str:
        return f"{self._name}.new.{container_id[:12]}"

    async def _all(self) -> list[Container]:
        labelled = await containers.select(self.engine, self.application.application_id)
        found = [one for one in labelled if identity.is_ours(self.application, one.labels)]
        if (base := self.application.base) is not None:
            original = await containers.inspect(self.engine, base.object_id)
            alike = await containers.select(self.engine, base.object_id, label=spec.ORIGIN)
            found += [one for one in [*alike, original] if one and identity.is_original(self.application, one)]
        return found

    async def _kept(self) -> list[Container]:
        """Return what was replaced, the latest first."""
        aside = [one for one in await self._all() if one.name.startswith(f"{self._name}.old.")]
        return sorted(aside, key=lambda one: one.finished_at, reverse=True)
