"""Replaces one container with another, and restores the old one. No other module changes a serving container.

stop-first    set old aside under another name, give new the name; stop old, start new; turn off old's restart policy.
              If new boots in isolation (before the swap, or while old stops), it joins its network instead of starting
start-first   give new the aliases, then the name, so that both always resolve; drain old, turn off its restart policy,
              stop it
put back      undo the steps that were done, and remove new

Every call can be repeated. People can change the same containers at the same time. A container that was renamed,
started, paused or disconnected meanwhile is corrected. A container that was removed is replaced with a copy.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog

from gateway.docker.container import (
    boot_history,
    copies,
    create_request,
    dependents,
    isolation,
    names,
    ownership,
    preflight,
    readiness,
)
from gateway.docker.container import spec as container_spec
from gateway.docker.container.retention import UNREADY_GRACE, remove, stop_for_good
from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine
from gateway.docker.engine.containers import Container
from gateway.docker.engine.labels import ORIGIN
from gateway.docker.engine.shield import complete_both
from gateway.docker.runtime import Boot
from gateway.model.applications import Application
from gateway.model.configuration import Order
from gateway.model.configuration_diff import Running
from gateway.model.deployments import Swap
from gateway.model.errors import Code, Failed, NotOnEngine, RolloutError
from gateway.model.reference import Reference

_LOG = structlog.get_logger()

_POLL_INTERVAL = 0.1  # seconds
_START_ATTEMPTS = 3  # at starting the new container, if somebody starts the old one again meanwhile


class _Seen(NamedTuple):
    """The old container and its inspection; both None if it is gone."""

    container: Container | None
    inspection: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class ContainerSwap:
    """One swap of an application's containers. `pull` pulls an image to the engine."""

    engine: Engine
    application: Application
    #: the record of the old version
    previous: Running | None
    pull: Callable[[Reference], Awaitable[None]]
    swap: Swap

    # -- forward

    async def switch_over(self, booting: Awaitable[Boot] | None = None) -> None:
        if booting is not None:
            # Do not inspect the new container here: the engine answers only once it has started the container.
            await self._join_in_place_of(await self._look_at_old(), booting)
            return
        seen, new = await asyncio.gather(self._look_at_old(), readiness.require(self.engine, self.swap.new))
        if self.swap.order is Order.START_FIRST:
            await self._move_names(seen, new)
            return
        if isolation.is_marked(new) and new.running:
            await self._join_in_place_of(seen, None)
            return
        await self._connect(new, await self._manual_networks(seen))
        old = await self._set_aside(seen.container)
        await complete_both(self._give_name(new), self._stop(old))
        await self._start_in_place_of(old, new)
        # Not earlier: if the host crashes before this point, the engine starts the old container again.
        await self._turn_off_restarts(old)

    async def _connect(self, new: Container, endpoints: Mapping[str, dict[str, Any]]) -> None:
        for network, endpoint in endpoints.items():
            await containers.connect(self.engine, new, network, endpoint)

    async def _move_names(self, seen: _Seen, new: Container) -> None:
        """Give the new container the aliases, then the name. Each resolves to a container at every moment."""
        old = seen.container
        await self._connect(new, {**await self._manual_networks(seen), **container_spec.endpoints(self.application)})
        if old is not None and old.name == self.swap.serving_name:
            new = await containers.rename(self.engine, new, self._temporary_name)
        await self._set_aside(old)
        await self._give_name(new)

    async def _manual_networks(self, seen: _Seen) -> dict[str, dict[str, Any]]:
        return await create_request.manual_networks(
            self.engine, self.application, self.previous, seen.container, seen.inspection
        )

    async def _start_in_place_of(self, old: Container | None, new: Container | None = None) -> None:
        """Start the new container after the old one has stopped. Try again if somebody starts the old one meanwhile.

        `new` is the inspection of the new container from before the stop, if there is one.
        """
        for number in range(_START_ATTEMPTS):
            try:
                await self.start_new(new)
            except Failed:
                new = None
                old = None if old is None else await containers.inspect(self.engine, old.container_id)
                if old is None or old.stopped or number == _START_ATTEMPTS - 1:
                    raise
                await self._stop(old)
            else:
                return

    async def _turn_off_restarts(self, old: Container | None) -> None:
        if old is not None:
            await containers.set_restart_policy(self.engine, old, containers.NO_RESTART)

    async def _join_in_place_of(self, seen: _Seen, booting: Awaitable[Boot] | None) -> None:
        """Let a new container that boots isolated join its networks once the old one has left them."""
        manual = await self._manual_networks(seen)
        new = await self._join_or_start(seen.container, booting)
        # Not earlier: the engine publishes the ports on the first network that the container joins.
        await self._connect(new, manual)
        await isolation.leave(self.engine, self.application, self.swap, new)

    async def _join_or_start(self, old: Container | None, booting: Awaitable[Boot] | None) -> Container:
        """Let the new container join its network. If it cannot, start it again in place of the old one."""
        try:
            return await self._join(old, booting)
        except NotOnEngine:
            raise
        except Failed as error:
            _LOG.warning("A container cannot join its network: it is started again", error=str(error))
            await containers.stop(self.engine, self.swap.new, grace=min(self._grace, UNREADY_GRACE))
            await self._stop(old := await self._inspect_old())
            await self._start_in_place_of(old)
            await self._turn_off_restarts(old)
        return await readiness.require(self.engine, self.swap.new)

    async def _join(self, old: Container | None, booting: Awaitable[Boot] | None) -> Container:
        async with isolation.watch_leaving(self.engine, self.application, old) as left:
            old = await self._set_aside(old)
            head_start = 0.0 if booting is None else boot_history.head_start(self.engine, self.application)
            began, boot = await complete_both(
                self._stop_and_tell(old, left, after=head_start), self._join_once(left, booting)
            )
        boot_history.remember_stop(self.engine, self.application, left.result() - began)
        new, _ = await complete_both(boot.check_joined(), self._turn_off_restarts(old))
        return new

    async def _stop_and_tell(self, old: Container | None, left: asyncio.Future[float], *, after: float) -> float:
        """Stop the old container after `after` seconds. Set `left` if nothing else has; return when the stop began."""
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(after)
        began = clock()
        try:
            await self._stop(old)
        except BaseException:
            left.cancel()
            raise
        if not left.done():
            left.set_result(clock())
        return began

    async def _join_once(self, left: asyncio.Future[float], booting: Awaitable[Boot] | None) -> isolation.IsolatedBoot:
        """Let the new container join its network once the old one has `left` it, which frees the ports."""
        boot = isolation.IsolatedBoot(self.engine, self.application, self.swap)
        if booting is not None and isinstance(begun := await booting, isolation.IsolatedBoot):
            boot = begun
        new = await readiness.require(self.engine, self.swap.new)
        await self._give_name(new)
        if isolation.has_joined(new):
            return boot
        boot.check(new)
        await left
        await boot.check_unused(new)
        await isolation.join_home(self.engine, self.application, new)
        return boot

    async def _stop(self, old: Container | None) -> None:
        if old is not None and not old.stopped:
            await containers.stop(self.engine, old.container_id, grace=self._grace)

    async def _look_at_old(self) -> _Seen:
        found = await containers.inspect_raw(self.engine, self.swap.old) if self.swap.old else None
        return _Seen(await containers.from_inspection(self.engine, found) if found else None, found)

    async def _inspect_old(self) -> Container | None:
        return await containers.inspect(self.engine, self.swap.old) if self.swap.old else None

    async def start_new(self, new: Container | None = None) -> None:
        """Start the new container. `new` is its inspection, if there is a recent one."""
        new = new or await readiness.require(self.engine, self.swap.new)
        if isolation.is_marked(new) and not new.running:
            await isolation.go_home(self.engine, self.application, self.swap, new)
        policy = self.swap.new_restart_policy or ownership.restart_policy_of(self.application, new)
        if not new.removes_itself:
            await containers.set_restart_policy(self.engine, new, policy)
        await self.start(new.container_id)

    async def start(self, container_id: str) -> None:
        name = self.swap.serving_name
        try:
            await containers.start(self.engine, container_id)
        except NotOnEngine:
            raise
        except Failed as error:
            cause = await preflight.name_port_holder(self.engine, error, but=container_id)
            raise Failed(cause.reason.code, f"{name} cannot be started: {cause.reason.message}") from error

    async def rejoin_networks(self, new: Container) -> None:
        """Connect the new container, as it was just inspected, to what somebody disconnected it from meanwhile."""
        for network, endpoint in (await isolation.left_networks(self.engine, self.application, new)).items():
            _LOG.warning(
                "Somebody disconnected a container: it is connected again", container=new.name, network=network
            )
            await containers.connect(self.engine, new, network, endpoint)

    async def stop_old(self) -> None:
        old = await self._inspect_old()
        if old is None:
            return
        await dependents.move_to(self.engine, old.container_id, self.swap.new)
        if old.running and container_spec.endpoints(self.application):
            await asyncio.sleep(self.application.configuration.drain)
        await stop_for_good(self.engine, old, grace=self._grace)

    # -- names

    async def _set_aside(self, old: Container | None) -> Container | None:
        """Rename the container aside and return it, or None when somebody has removed it."""
        if old is None:
            return None
        try:
            return await containers.rename(self.engine, old, names.aside(self.swap.serving_name, old.container_id))
        except NotOnEngine:
            return None

    async def _give_name(self, container: Container) -> None:
        """Give the container the serving name, also when another container of the application has it."""
        name = self.swap.serving_name
        try:
            await containers.rename(self.engine, container, name)
        except Failed as error:
            holder = await containers.inspect(self.engine, name)
            if error.reason.code is not Code.NAME_TAKEN or holder is None:
                raise
            if not ownership.belongs_to(self.application, holder):
                raise Failed(error.reason.code, ownership.describe_conflict(self.application, holder)) from error
            await self._set_aside(holder)
            await containers.rename(self.engine, container, name)

    @property
    def _temporary_name(self) -> str:
        return names.temporary(self.swap.serving_name, self.swap.deployment_id)

    @property
    def _stand_in_name(self) -> str | None:
        return names.stand_in(self.swap.serving_name, self.swap.old) if self.swap.old else None

    @property
    def _grace(self) -> int:
        return self.application.configuration.stop_grace

    # -- back

    async def wait_out_pending_calls(self, longest_call: float) -> None:
        # In stop-first order, a pending call of an earlier attempt can still stop the old container.
        clock = asyncio.get_running_loop().time
        deadline = clock() + longest_call
        while self.swap.old and self.swap.order is Order.STOP_FIRST and clock() < deadline:
            old = await containers.inspect(self.engine, self.swap.old)
            if old is None or old.stopped:
                return
            await asyncio.sleep(_POLL_INTERVAL)

    async def put_back(self) -> None:
        """Let the old container serve again, or a copy of it. When neither can, let the new one serve if it exists."""
        try:
            if await self._restore_old():
                return
        except NotOnEngine:
            raise  # somebody removed it meanwhile; the next attempt creates a copy
        except Failed as error:
            if not await self._restore_copy():
                await self._keep_new_after(error)
            return
        await self._keep_new_after(None)

    async def _restore_old(self) -> bool:
        """Restore the old container. Return False when there was one and it cannot be found or recreated."""
        old = await self._find_old_or_copy()
        if self.swap.old is not None and old is None:
            return False
        await self._restore(old)
        return True

    async def _find_old_or_copy(self) -> Container | None:
        """Return the old container. If it is gone or about to remove itself, return a copy."""
        if self.swap.old is None or self._stand_in_name is None:
            return None
        old = await containers.inspect(self.engine, self.swap.old)
        if old is not None and (not old.stopped or not old.removes_itself):
            return old
        if made := await containers.inspect(self.engine, self._stand_in_name):
            return made
        by_name = await containers.inspect(self.engine, self.swap.serving_name)
        if by_name is not None and by_name.container_id != self.swap.new and ORIGIN in by_name.labels:
            return by_name  # restored already
        return old or await self._recreate_old()

    async def _recreate_old(self) -> Container | None:
        """Return the old container, recreated from its record, or None when that is impossible."""
        if (
            self.previous is None
            or self.previous.reference is None
            or self.swap.old is None
            or self._stand_in_name is None
        ):
            return None
        new = await containers.inspect(self.engine, self.swap.new)
        try:
            await self.pull(self.previous.reference)
            made = await copies.recreate(self.engine, self.previous, self.swap.old, self._stand_in_name, new)
        except RolloutError as error:
            if error.reason.code is Code.ENGINE_UNREACHABLE or new is None:
                raise
            _LOG.warning("The version that served before cannot be recreated", error=str(error))
            return None
        return await containers.inspect(self.engine, made)

    async def _restore_copy(self) -> bool:
        """Restore a copy of an old container that cannot be started. Return False when that fails too."""
        old = await self._inspect_old()
        if old is None or self._stand_in_name is None or old.name == self._stand_in_name:
            return False
        made = None
        try:
            ran = self.previous.application if self.previous else self.application
            made = await copies.copy(self.engine, old.container_id, self._stand_in_name, ran)
            like = await containers.inspect(self.engine, made) if made else None
            if like is None:
                return False
            await self._set_aside(old)
            await self._restore(like)
        except Failed as error:
            _LOG.warning("A copy of the version that served before cannot be started either", error=str(error))
            if made is not None:
                await containers.remove(self.engine, made)
            return False
        await containers.remove(self.engine, old.container_id, running=False)
        return True

    async def _restore(self, old: Container | None) -> None:
        swap, new = self.swap, await containers.inspect(self.engine, self.swap.new)
        if new is not None and swap.order is Order.STOP_FIRST:
            await stop_for_good(self.engine, new, grace=UNREADY_GRACE)
        if old is not None and swap.order is Order.START_FIRST:
            await self._start_again(old)
        if new is not None and new.name == swap.serving_name:
            await containers.rename(self.engine, new, self._temporary_name)
        if old is not None:
            await self._give_name(old)
            # Look again: the rename stops a container in a crash loop.
            await self._start_again(await readiness.require(self.engine, old.container_id))
            await dependents.rejoin(self.engine, swap.old or old.container_id, old.container_id)
        await self.remove_new()
        await self.drop_stand_in()

    async def _start_again(self, old: Container) -> None:
        # Set the policy before the start: if the engine restarts in between, it starts the container again.
        if not old.removes_itself:
            await containers.set_restart_policy(self.engine, old, self.swap.old_restart_policy or containers.NO_RESTART)
        if old.stopped or old.paused:
            await self.start(old.container_id)

    async def _keep_new_after(self, error: Failed | None) -> None:
        """Let the new container serve because the old one cannot. Raises Failed when the new one cannot either."""
        new = await containers.inspect(self.engine, self.swap.new)
        if new is None:
            if error is not None:
                raise error
            return
        try:
            await self.start_new()
            await self.switch_over()
        except Failed as refused:
            raise error or refused from refused
        _LOG.warning(
            "The version that served before cannot be put back: the new one serves", error=str(error or "it is gone")
        )

    async def remove_new(self) -> None:
        """Remove the new container, or set it aside again if it was a kept version."""
        new = await containers.inspect(self.engine, self.swap.new)
        if new is None:
            return
        if self.swap.new_restart_policy is None:
            # Without a reason the swap did not fail, and the next attempt uses the same image.
            await remove(self.engine, new, image=self.swap.reason is not None)
            if isolation.is_marked(new):
                await isolation.sweep(self.engine, self.application)
            return
        await self._set_aside(new)
        await stop_for_good(self.engine, new, grace=UNREADY_GRACE)

    async def drop_stand_in(self) -> None:
        """Remove the unused copy of the old container, which itself keeps serving."""
        if self._stand_in_name and (left := await containers.inspect(self.engine, self._stand_in_name)):
            await containers.remove(self.engine, left.container_id)
