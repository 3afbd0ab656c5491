"""One address of an engine: checks whether the engine answers, follows its events, and runs its periodic tasks.

Each worker has its own tasks and slots, so an engine that is down or hangs does not hold up other engines' rollouts.
When several gateways reach an engine, one of them watches it (`shares`). The others only check it, and less often.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager, suppress
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
from gateway.store import leases, servers
from gateway.store.database import Pool, transaction
from gateway.store.engines import Place, Seen

_LOG = structlog.get_logger()

# While so many rollouts run on an engine, its event tasks wait, for at most so many intervals.
_MANY_ROLLOUTS, _BUSY_LOOKS = 4, 4
_SWARM_START_TIME = 60.0  # seconds that a Swarm manager may take after a restart to be one again


@dataclass(slots=True)
class Slots:
    """The slots of one daemon: for rollouts (`free`), for their swaps, and for their preparations."""

    #: free slots for rollouts; negative while rollouts go on whose lent slots are still in use
    free: int
    swaps: SwapSlots
    preparations: asyncio.Semaphore


@dataclass(frozen=True, slots=True)
class PeriodicTask:
    """A task that runs periodically on each engine that answers and is watched, beside the rollouts."""

    name: str
    interval: float
    #: returns the seconds until the next run; None stands for `interval`
    run: Callable[[ReachedEngine], Awaitable[float | None]]
    #: whether it also runs after events of the engine
    on_events: bool = False
    #: returns the places where the task has something to do, in one query for all engines; None: it runs everywhere
    find: Callable[[], Awaitable[Collection[Place]]] | None = None


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
        self.worker.release(self.slots)
        self.worker.rollout_ended()

    @contextmanager
    def lend_slot(self) -> Iterator[None]:
        """Lend the slot to another rollout during the block, in which this rollout only waits for others.

        After the block this rollout goes on without waiting for a slot. No further rollout begins until enough others
        have ended.
        """
        self.slots.free += 1
        self.worker.make_room()
        try:
            yield
        finally:
            self.slots.free -= 1


class PoolView(Protocol):
    """The pool as a worker sees it."""

    periodic_tasks: Sequence[PeriodicTask]
    background_tasks: BackgroundTasks
    #: limits how many periodic tasks run at once, on all engines
    runs: asyncio.Semaphore

    def servers_claimed_by(self, worker: "EngineWorker") -> list[str | None]:
        """Return the servers whose applications the worker claims.

        The list is empty when the worker of another address of the same daemon claims. None in it stands for the
        gateway's own engine, which has no server.
        """

    def reaches(self, identity: EngineIdentity) -> bool:
        """Tell whether any address of the daemon answers."""

    def watches(self, worker: "EngineWorker") -> bool:
        """Tell whether this gateway watches the engine, and not another one."""

    def check_slot(self, worker: "EngineWorker") -> AbstractAsyncContextManager[None]:
        """Return what limits how many engines are checked at once."""

    def check_interval(self, worker: "EngineWorker") -> float:
        """Return the seconds until the next check."""

    @property
    def spread(self) -> float:
        """The seconds over which the first runs on all engines are spread."""

    def changed(self, worker: "EngineWorker", before: EngineIdentity | None) -> None:
        """Take note that the engine answers now, or no longer answers, or is another engine than `before`."""

    def record(self, seen: Seen) -> None:
        """Record soon that an engine answers, as it did before."""

    async def record_now(self, seen: Seen) -> None:
        """Record that an engine answers, and return after the commit."""

    def make_room(self) -> None:
        """Look for deployments to claim at once: a slot is free."""


async def _wait(event: asyncio.Event, wait: float) -> None:
    """Return after `wait` seconds, or a moment after an event, so that events that come together are handled together.

    An engine may send an event shortly before its lists show the change. An event that comes during that moment
    therefore stays set, and ends the next wait at once.
    """
    try:
        async with asyncio.timeout(wait):
            await event.wait()
    except TimeoutError:
        return
    event.clear()
    await asyncio.sleep(POLL_INTERVAL)


class EngineWorker:
    """Checks one address of an engine and watches it. `server_id` is None for the gateway's own engine."""

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
        self.retired = False
        self._pool = pool
        self._pool_view = pool_view
        self._ended = asyncio.Event()
        self._check_wanted = asyncio.Event()
        #: when the engine was last seen as a Swarm manager, in seconds of the event loop's clock
        self._managed_swarm_at: float | None = None
        #: set by each event of the engine, for each periodic task that runs after events
        self._event_seen: dict[str, asyncio.Event] = {}
        #: the stream of events that is open, and the one that was open at the last check
        self._stream: object = None
        self._checked_stream: object = None
        self._interrupted = False
        #: whether the row that says that this engine answers is still to be written; claims do not wait for the row
        self._unrecorded = False
        self._watching: Sequence[asyncio.Task[None]] = ()

    @property
    def reachable(self) -> bool:
        return self.identity is not None and self.error is None

    async def routed(self, networks: Sequence[str]) -> bool:
        return await probes.containers_reachable(self.engine, networks)

    def check_now(self) -> None:
        """Check the engine without waiting for its turn."""
        self._check_wanted.set()

    def retire(self) -> None:
        """Claim no more; `run` returns once the running rollouts have ended."""
        self.retired = True
        self._ended.set()

    def hold(self, slots: Slots) -> bool:
        """Take a slot for a rollout; return False when all are taken."""
        if slots.free <= 0:
            return False
        slots.free -= 1
        self.running += 1
        return True

    def release(self, slots: Slots) -> None:
        """Free a slot, after its rollout has ended or because it was not used."""
        slots.free += 1
        self.running -= 1
        self._ended.set()

    def rollout_ended(self) -> None:
        """Claim the next deployment, run the event tasks, and check the engine if another gateway watches it.

        The event tasks observe the application, which nobody observed while its rollout ran. The engine may send no
        event after the end of a rollout.
        """
        self._run_event_tasks()
        if not self._pool_view.watches(self):
            self.check_now()
        self.make_room()

    def make_room(self) -> None:
        """Claim the next deployment: there is a slot for it."""
        self._pool_view.make_room()

    async def run(self) -> None:
        """Check and watch until the worker is retired and its rollouts have ended."""
        checks = self._start("engine watch", self._check_forever)
        try:
            while not self.retired or self.running:
                self._ended.clear()
                await self._ended.wait()
        finally:
            await cancel_and_wait(checks, *self._watching)

    def _start(
        self, name: str, act: Callable[[], Awaitable[None]], *, patience: float = POLL_INTERVAL
    ) -> asyncio.Task[None]:
        return self._pool_view.background_tasks.start(name, act, about=self.address, patience=patience)

    # -- watching

    def reached(self) -> ReachedEngine | None:
        """Return the engine and the servers that it is watched for, or None while this worker does not watch it."""
        served = self._pool_view.servers_claimed_by(self)
        if not self.reachable or self.identity is None or not served or not self._pool_view.watches(self):
            return None
        if self._unrecorded:
            return None
        engine = self.engine.managing() if self.identity.swarm_manager else self.engine
        return ReachedEngine(engine, self.identity, served)

    def watch_or_leave(self) -> None:
        """Begin or stop watching the engine, as `reached` says."""
        if self.reached() is None:
            for task in self._watching:
                task.cancel()
            self._watching = ()
        elif not self._watching and not self.retired:
            tasks = [task for task in self._pool_view.periodic_tasks if task.on_events]
            self._watching = [
                *(self._start(task.name, partial(self._repeat, task), patience=task.interval) for task in tasks),
                *([self._start("engine events", self._follow_events)] if tasks else ()),
            ]

    def share_changed(self) -> None:
        """Begin or stop watching the engine after the shares have changed, and check it now."""
        self.watch_or_leave()
        self.check_now()

    async def _repeat(self, task: PeriodicTask) -> None:
        """Run a periodic task while the engine is watched. When it does not answer, the pause doubles each time."""
        failures, event_seen = 0, self._event_seen.setdefault(task.name, asyncio.Event())
        await _wait(event_seen, random.random() * self._pool_view.spread)  # noqa: S311 - so that not all run at once
        while True:
            if (reached := self.reached()) is None:  # the task is about to be cancelled
                await asyncio.sleep(POLL_INTERVAL)
                continue
            try:
                async with self._pool_view.runs:
                    wait = await task.run(reached) or task.interval
            except Postponed as error:
                _LOG.info("A periodic task waits for the engine", duty=task.name, host=self.address, error=str(error))
                failures += 1
                await asyncio.sleep(backoff(failures, task.interval))
            else:
                failures = 0
                await _wait(event_seen, wait)
                await self._leave_to_rollouts()

    async def _leave_to_rollouts(self) -> None:
        """Return once few rollouts run on the engine, or after a while.

        Rollouts cause events all the time, and need the engine. The end of each rollout runs the event tasks anyway.
        """
        for _ in range(_BUSY_LOOKS):
            if self.running < _MANY_ROLLOUTS:
                return
            await asyncio.sleep(POLL_INTERVAL)

    def _run_event_tasks(self) -> None:
        """Let the tasks that run after events run soon."""
        for event_seen in self._event_seen.values():
            event_seen.set()

    async def _follow_events(self) -> None:
        """Follow the engine's events."""
        while True:
            try:
                with suppress(Postponed, Failed):
                    async with aclosing(events.follow(self.engine)) as stream:
                        async for _ in stream:
                            self._stream = stream
                            self._run_event_tasks()
            finally:
                self._stream = None
            # The engine may be gone, or have restarted so quickly that no check has failed.
            self._interrupted = True
            self.check_now()
            await asyncio.sleep(POLL_INTERVAL)

    # -- reachability

    async def _check_forever(self) -> None:
        """Check whether the engine answers, and update the deployments that wait for it."""
        while True:
            self._check_wanted.clear()
            await self._check()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pool_view.check_interval(self)):
                    await self._check_wanted.wait()

    async def _check(self) -> None:
        try:
            async with self._pool_view.check_slot(self):
                # While the stream of events is the one of the last check, the daemon has not restarted since then.
                stream = self._stream
                identity = await self.engine.identify(same_run=stream is not None and stream is self._checked_stream)
                self._checked_stream = stream
        except RolloutError as error:
            await self._mark_unreachable(error)
        else:
            await self._mark_reachable(identity)

    async def _mark_unreachable(self, error: RolloutError) -> None:
        if self.error is None:
            _LOG.warning("The Docker Engine does not answer", host=self.address, error=str(error))
        self.error = str(error)
        known = self.identity
        self._pool_view.changed(self, known)
        where = "" if self.address in self.error else f"{self.address}: "
        reason = Reason(Code.ENGINE_UNREACHABLE, f"{where}{error}")
        async with transaction(self._pool) as connection:
            if self.server_id is not None:
                await servers.update_error(connection, self.server_id, self.error)
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
        before, was_reachable = self.identity, self.reachable
        if not was_reachable:
            _LOG.info("The Docker Engine answers", host=self.address, engine=identity.engine_id)
        # An engine that restarted between two checks is another run of the same engine.
        interrupted = self._interrupted or self._unrecorded or before is None or before.run != identity.run
        recovered = not was_reachable or interrupted
        if not recovered and before == identity and not self._pool_view.watches(self):
            return  # the gateway that watches it records that it answers
        self._interrupted = False
        self._unrecorded |= not was_reachable or before is None or before.engine_id != identity.engine_id
        self.identity, self.error = identity, None
        if not was_reachable or before != identity:
            self._pool_view.changed(self, before)
        seen = Seen(
            engine_id=identity.engine_id,
            server_id=self.server_id,
            name=identity.name,
            version=identity.version,
            platform=identity.platform,
            daemon=identity.daemon,
            swarm_manager=identity.swarm_manager,
            recovered=recovered,
        )
        if not recovered and before == identity:
            self._pool_view.record(seen)
            return
        try:
            await self._pool_view.record_now(seen)
        except BaseException:
            self._interrupted |= recovered  # the waiting deployments were not woken: the next check tries again
            raise
        if self._unrecorded:
            self._unrecorded = False
            self._pool_view.changed(self, identity)
