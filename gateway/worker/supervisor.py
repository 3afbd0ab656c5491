"""Starts and stops the executions of deployments on the engines that this gateway reaches, and renews their leases.

A gateway takes a slot before it claims a deployment. A deployment for which it has no slot stays in the queue, where
other gateways can claim it. One heartbeat renews all leases. When another gateway has taken a deployment over, its
execution here is stopped at once.

On shutdown the gateway claims no more, gives running rollouts the grace period, and then cancels them: each puts back
what it has begun, and its deployment waits for the next gateway.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

import aiojobs
import structlog

from gateway.background import POLL_INTERVAL, BackgroundTasks, cancel_and_wait
from gateway.config import Settings
from gateway.docker.engine.client import Engine
from gateway.docker.runtime import Timeouts
from gateway.gates import catalog
from gateway.model.deployments import LeaseLost
from gateway.model.errors import Unavailable
from gateway.registry.client import RegistryClient
from gateway.store import applications, cancellations, leases, outbox, pulled_images, queue, releases, servers, watches
from gateway.store.database import Connection, Pool, listen, share, statement
from gateway.store.encryption import Vault
from gateway.store.engines import Place
from gateway.store.rollout_journal import PostgresJournal
from gateway.worker.alerts import AlertSink, send_alerts
from gateway.worker.engine_pool import EnginePool
from gateway.worker.engine_worker import Claimed, EngineWorker, PeriodicTask
from gateway.worker.execution import Execution, ExecutionContext
from gateway.worker.label_discovery import LOOK_INTERVAL, LabelDiscovery
from gateway.worker.login_renewal import RENEW_INTERVAL, renew_logins
from gateway.worker.outbox import OutboxWorker
from gateway.worker.releases import ReleaseCoordinator
from gateway.worker.retention import begin_part_if_full, prune_expired, prune_inbox
from gateway.worker.rollout_monitor import CHECK_INTERVAL, RolloutMonitor
from gateway.worker.state_monitor import OBSERVE_INTERVAL, StateMonitor
from gateway.worker.traces import Traces
from gateway.worker.version_retention import (
    PRUNE_INTERVAL,
    REMOVE_IMAGES_INTERVAL,
    prune_kept_versions,
    remove_unused_images,
)

_LOG = structlog.get_logger()

_RESERVED = 3  # connections that neither rollouts nor periodic tasks use
_CALL_MARGIN = 5.0  # seconds
_DAY = 86_400.0  # seconds
_RETENTION_INTERVAL = 600.0  # seconds
_PART_CHECKS = 10  # in each such interval
# Seconds that a cancelled rollout may take beyond the grace period: it stops one container and starts another.
PUT_BACK_DEADLINE = 60.0


@dataclass(frozen=True, slots=True)
class _RunningExecution:
    job: aiojobs.Job[None]
    execution: Execution


class Supervisor:
    """Runs the deployments of the engines that this gateway reaches. Created by `supervise`."""

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
            limit=None, close_timeout=PUT_BACK_DEADLINE, exception_handler=_log_unexpected
        )
        self._running: dict[str, _RunningExecution] = {}
        self._draining = False
        #: stops of executions that another gateway has taken over
        self._stopping_tasks: set[asyncio.Task[None]] = set()
        self._renew_now = asyncio.Event()
        timeouts = Timeouts(
            stable_window=settings.stable_window,
            health_deadline=settings.health_deadline,
            pull_stall=settings.pull_stall,
            call_margin=min(_CALL_MARGIN, settings.lease),
            kept_for=settings.kept_days * _DAY,
        )
        # However many engines and rollouts there are, claims and heartbeats get a connection.
        work_pool = share(pool, max(1, settings.database_connections - _RESERVED))
        self.context = ExecutionContext(work_pool, vault, registry, settings, timeouts, alerts, catalog.GATES)
        if settings.otlp_endpoint is not None:
            self.context.traces = Traces(work_pool, settings)
        monitor = RolloutMonitor(work_pool, vault, timeouts, alerts)
        periodic_tasks = [
            PeriodicTask("watch", CHECK_INTERVAL, monitor.check_windows, find=monitor.find_open),
            PeriodicTask(
                "observation", OBSERVE_INTERVAL, StateMonitor(work_pool, vault, alerts).observe, on_events=True
            ),
            PeriodicTask(
                "kept versions",
                PRUNE_INTERVAL,
                partial(prune_kept_versions, work_pool, vault, timeouts),
                find=self._finding(applications.select_places),
            ),
            PeriodicTask(
                "images",
                REMOVE_IMAGES_INTERVAL,
                partial(remove_unused_images, work_pool),
                find=self._finding(pulled_images.select_places),
            ),
            PeriodicTask("logins of services", RENEW_INTERVAL, partial(renew_logins, work_pool, vault, registry)),
        ]
        if settings.discovers:
            discovery = LabelDiscovery(work_pool, vault, watchtower="watchtower" in settings.discovers)
            periodic_tasks.append(PeriodicTask("labels", LOOK_INTERVAL, discovery.look, on_events=True))
        self.releases = ReleaseCoordinator(work_pool, alerts)
        self.background_tasks = background_tasks
        self.engine_pool = EnginePool(
            pool,
            vault,
            settings,
            engine,
            roll_out=self._start,
            periodic_tasks=periodic_tasks,
            running_ids=self._running.keys(),
            background_tasks=background_tasks,
        )
        self.outbox = OutboxWorker(work_pool, vault, registry, settings, self.engine_pool.owner)
        self._acts_when_woken: list[Callable[[], None]] = []

    def _finding(
        self, select: Callable[[Connection], Awaitable[Collection[Place]]]
    ) -> Callable[[], Awaitable[Collection[Place]]]:
        """Return a function that asks the database once for all engines."""

        async def find() -> Collection[Place]:
            async with statement(self._pool) as connection:
                return await select(connection)

        return find

    @property
    def engines(self) -> Sequence[EngineWorker]:
        return self.engine_pool.workers

    def wake(self) -> None:
        """Look for deployments to claim."""
        self.engine_pool.wake()
        for act in self._acts_when_woken:
            act()

    def when_woken(self, act: Callable[[], None], /) -> None:
        """Call this each time that a deployment was queued, by this gateway or another one."""
        self._acts_when_woken.append(act)

    # -- loops

    async def renew_leases_forever(self) -> None:
        """Renew the leases, stop executions that another gateway has taken over, and cancel those to be cancelled."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._renew_now.wait(), self._settings.lease / 3)
            self._renew_now.clear()
            held = {key: run.execution.deployment.epoch for key, run in self._running.items()}
            # No transaction around these statements: the first one locks the rows that all running rollouts write to.
            async with statement(self._pool) as connection:
                owned = await leases.renew_leases(connection, self.engine_pool.owner, held) if held else {}
                if await leases.select_overlong(connection):  # hardly ever
                    await leases.shorten_leases(connection)
                    await watches.shorten_watches(connection)
            for deployment_id in (one for one, cancelled in owned.items() if cancelled):
                if run := self._running.get(deployment_id):
                    run.execution.cancel()
            for deployment_id in set(held) - owned.keys():
                run = self._running.get(deployment_id)
                if run is not None and run.execution.deployment.epoch == held[deployment_id]:
                    _LOG.warning("Another gateway has taken over", deployment=deployment_id)
                    self._stop_lost(run)

    def _stop_lost(self, run: _RunningExecution) -> None:
        """Stop an execution whose lease is lost, without holding up the heartbeat."""
        run.execution.journal.lost = True
        task = asyncio.create_task(self._close_lost(run))
        self._stopping_tasks.add(task)
        task.add_done_callback(self._stopping_tasks.discard)

    async def _close_lost(self, run: _RunningExecution) -> None:
        deployment_id = run.execution.deployment.deployment_id
        try:
            await run.job.close(timeout=POLL_INTERVAL)
        except TimeoutError:
            _LOG.warning("A rollout that another gateway has taken over is slow to stop", deployment=deployment_id)
        except Exception:
            _LOG.exception("A rollout that another gateway has taken over failed to stop", deployment=deployment_id)

    async def listen_forever(self) -> None:
        handlers = {
            queue.CHANNEL: self.wake,
            servers.CHANNEL: self.engine_pool.refresh,
            cancellations.CHANNEL: self._renew_now.set,
            releases.CHANNEL: self.releases.wake,
            outbox.CHANNEL: self.outbox.wake,
        }
        async with listen(self._pool, handlers) as (connection, closed), self.engine_pool.member(connection):
            self.wake()
            self.releases.wake()
            self.engine_pool.refresh()
            await closed.wait()
        raise Unavailable("the connection that listens for notifications was lost")

    async def prune_forever(self) -> None:
        """Prune expired rows every ten minutes, and the inbox as soon as one of its parts is full."""
        while True:
            await prune_expired(self._pool, self._settings)
            for _ in range(_PART_CHECKS):
                await asyncio.sleep(_RETENTION_INTERVAL / _PART_CHECKS)
                if await begin_part_if_full(self._pool, self._settings):
                    await prune_inbox(self._pool, self._settings.inbox_megabytes * 1024**2)

    # -- one deployment

    async def _start(self, claimed: Claimed) -> None:
        """Start to execute a claimed deployment, without waiting for its end."""
        # As after each renewal, at least half of the lease must be left for a call to the engine.
        sure_until = claimed.claimed_at + self._settings.lease / 2
        journal = PostgresJournal(self.context.pool, self.context.vault, claimed.deployment, sure_until=sure_until)
        execution = Execution(self.context, claimed, journal)
        if self._draining:  # it was claimed while the gateway began to stop
            claimed.release()
            await execution.give_back()
            return
        job = await self._scheduler.spawn(self._execute(execution))
        if not job.closed:
            self._running[claimed.deployment.deployment_id] = _RunningExecution(job, execution)

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
            self._running.pop(deployment.deployment_id, None)
            execution.claimed.release()

    # -- the way out

    async def drain(self) -> None:
        """Claim no more, and give running rollouts the grace period to finish."""
        self._draining = True
        self.engine_pool.retire()
        running = [run.job.wait() for run in self._running.values()]
        if running:
            _LOG.info("Draining", rollouts=len(running), grace=self._settings.shutdown_grace)
            await asyncio.wait([asyncio.ensure_future(job) for job in running], timeout=self._settings.shutdown_grace)

    async def cancel_running(self) -> None:
        """Cancel what still runs; each rollout puts back what it has begun."""
        await self._scheduler.close()
        for run in list(self._running.values()):
            if not run.execution.started:  # it was cancelled before its first step
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
    """Run deployments until the block is left; then drain, and cancel what still runs."""
    urls = settings.alert_urls.get_secret_value() if settings.alert_urls else ""
    async with AsyncExitStack() as stack:
        background_tasks = background_tasks or BackgroundTasks()
        alerts = await stack.enter_async_context(send_alerts(urls, background_tasks))
        supervisor = Supervisor(
            pool, vault, engine, registry, settings=settings, alerts=alerts, background_tasks=background_tasks
        )
        await stack.enter_async_context(supervisor.engine_pool.running())
        tasks = [
            background_tasks.start("notifications", supervisor.listen_forever),
            background_tasks.start("heartbeat", supervisor.renew_leases_forever),
            background_tasks.start("retention", supervisor.prune_forever),
            background_tasks.start("releases", supervisor.releases.advance_forever),
            background_tasks.start("outbox", supervisor.outbox.deliver_forever),
            background_tasks.start("bounds of the outbox", supervisor.outbox.keep_bounds_forever),
        ]
        if (traces := supervisor.context.traces) is not None:
            tasks.append(background_tasks.start("traces", traces.send_all))
        try:
            yield supervisor
        finally:
            await supervisor.drain()
            await supervisor.cancel_running()
            await cancel_and_wait(*tasks)


def _log_unexpected(_scheduler: aiojobs.Scheduler, context: dict[str, object]) -> None:
    _LOG.error("A rollout ended without a recorded outcome", exc_info=context.get("exception"))
