"""Sees to it that each deployment is rolled out: claims, bounds, runs, records. It owns every task.

A gateway takes a slot, then claims a row; so what it cannot work on stays in the queue for others. The leases
are renewed by one heartbeat, and what it finds taken is stopped at once and touches nothing more.

On the way out, in this order: no more claims; running rollouts get the grace; then they are cut, put back what
they had begun, and their rows wait for the next gateway.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

import aiojobs
import structlog

from gateway.background import POLL_INTERVAL, BackgroundTasks, cancel_and_wait
from gateway.config import Settings
from gateway.docker.engine.client import Engine
from gateway.docker.runtime import Timeouts
from gateway.model.deployments import LeaseLost
from gateway.model.errors import (
    Unavailable,
)
from gateway.registry.client import RegistryClient
from gateway.store import cancellations, leases, queue, servers, watches
from gateway.store.database import Pool, listen, transaction
from gateway.store.encryption import Vault
from gateway.store.rollout_journal import PostgresJournal
from gateway.worker.alerts import AlertSink, sending
from gateway.worker.engine_pool import EnginePool
from gateway.worker.engine_worker import Claimed, EngineWorker, PeriodicTask
from gateway.worker.execution import Execution, ExecutionContext
from gateway.worker.login_renewal import RENEW_EVERY, renew_logins
from gateway.worker.retention import clean
from gateway.worker.rollout_monitor import LOOK_EVERY, RolloutMonitor
from gateway.worker.state_monitor import OBSERVE_EVERY, StateMonitor
from gateway.worker.version_retention import IMAGES_EVERY, PRUNE_EVERY, prune_kept_versions, remove_images

_LOG = structlog.get_logger()

_CALL_MARGIN = 5.0  # seconds
_DAY = 86_400.0  # seconds
_CLEAN_EVERY = 600.0  # seconds
# A rollout that is cut has to stop one container and start another: seconds it may take beyond the grace.
PUT_BACK_DEADLINE = 60.0


@dataclass(frozen=True, slots=True)
class _Run:
    job: aiojobs.Job[None]
    execution: Execution


class Supervisor:
    """Runs the deployments of the engines this gateway reaches. Made by `supervise`."""

    def __init__(
        self,
        pool: Pool,
        vault: Vault,
        engine: Engine,
        registry: RegistryClient,
        *,
        settings: Settings,
        alerts: AlertSink,
        background_tasks: BackgroundTasks,
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._scheduler = aiojobs.Scheduler(
            limit=None, close_timeout=PUT_BACK_DEADLINE, exception_handler=_log_unforeseen
        )
        self._runs: dict[str, _Run] = {}
        self._draining = False
        #: what was taken over by another gateway, until it has stopped here
        self._stopping: set[asyncio.Task[None]] = set()
        self._beat = asyncio.Event()
        timeouts = Timeouts(
            stable_window=settings.stable_window,
            health_deadline=settings.health_deadline,
            pull_stall=settings.pull_stall,
            call_margin=min(_CALL_MARGIN, settings.lease),
            kept_for=settings.kept_days * _DAY,
        )
        self.context = ExecutionContext(pool, vault, registry, settings, timeouts, alerts)
        periodic_tasks = [
            PeriodicTask("watch", LOOK_EVERY, RolloutMonitor(pool, vault, timeouts, alerts).look),
            PeriodicTask("observation", OBSERVE_EVERY, StateMonitor(pool, vault, alerts).observe, on_events=True),
            PeriodicTask("kept versions", PRUNE_EVERY, partial(prune_kept_versions, pool, vault, timeouts)),
            PeriodicTask("images", IMAGES_EVERY, partial(remove_images, pool)),
            PeriodicTask("logins of services", RENEW_EVERY, partial(renew_logins, pool, vault, registry)),
        ]
        self.background_tasks = background_tasks
        self.engine_pool = EnginePool(
            pool,
            vault,
            settings,
            engine,
            roll_out=self._begin,
            periodic_tasks=periodic_tasks,
            running_ids=self._runs.keys(),
            background_tasks=background_tasks,
        )

    @property
    def engines(self) -> Sequence[EngineWorker]:
        return self.engine_pool.workers

    def wake(self) -> None:
        """There may be something to claim."""
        self.engine_pool.wake()

    # -- loops

    async def renew_leases_forever(self) -> None:
        """Renew the leases, and stop what is no longer ours, or wanted; at once when told that there is such."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._beat.wait(), self._settings.lease / 3)
            self._beat.clear()
            held = {key: run.execution.deployment.epoch for key, run in self._runs.items()}
            async with transaction(self._pool) as connection:
                ours = await leases.renew_leases(connection, self.engine_pool.owner, held) if held else {}
                await leases.shorten_leases(connection)
                await watches.shorten_watches(connection)
            for deployment_id in (one for one, cancelled in ours.items() if cancelled):
                if run := self._runs.get(deployment_id):
                    run.execution.cancel()
            for deployment_id in set(held) - ours.keys():
                run = self._runs.get(deployment_id)
                if run is not None and run.execution.deployment.epoch == held[deployment_id]:
                    _LOG.warning("Another gateway has taken over", deployment=deployment_id)
                    self._stop(run)

    def _stop(self, run: _Run) -> None:
        """Stop what is no longer ours; the heartbeat of the others does not wait for it."""
        run.execution.journal.lost = True
        task = asyncio.create_task(self._close(run))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def _close(self, run: _Run) -> None:
        deployment_id = run.execution.deployment.deployment_id
        try:
            await run.job.close(timeout=POLL_INTERVAL)
        except TimeoutError:
            _LOG.warning("A rollout that was taken over stops slowly", deployment=deployment_id)
        except Exception:
            _LOG.exception("A rollout that was taken over ended badly", deployment=deployment_id)

    async def listen_forever(self) -> None:
        heard = {
            queue.CHANNEL: self.wake,
            servers.CHANNEL: self.engine_pool.refresh,
            cancellations.CHANNEL: self._beat.set,
        }
        async with listen(self._pool, heard) as closed:
            self.wake()
            self.engine_pool.refresh()
            await closed.wait()
        raise Unavailable("the connection that listens was lost")

    async def prune_forever(self) -> None:
        """Keep within bounds what grows."""
        while True:
            await clean(self._pool, self._settings)
            await asyncio.sleep(_CLEAN_EVERY)

    # -- one deployment

    async def _begin(self, claimed: Claimed) -> None:
        """Start to execute a claimed deployment, without waiting for its end."""
        execution = Execution(self.context, claimed, PostgresJournal(self._pool, claimed.deployment))
        if self._draining:  # it was being claimed just then
            claimed.release()
            await execution.give_back()
            return
        job = await self._scheduler.spawn(self._execute(execution))
        if not job.closed:
            self._runs[claimed.deployment.deployment_id] = _Run(job, execution)

    async def _execute(self, execution: Execution) -> None:
        deployment = execution.deployment
        structlog.contextvars.bind_contextvars(
            deployment=deployment.deployment_id,
            application=deployment.application_id,
            host=execution.claimed.worker.address,
        )
        try:
            await execution.execute()
        except LeaseLost:
            _LOG.warning("Another gateway has taken over")
        finally:
            self._runs.pop(deployment.deployment_id, None)
            execution.claimed.release()

    # -- the way out

    async def drain(self) -> None:
        """Claim no more, and give what runs the grace to finish."""
        self._draining = True
        self.engine_pool.retire()
        running = [run.job.wait() for run in self._runs.values()]
        if running:
            _LOG.info("Draining", rollouts=len(running), grace=self._settings.shutdown_grace)
            await asyncio.wait([asyncio.ensure_future(job) for job in running], timeout=self._settings.shutdown_grace)

    async def cut(self) -> None:
        """End what still runs; each puts back what it had begun."""
        await self._scheduler.close()
        for run in list(self._runs.values()):
            if not run.execution.started:  # it was cut before its first step
                await run.execution.give_back()


