"""One engine as this gateway reaches it: whether it answers, and what is claimed for it.

Each has its own loops and slots, so that one that is dead or hangs holds up nobody else's rollouts.
"""

import asyncio
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
from gateway.rollout.attempt import SwapSlots
from gateway.store import engines, leases, servers
from gateway.store.database import Pool, transaction

_LOG = structlog.get_logger()

#: what a deployment waits with that an engine which has recovered may do
_WAITS_FOR_ENGINE = (Code.ENGINE_UNREACHABLE, Code.ENGINE_REFUSED)
_ENGINE_LOOK = 5.0  # seconds between looks at an engine that answers
_SWARM_STARTS = 60.0  # seconds that an engine which managed a Swarm has to manage it again after a restart


@dataclass(frozen=True, slots=True)
class Slots:
    """How much one daemon is given at once: rollouts, and of them those that stop and start containers."""

    rollouts: asyncio.Semaphore
    swaps: SwapSlots


@dataclass(frozen=True, slots=True)
class PeriodicTask:
    """What is done on each engine that answers, every so many seconds, beside the rollouts."""

    name: str
    every: float
    #: returns after how many seconds it is to be done again, None for the usual
    do: Callable[[ReachedEngine], Awaitable[float | None]]
    #: it is done too when something happens on the engine
    on_events: bool = False


@dataclass(frozen=True, slots=True)
class Claimed:
    """A deployment to be rolled out on a host that holds a slot for it."""

    deployment: Deployment
    host: "Host"
    identity: EngineIdentity
    slots: Slots

    def release(self) -> None:
        """It is over: the slot is free."""
        self.slots.rollouts.release()
        self.host.running -= 1
        self.host.wake()


class PoolView(Protocol):
    """What a host asks of all of them together."""

    periodic_tasks: Sequence[PeriodicTask]
    background_tasks: BackgroundTasks

    def served_by(self, host: "Host") -> list[str | None]:
        """Return the servers whose applications it claims: none where another address of its daemon does."""

    def reaches(self, identity: EngineIdentity) -> bool:
        """Tell whether any address of this daemon answers."""

    def slots(self, identity: EngineIdentity) -> Slots: ...

    async def claim(self, engine_id: str, server_ids: list[str | None]) -> Deployment | None: ...

    def roll_out(self, claimed: Claimed, /) -> Awaitable[None]:
        """Begin it, without waiting for its end."""


async def _until(stirred: asyncio.Event, wait: float) -> None:
    """Return after so many seconds, or soon after something happened: what happens at once is seen at once."""
    with suppress(TimeoutError):
        async with asyncio.timeout(wait):
            await stirred.wait()
            await asyncio.sleep(POLL_INTERVAL)


