"""One address of an engine: checks whether the engine answers, and claims deployments for it.

Each worker has its own tasks and slots, so an engine that is down or hangs does not hold up other engines' rollouts.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import structlog

from gateway.background import POLL_INTERVAL, BackgroundTasks, backoff, cancel_and_wait
from gateway.docker.container import probes
from gateway.docker.engine import events
from gateway.docker.engine.client import Engine, EngineIdentity, ReachedEngine
from gateway.model.deployments import Deployment
from gateway.model.errors import Code, Failed, Postponed, Reason, RolloutError
from gateway.rollout.swap_slots import SwapSlots
from gateway.store import engines, leases, servers
from gateway.store.database import Pool, transaction

_LOG = structlog.get_logger()

#: deployments that wait with these codes are retried when the engine recovers
_ENGINE_CODES = (Code.ENGINE_UNREACHABLE, Code.ENGINE_REFUSED)
_CHECK_INTERVAL = 5.0  # seconds between checks of an engine that answers
_SWARM_START_TIME = 60.0  # seconds that a Swarm manager may take after a restart to be one again


@dataclass(frozen=True, slots=True)
class Slots:
    """The slots of one daemon: for rollouts, for those among them that stop and start containers, and create them."""

    rollouts: asyncio.Semaphore
    swaps: SwapSlots
    creations: asyncio.Semaphore


@dataclass(frozen=True, slots=True)
class PeriodicTask:
    """A task that runs periodically on each engine that answers, beside the rollouts."""

    name: str
    interval: float
    #: returns the seconds until the next run; None stands for `interval`
    run: Callable[[ReachedEngine], Awaitable[float | None]]
    #: whether it also runs after events of the engine
    on_events: bool = False


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claimed deployment, with the worker that holds a slot for it."""

    deployment: Deployment
    worker: "EngineWorker"
    identity: EngineIdentity
    slots: Slots
    #: a moment before its lease began, by the clock that also counts while the process is frozen
    claimed_at: float

    def release(self) -> None:
        """Free the slot."""
        self.slots.rollouts.release()
        self.worker.running -= 1
        self.worker.wake()


class PoolView(Protocol):
    """The pool as a worker sees it."""

    periodic_tasks: Sequence[PeriodicTask]
    background_tasks: BackgroundTasks

    def servers_claimed_by(self, worker: "EngineWorker") -> list[str | None]:
        """Return the servers whose applications the worker claims.

        None of them when another address of the same daemon claims. The gateway's own engine has no server: None.
        """

    def reaches(self, identity: EngineIdentity) -> bool:
        """Tell whether any address of the daemon answers."""

    def slots(self, identity: EngineIdentity) -> Slots: ...

    async def claim(self, engine_id: str, server_ids: list[str | None]) -> Deployment | None: ...

    def roll_out(self, claimed: Claimed, /) -> Awaitable[None]:
        """Start the rollout without waiting for its end."""


async def _wait(event: asyncio.Event, wait: float) -> None:
    """Return after so many seconds, or shortly after an event: events that come together are handled together.

    An engine sends an event up to a moment before its lists show the change. An event that comes just before the return
    therefore stays set, and causes another return.
    """
    try:
        async with asyncio.timeout(wait):
            await event.wait()
    except TimeoutError:
        return
    event.clear()
    await asyncio.sleep(POLL_INTERVAL)


