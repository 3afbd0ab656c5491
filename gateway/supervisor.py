"""Sees to it that each deployment is rolled out: claims, bounds, runs, records. It owns every task.

A gateway takes a slot, then claims a row; so what it cannot work on stays in the queue for others. The leases
are renewed by one heartbeat, and what it finds taken is stopped at once and touches nothing more.

On the way out, in this order: no more claims; running rollouts get the grace; then they are cut, put back what
they had begun, and their rows wait for the next gateway.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

import aiojobs
import structlog

from gateway import lane
from gateway.config import Settings
from gateway.deployments import Deployment, LeaseLost, Outcome, Status
from gateway.engine.client import Engine, EngineIdentity
from gateway.errors import Code, Postponed, Reason, RolloutError, Unavailable
from gateway.metrics import ROLLOUTS, STEPS
from gateway.registry.client import RegistryClient
from gateway.rollout import Means, roll_out
from gateway.store import claims, deliveries, deployments, engines
from gateway.store.database import LOST, Pool, listen, transaction
from gateway.store.journal import PostgresJournal
from gateway.store.vault import Vault
from gateway.swap import Pace

_LOG = structlog.get_logger()

_LOOK_AGAIN = 1.0  # seconds; a notification comes sooner, this is for rows whose time has come
_ENGINE_LOOK = 5.0  # seconds between looks at an engine that answers
_CALL_MARGIN = 5.0  # seconds
_SWEEP = 600.0  # seconds between cleanings of the inbox
# A rollout that is cut has to stop one container and start another: seconds it may take beyond the grace.
PUT_BACK_DEADLINE = 60.0


@dataclass(slots=True)
class EngineState:
    """What is known of the engine: its identity once it has answered, and why it does not."""

    host: str
    identity: EngineIdentity | None = None
    error: str | None = None

    @property
    def reachable(self) -> bool:
        return self.identity is not None and self.error is None


@dataclass(slots=True)
class _Run:
    job: aiojobs.Job[None]
    deployment: Deployment
    journal: PostgresJournal


class Supervisor:
    """Runs the deployments of one engine. Made by `supervise`."""

    def __init__(self, pool: Pool, vault: Vault, engine: Engine, registry: RegistryClient, settings: Settings) -> None:
        self._pool = pool
        self._vault = vault
        self._engine = engine
        self._registry = registry
        self._settings = settings
        self._owner = str(uuid4())
        self._slots = asyncio.Semaphore(settings.rollouts)
        self._swaps = asyncio.Semaphore(settings.swaps)
        self._wanted = asyncio.Event()
        self._runs: dict[str, _Run] = {}
        self._stopping = False
        self.engine = EngineState(settings.docker_host)

    def wake(self) -> None:
        """There may be something to claim."""
        self._wanted.set()

    # -- loops

    async def claim_for_ever(self, scheduler: aiojobs.Scheduler) -> None:
        while not self._stopping:
            self._wanted.clear()
            while self.engine.reachable and await self._claim_one(scheduler):
                pass
            try:
                async with asyncio.timeout(_LOOK_AGAIN):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def _claim_one(self, scheduler: aiojobs.Scheduler) -> bool:
        """Return whether there was one to claim."""
        identity = self.engine.identity
        if identity is None:
            return False
        await self._slots.acquire()
        deployment = None
        try:
            if not self._stopping:
                deployment = await lane.claim(
                    self._pool,
                    owner=self._owner,
                    engine_id=identity.engine_id,
                    lease=self._settings.lease,
                )
        finally:
            if deployment is None:
                self._slots.release()
        if deployment is None:
            return False
        journal = PostgresJournal(self._pool, deployment)
        job = await scheduler.spawn(self._run(deployment, journal, identity.platform))
        if not job.closed:
            self._runs[deployment.deployment_id] = _Run(job, deployment, journal)
        return True

    async def beat_for_ever(self) -> None:
        """Renew the leases, and stop what is no longer ours."""
        while True:
            await asyncio.sleep(self._settings.lease / 3)
            held = {run.deployment.deployment_id: run.deployment.epoch for run in self._runs.values()}
            if not held:
                continue
            async with transaction(self._pool) as connection:
                ours = await claims.renew_leases(connection, self._owner, held)
            for deployment_id in set(held) - ours:
                run = self._runs.get(deployment_id)
                if run is not None and run.deployment.epoch == held[deployment_id]:
                    _LOG.warning("Another gateway has taken over", deployment=deployment_id)
                    run.journal.lost = True
                    await run.job.close(timeout=_LOOK_AGAIN)

    async def watch_engine_for_ever(self) -> None:
        """Keep knowing whether the engine answers, and tell those that wait for it."""
        while True:
            try:
                identity = await self._engine.identify()
            except RolloutError as error:
                if self.engine.error is None:
                    _LOG.warning("The Docker Engine does not answer", host=self.engine.host, error=str(error))
                self.engine.error = str(error)
                await self._tell_waiting(error.reason)
            else:
                if not self.engine.reachable:
                    _LOG.info("The Docker Engine answers", host=self.engine.host, engine=identity.engine_id)
                async with transaction(self._pool) as connection:
                    await engines.upsert_engine(
                        connection,
                        engine_id=identity.engine_id,
                        name=identity.name,
                        version=identity.version,
                        platform=identity.platform,
                    )
                self.engine.identity, self.engine.error = identity, None
                self.wake()
            await asyncio.sleep(_ENGINE_LOOK if self.engine.reachable else _LOOK_AGAIN)

    async def _tell_waiting(self, reason: Reason) -> None:
        known = self.engine.identity.engine_id if self.engine.identity else None
        async with transaction(self._pool) as connection:
            await claims.mark_waiting(connection, known, reason)

    async def listen_for_ever(self) -> None:
        async with listen(self._pool, deployments.CHANNEL, self.wake) as closed:
            self.wake()
            await closed.wait()
        raise Unavailable("the connection that listens was lost")

    async def sweep_for_ever(self) -> None:
        """Keep the inbox bounded."""
        while True:
            async with transaction(self._pool) as connection:
                await deliveries.delete_old_deliveries(connection, timedelta(days=self._settings.inbox_days))
            await asyncio.sleep(_SWEEP)

    # -- one deployment

    async def _run(self, deployment: Deployment, journal: PostgresJournal, platform: str) -> None:
        structlog.contextvars.bind_contextvars(
            deployment=deployment.deployment_id, application=deployment.application_id
        )
        try:
            await self._attempt(deployment, journal, platform)
        except LeaseLost:
            _LOG.warning("Another gateway has taken over")
        finally:
            self._runs.pop(deployment.deployment_id, None)
            self._slots.release()
            self.wake()

    async def _attempt(self, deployment: Deployment, journal: PostgresJournal, platform: str) -> None:
        pace = Pace(
            stable_window=self._settings.stable_window,
            health_deadline=self._settings.health_deadline,
            pull_stall=self._settings.pull_stall,
            call_margin=min(_CALL_MARGIN, self._settings.lease),
        )
        means = Means(self._engine, platform, self._registry, self._swaps, pace)
        try:
            task, left_open, caused_by = await lane.prepare(self._pool, self._vault, deployment)
            structlog.contextvars.bind_contextvars(deliveries=caused_by)
            _LOG.info("Rolling out", kind=deployment.kind, attempt=deployment.attempts)
            outcome = await roll_out(means, task, journal, left_open)
        except Postponed as error:
            await self._postpone(deployment, journal, error)
        except Unavailable as error:
            await self._postpone(deployment, journal, Postponed(Code.INTERNAL, str(error)))
        except asyncio.CancelledError:
            if not journal.lost:
                cut = Postponed(Code.GATEWAY_STOPPED, "the gateway was stopped during the rollout")
                await self._postpone(deployment, journal, cut)
            raise
        except LeaseLost:
            raise
        except Exception:
            _LOG.exception("A rollout failed on a defect")
            reason = Reason(Code.INTERNAL, "the rollout failed on a defect of the gateway")
            await self._conclude(deployment, journal, Outcome(Status.FAILED, reason))
        else:
            await self._conclude(deployment, journal, outcome)

    async def _conclude(self, deployment: Deployment, journal: PostgresJournal, outcome: Outcome) -> None:
        await self._until_written(lambda: lane.conclude(self._pool, deployment, journal, outcome))
        ROLLOUTS.labels(deployment.kind, outcome.status).inc()
        for record in journal.ended:
            STEPS.labels(record.step, outcome.status).observe(record.seconds)
        _LOG.info(
            "Rolled out",
            outcome=outcome.status,
            digest=outcome.digest,
            reason=outcome.reason.message if outcome.reason else None,
        )

    async def _postpone(self, deployment: Deployment, journal: PostgresJournal, error: Postponed) -> None:
        _LOG.info("Postponed", code=error.reason.code, reason=str(error))
        deadline = self._settings.retry_deadline
        await self._until_written(lambda: lane.postpone(self._pool, deployment, journal, error, deadline=deadline))

    async def _until_written(self, write: Callable[[], Awaitable[object]]) -> None:
        """Record what has happened, however long the database is away; what happened does not change."""
        while True:
            try:
                await write()
            except Unavailable:
                _LOG.warning("The outcome waits for the database")
                await asyncio.sleep(_LOOK_AGAIN)
            else:
                return

    # -- the way out

    async def drain(self) -> None:
        """Claim no more, and give what runs the grace to finish."""
        self._stopping = True
        self.wake()
        running = [run.job.wait() for run in self._runs.values()]
        if running:
            _LOG.info("Draining", rollouts=len(running), grace=self._settings.shutdown_grace)
            await asyncio.wait([asyncio.ensure_future(job) for job in running], timeout=self._settings.shutdown_grace)


@asynccontextmanager
async def supervise(
    pool: Pool, vault: Vault, engine: Engine, registry: RegistryClient, settings: Settings
) -> AsyncIterator[Supervisor]:
    """Run deployments until the block is left; then drain, cut, and put back, in that order."""
    supervisor = Supervisor(pool, vault, engine, registry, settings)
    scheduler = aiojobs.Scheduler(limit=None, close_timeout=PUT_BACK_DEADLINE, exception_handler=_log_unforeseen)
    loops = [
        asyncio.create_task(_for_ever(loop), name=loop.__name__)
        for loop in (
            supervisor.watch_engine_for_ever,
            supervisor.listen_for_ever,
            supervisor.beat_for_ever,
            supervisor.sweep_for_ever,
        )
    ]
    claiming = asyncio.create_task(_for_ever(supervisor.claim_for_ever, scheduler), name="claim")
    try:
        yield supervisor
    finally:
        await supervisor.drain()
        claiming.cancel()
        await scheduler.close()
        for task in loops:
            task.cancel()
        await asyncio.gather(claiming, *loops, return_exceptions=True)


async def _for_ever(loop: Callable[..., Awaitable[None]], *arguments: object) -> None:
    """Begin again what the database's absence, or a defect, has ended; a supervisor has no other way."""
    while True:
        try:
            await loop(*arguments)
        except (Unavailable, *LOST) as error:
            _LOG.warning("Waiting for the database", error=str(error))
        except Exception:
            _LOG.exception("A loop of the supervisor failed")
        else:
            return
        if (task := asyncio.current_task()) is not None and task.cancelling():
            return  # a failure on the way out must not begin again
        await asyncio.sleep(_LOOK_AGAIN)


def _log_unforeseen(_scheduler: aiojobs.Scheduler, context: dict[str, object]) -> None:
    _LOG.error("A rollout ended unrecorded", exc_info=context.get("exception"))