class Host:
    """An address of an engine. `server_id` is None for the gateway's own."""

    def __init__(self, pool: Pool, peers: PoolView, engine: Engine, host: str, server_id: str | None = None) -> None:
        self.engine = engine
        self.host = host
        self.server_id = server_id
        #: who answered last, though it may not any more
        self.identity: EngineIdentity | None = None
        #: why it does not answer
        self.error: str | None = None
        #: rollouts of this gateway under way there
        self.running = 0
        self._pool = pool
        self._peers = peers
        self._wanted = asyncio.Event()
        #: when it was last seen to manage a Swarm, by the loop's clock
        self._managed_at: float | None = None
        self._stirred = asyncio.Event()
        self._interrupted = False
        self._retired = False

    @property
    def reachable(self) -> bool:
        return self.identity is not None and self.error is None

    async def routed(self, networks: Sequence[str]) -> bool:
        return await probes.containers_reachable(self.engine, networks)

    def wake(self) -> None:
        """There may be something to claim."""
        self._wanted.set()

    def retire(self) -> None:
        """Claim no more."""
        self._retired = True
        self.wake()

    async def live(self) -> None:
        """Watch and claim until retired, and what runs has ended."""
        start = partial(self._peers.background_tasks.start, about=self.host)
        beside = [
            start("engine watch", self._watch),
            start("engine events", self._listen),
            *(
                start(periodic.name, partial(self._do, periodic), patience=periodic.every)
                for periodic in self._peers.periodic_tasks
            ),
        ]
        try:
            await start("engine claims", self._claim_until_retired)
        finally:
            await cancel_and_wait(*beside)

    async def _do(self, periodic: PeriodicTask) -> None:
        """Do it every so often while the engine answers; where that goes away, after a pause that doubles."""
        failures, stirred = 0, self._stirred if periodic.on_events else asyncio.Event()
        while True:
            if not self.reachable or self.identity is None or not (served := self._served()):
                await asyncio.sleep(POLL_INTERVAL)
                continue
            stirred.clear()
            try:
                engine = self.engine.managing() if self.identity.swarm_manager else self.engine
                wait = await periodic.do(ReachedEngine(engine, self.identity, served)) or periodic.every
            except Postponed as error:
                _LOG.info("A duty waits for the engine", periodic=periodic.name, host=self.host, error=str(error))
                failures += 1
                await asyncio.sleep(backoff(failures, periodic.every))
            else:
                failures = 0
                await _until(stirred, wait)

    async def _listen(self) -> None:
        """Hear what happens on the engine, where a duty asks for that."""
        while any(periodic.on_events for periodic in self._peers.periodic_tasks):
            if self.reachable and self._served():
                with suppress(Postponed, Failed):
                    async with aclosing(events.follow(self.engine)) as happened:
                        async for _ in happened:
                            self._stirred.set()
                # It may have been restarted in so short a time that no look at it has failed.
                self._interrupted = True
            await asyncio.sleep(POLL_INTERVAL)

    # -- claims

    async def _claim_until_retired(self) -> None:
        while not self._retired or self.running:
            self._wanted.clear()
            while await self._claim_one():
                pass
            try:
                async with asyncio.timeout(POLL_INTERVAL):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def _claim_one(self) -> bool:
        """Return whether there was one to claim."""
        identity = self.identity
        if identity is None or not self._served():
            return False
        slots = self._peers.slots(identity)
        await slots.rollouts.acquire()
        deployment = None
        try:
            if served := self._served():  # the wait for the slot may have been long
                deployment = await self._peers.claim(identity.engine_id, served)
        finally:
            if deployment is None:
                slots.rollouts.release()
        if deployment is None:
            return False
        self.running += 1
        claimed = Claimed(deployment, self, identity, slots)
        try:
            await self._peers.roll_out(claimed)
        except BaseException:
            claimed.release()
            raise
        return True

    def _served(self) -> list[str | None]:
        return [] if self._retired else self._peers.served_by(self)

    # -- is it there

    async def _watch(self) -> None:
        """Keep knowing whether the engine answers, and tell those that wait for it."""
        while True:
            try:
                identity = await self.engine.identify()
            except RolloutError as error:
                await self._went(error)
            else:
                await self._came(identity)
            await asyncio.sleep(_ENGINE_LOOK if self.reachable else POLL_INTERVAL)

    async def _went(self, error: RolloutError) -> None:
        if self.error is None:
            _LOG.warning("The Docker Engine does not answer", host=self.host, error=str(error))
        self.error = str(error)
        known = self.identity
        reason = Reason(Code.ENGINE_UNREACHABLE, f"{self.host}: {error}")
        async with transaction(self._pool) as connection:
            if self.server_id is not None:
                await servers.update_state(connection, self.server_id, error=self.error)
            if known is None or not self._peers.reaches(known):
                engine_id = known.engine_id if known else None
                await leases.mark_waiting(connection, self.server_id, engine_id, reason)

    def _believed(self, identity: EngineIdentity, now: float) -> EngineIdentity:
        """Return it as a node whose Swarm is starting where it managed one until just now.

        An engine that was restarted may say for a while that it is in no Swarm.
        """
        if identity.swarm_manager:
            self._managed_at = now
        elif self._managed_at is not None and now - self._managed_at < _SWARM_STARTS:
            return replace(identity, swarm_starting=True)
        return identity

    async def _came(self, identity: EngineIdentity) -> None:
        identity = self._believed(identity, asyncio.get_running_loop().time())
        if not self.reachable:
            _LOG.info("The Docker Engine answers", host=self.host, engine=identity.engine_id)
        # One that was restarted between two looks is another run of the same engine.
        back = not self.reachable or self._interrupted or self.identity is None or self.identity.run != identity.run
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
            await engines.upsert_address(
                connection,
                engine_id=identity.engine_id,
                server_id=self.server_id,
                daemon=identity.daemon,
                swarm_manager=identity.swarm_manager,
            )
            if self.server_id is not None:
                await servers.update_state(connection, self.server_id, engine_id=identity.engine_id)
            if back:
                await leases.wake_waiting(connection, self.server_id, identity.engine_id, _WAITS_FOR_ENGINE)
        self.identity, self.error = identity, None
        self.wake()