class EngineWorker:
    """Checks one address of an engine and claims for it. `server_id` is None for the gateway's own engine."""

    def __init__(
        self, pool: Pool, pool_view: PoolView, engine: Engine, address: str, server_id: str | None = None
    ) -> None:
        self.engine = engine
        self.address = address
        self.server_id = server_id
        #: the engine that answered last; it may be unreachable now
        self.identity: EngineIdentity | None = None
        #: why the engine does not answer
        self.error: str | None = None
        #: this gateway's rollouts on the engine that run now
        self.running = 0
        self._pool = pool
        self._pool_view = pool_view
        self._woken = asyncio.Event()
        #: when the engine was last seen as a Swarm manager, in seconds of the event loop's clock
        self._managed_swarm_at: float | None = None
        self._event_seen = asyncio.Event()
        self._interrupted = False
        self._retired = False

    @property
    def reachable(self) -> bool:
        return self.identity is not None and self.error is None

    async def routed(self, networks: Sequence[str]) -> bool:
        return await probes.containers_reachable(self.engine, networks)

    def wake(self) -> None:
        """Look for deployments to claim."""
        self._woken.set()

    def retire(self) -> None:
        """Claim no more; `run` returns once the running rollouts have ended."""
        self._retired = True
        self.wake()

    async def run(self) -> None:
        """Check and claim until the worker is retired and its rollouts have ended."""
        start = partial(self._pool_view.background_tasks.start, about=self.address)
        tasks = [
            start("engine watch", self._check_forever),
            start("engine events", self._follow_events),
            *(
                start(task.name, partial(self._repeat, task), patience=task.interval)
                for task in self._pool_view.periodic_tasks
            ),
        ]
        try:
            await start("engine claims", self._claim_until_retired)
        finally:
            await cancel_and_wait(*tasks)

    async def _repeat(self, task: PeriodicTask) -> None:
        """Run a periodic task while the engine answers. When the engine goes away, the pause doubles each time."""
        failures, event = 0, self._event_seen if task.on_events else asyncio.Event()
        while True:
            if not self.reachable or self.identity is None or not (served := self._claimed_servers()):
                await asyncio.sleep(POLL_INTERVAL)
                continue
            try:
                engine = self.engine.managing() if self.identity.swarm_manager else self.engine
                wait = await task.run(ReachedEngine(engine, self.identity, served)) or task.interval
            except Postponed as error:
                _LOG.info("A periodic task waits for the engine", duty=task.name, host=self.address, error=str(error))
                failures += 1
                await asyncio.sleep(backoff(failures, task.interval))
            else:
                failures = 0
                await _wait(event, wait)

    async def _follow_events(self) -> None:
        """Follow the engine's events when a periodic task asks for them."""
        while any(task.on_events for task in self._pool_view.periodic_tasks):
            if self.reachable and self._claimed_servers():
                with suppress(Postponed, Failed):
                    async with aclosing(events.follow(self.engine)) as stream:
                        async for _ in stream:
                            self._event_seen.set()
                # The engine may have restarted so quickly that no check has failed.
                self._interrupted = True
            await asyncio.sleep(POLL_INTERVAL)

    # -- claims

    async def _claim_until_retired(self) -> None:
        while not self._retired or self.running:
            self._woken.clear()
            while await self._claim_one():
                pass
            try:
                async with asyncio.timeout(POLL_INTERVAL):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def _claim_one(self) -> bool:
        """Claim one deployment; return whether there was one."""
        identity = self.identity
        if identity is None or not self._claimed_servers():
            return False
        slots = self._pool_view.slots(identity)
        await slots.rollouts.acquire()
        deployment, claimed_at = None, time.monotonic()
        try:
            if served := self._claimed_servers():  # the wait for the slot may have been long
                deployment = await self._pool_view.claim(identity.engine_id, served)
        finally:
            if deployment is None:
                slots.rollouts.release()
        if deployment is None:
            return False
        self.running += 1
        claimed = Claimed(deployment, self, identity, slots, claimed_at)
        try:
            await self._pool_view.roll_out(claimed)
        except BaseException:
            claimed.release()
            raise
        return True

    def _claimed_servers(self) -> list[str | None]:
        return [] if self._retired else self._pool_view.servers_claimed_by(self)

    # -- reachability

    async def _check_forever(self) -> None:
        """Check whether the engine answers, and update the deployments that wait for it."""
        while True:
            try:
                identity = await self.engine.identify()
            except RolloutError as error:
                await self._mark_unreachable(error)
            else:
                await self._mark_reachable(identity)
            await asyncio.sleep(_CHECK_INTERVAL if self.reachable else POLL_INTERVAL)

    async def _mark_unreachable(self, error: RolloutError) -> None:
        if self.error is None:
            _LOG.warning("The Docker Engine does not answer", host=self.address, error=str(error))
        self.error = str(error)
        known = self.identity
        where = "" if self.address in self.error else f"{self.address}: "
        reason = Reason(Code.ENGINE_UNREACHABLE, f"{where}{error}")
        async with transaction(self._pool) as connection:
            if self.server_id is not None:
                await servers.update_state(connection, self.server_id, error=self.error)
            if known is None or not self._pool_view.reaches(known):
                engine_id = known.engine_id if known else None
                await leases.mark_waiting(connection, self.server_id, engine_id, reason)

    def _with_swarm_starting(self, identity: EngineIdentity, now: float) -> EngineIdentity:
        """Mark the identity as starting its Swarm when the engine was a manager until just now.

        After a restart, an engine may report for a while that it is in no Swarm.
        """
        if identity.swarm_manager:
            self._managed_swarm_at = now
        elif self._managed_swarm_at is not None and now - self._managed_swarm_at < _SWARM_START_TIME:
            return replace(identity, swarm_starting=True)
        return identity

    async def _mark_reachable(self, identity: EngineIdentity) -> None:
        identity = self._with_swarm_starting(identity, asyncio.get_running_loop().time())
        if not self.reachable:
            _LOG.info("The Docker Engine answers", host=self.address, engine=identity.engine_id)
        # An engine that restarted between two checks is another run of the same engine.
        recovered = (
            not self.reachable or self._interrupted or self.identity is None or self.identity.run != identity.run
        )
        self._interrupted = False
        async with transaction(self._pool) as connection:
            await engines.upsert_engine(
                connection,
                engine_id=identity.engine_id,
                name=identity.name,
                version=identity.version,
                platform=identity.platform,
                swarm_manager=identity.swarm_manager,
            )
            if self.server_id is not None:  # before its address, as whoever removes the server does
                await servers.update_state(connection, self.server_id, engine_id=identity.engine_id)
            await engines.upsert_address(
                connection,
                engine_id=identity.engine_id,
                server_id=self.server_id,
                daemon=identity.daemon,
                swarm_manager=identity.swarm_manager,
            )
            if recovered:
                await leases.wake_waiting(connection, self.server_id, identity.engine_id, _ENGINE_CODES)
        self.identity, self.error = identity, None
        self.wake()