@asynccontextmanager
async def supervise(
    pool: Pool,
    vault: Vault,
    engine: Engine,
    registry: RegistryClient,
    settings: Settings,
    *,
    background_tasks: BackgroundTasks | None = None,
) -> AsyncIterator[Supervisor]:
    """Run deployments until the block is left; then drain, cut, and put back, in that order."""
    urls = settings.alert_urls.get_secret_value() if settings.alert_urls else ""
    async with AsyncExitStack() as stack:
        background_tasks = background_tasks or BackgroundTasks()
        alerts = await stack.enter_async_context(sending(urls, background_tasks))
        supervisor = Supervisor(
            pool, vault, engine, registry, settings=settings, alerts=alerts, background_tasks=background_tasks
        )
        await stack.enter_async_context(supervisor.engine_pool.running())
        tasks = [
            background_tasks.start("notifications", supervisor.listen_forever),
            background_tasks.start("heartbeat", supervisor.renew_leases_forever),
            background_tasks.start("retention", supervisor.prune_forever),
        ]
        try:
            yield supervisor
        finally:
            await supervisor.drain()
            await supervisor.cut()
            await cancel_and_wait(*tasks)


def _log_unforeseen(_scheduler: aiojobs.Scheduler, context: dict[str, object]) -> None:
    _LOG.error("A rollout ended unrecorded", exc_info=context.get("exception"))
