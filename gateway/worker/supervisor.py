"""Sees to it that each deployment is rolled out: claims, bounds, runs, records. It owns every task.

A gateway takes a slot, then claims a row; so what it cannot work on stays in the queue for others. The leases
are renewed by one heartbeat, and what it finds taken is stopped at once and touches nothing more.

On the way out, in this order: no more claims; running rollouts get the grace; then they are cut, put back what
they had begun, and their rows wait for the next gateway.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import aiojobs
import structlog

from gateway.admin.adoption import adopt_anew
from gateway.background import POLL_INTERVAL, BackgroundTasks, cancel_and_wait
from gateway.config import Settings
from gateway.docker.engine.client import Engine
from gateway.docker.runtime import Pace
from gateway.model.deployments import Deployment, Kind, LeaseLost, Outcome, Status, Step, Swap
from gateway.model.errors import (
    Code,
    Conflict,
    DatabaseUnavailable,
    Failed,
    InvalidInput,
    Postponed,
    Reason,
    Unavailable,
)
from gateway.registry.client import RegistryClient
from gateway.rollout.attempt import Means, Task
from gateway.rollout.recipes import roll_out
from gateway.store import cancellations, deployments, leases, servers, watches
from gateway.store.database import Pool, listen, transaction
from gateway.store.encryption import Vault
from gateway.store.rollout_journal import PostgresJournal
from gateway.worker import execution
from gateway.worker.alerts import Alert, Tells, sending
from gateway.worker.engine_pool import Fleet
from gateway.worker.engine_worker import Claimed, Duty, Host
from gateway.worker.login_renewal import RENEW_EVERY, renew_logins
from gateway.worker.metrics import ROLLOUTS, STEPS
from gateway.worker.retention import clean
from gateway.worker.rollout_monitor import LOOK_EVERY, Lookout
from gateway.worker.state_monitor import OBSERVE_EVERY, Observer
from gateway.worker.version_retention import IMAGES_EVERY, SWEEP_EVERY, expire_kept, remove_images

_LOG = structlog.get_logger()

T = TypeVar("T")

_CALL_MARGIN = 5.0  # seconds
_DAY = 86_400.0  # seconds
_CLEAN_EVERY = 600.0  # seconds
_LAST_WORDS = 5.0  # seconds for rows that were claimed on the way out
_MOST_DEFECTS = 3  # attempts that end on one before the deployment does
# Gateways that fell silent in the middle of a deployment: then it is only put back, and in the end left alone.
_MOST_TAKEOVERS = 5
_MOST_SETTLINGS = 3
# A rollout that is cut has to stop one container and start another: seconds it may take beyond the grace.
PUT_BACK_DEADLINE = 60.0


@dataclass(slots=True)
class _Run:
    job: aiojobs.Job[None]
    deployment: Deployment
    journal: PostgresJournal
    begun: bool = False


class _Cancelled(Exception):
    """Somebody does not want it any more; what was begun is put back as far as could be."""


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
        alerts: Tells,
        background_tasks: BackgroundTasks,
    ) -> None:
        self._pool = pool
        self._vault = vault
        self._registry = registry
        self._settings = settings
        self._scheduler = aiojobs.Scheduler(
            limit=None, close_timeout=PUT_BACK_DEADLINE, exception_handler=_log_unforeseen
        )
        self._runs: dict[str, _Run] = {}
        self._draining = False
        #: what was taken over by another gateway, until it has stopped here
        self._stopping: set[asyncio.Task[None]] = set()
        #: what cancels a rollout under way, until it has
        self._bounds: dict[str, asyncio.Timeout] = {}
        self._beat = asyncio.Event()
        self._alerts = alerts
        self._pace = Pace(
            stable_window=settings.stable_window,
            health_deadline=settings.health_deadline,
            pull_stall=settings.pull_stall,
            call_margin=min(_CALL_MARGIN, settings.lease),
            kept_for=settings.kept_days * _DAY,
        )
        duties = [
            Duty("watch", LOOK_EVERY, Lookout(pool, vault, self._pace, alerts).look),
            Duty("observation", OBSERVE_EVERY, Observer(pool, vault, alerts).observe, on_events=True),
            Duty("kept versions", SWEEP_EVERY, partial(expire_kept, pool, vault, self._pace)),
            Duty("images", IMAGES_EVERY, partial(remove_images, pool)),
            Duty("logins of services", RENEW_EVERY, partial(renew_logins, pool, vault, registry)),
        ]
        self.background_tasks = background_tasks
        self.fleet = Fleet(
            pool,
            vault,
            settings,
            engine,
            roll_out=self._begin,
            duties=duties,
            held=self._runs.keys(),
            background_tasks=background_tasks,
        )

    @property
    def hosts(self) -> Sequence[Host]:
        return self.fleet.hosts

    def wake(self) -> None:
        """There may be something to claim."""
        self.fleet.wake()

    # -- loops

    async def beat_for_ever(self) -> None:
        """Renew the leases, and stop what is no longer ours, or wanted; at once when told that there is such."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._beat.wait(), self._settings.lease / 3)
            self._beat.clear()
            held = {run.deployment.deployment_id: run.deployment.epoch for run in self._runs.values()}
            async with transaction(self._pool) as connection:
                ours = await leases.renew_leases(connection, self.fleet.owner, held) if held else {}
                await leases.shorten_leases(connection)
                await watches.shorten_watches(connection)
            for deployment_id in (one for one, cancelled in ours.items() if cancelled):
                self._cancel(deployment_id)
            for deployment_id in set(held) - ours.keys():
                run = self._runs.get(deployment_id)
                if run is not None and run.deployment.epoch == held[deployment_id]:
                    _LOG.warning("Another gateway has taken over", deployment=deployment_id)
                    self._stop(run)

    def _stop(self, run: _Run) -> None:
        """Stop what is no longer ours; the heartbeat of the others does not wait for it."""
        run.journal.lost = True
        task = asyncio.create_task(self._close(run))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def _close(self, run: _Run) -> None:
        try:
            await run.job.close(timeout=POLL_INTERVAL)
        except TimeoutError:
            _LOG.warning("A rollout that was taken over stops slowly", deployment=run.deployment.deployment_id)
        except Exception:
            _LOG.exception("A rollout that was taken over ended badly", deployment=run.deployment.deployment_id)

    def _cancel(self, deployment_id: str) -> None:
        """Cancel a rollout; one that is proven is being committed, and succeeds."""
        run = self._runs.get(deployment_id)
        if run is None or run.journal.step is Step.COMMIT:
            return
        if bound := self._bounds.pop(deployment_id, None):
            bound.reschedule(0)

    async def listen_for_ever(self) -> None:
        heard = {
            deployments.CHANNEL: self.wake,
            servers.CHANNEL: self.fleet.look,
            cancellations.CHANNEL: self._beat.set,
        }
        async with listen(self._pool, heard) as closed:
            self.wake()
            self.fleet.look()
            await closed.wait()
        raise Unavailable("the connection that listens was lost")

    async def clean_for_ever(self) -> None:
        """Keep within bounds what grows."""
        while True:
            await clean(self._pool, self._settings)
            await asyncio.sleep(_CLEAN_EVERY)

    # -- one deployment

    async def _begin(self, claimed: Claimed) -> None:
        deployment = claimed.deployment
        journal = PostgresJournal(self._pool, deployment)
        if self._draining:  # it was being claimed just then
            claimed.release()
            await self._give_back(deployment, journal)
            return
        job = await self._scheduler.spawn(self._run(claimed, journal))
        if not job.closed:
            self._runs[deployment.deployment_id] = _Run(job, deployment, journal)

    async def _give_back(self, deployment: Deployment, journal: PostgresJournal) -> None:
        """Put back what was claimed and not begun, instead of letting it wait for the end of its lease."""
        with suppress(TimeoutError, LeaseLost):
            async with asyncio.timeout(_LAST_WORDS):
                await self._postpone(None, deployment, journal, _STOPPED)

    async def _run(self, claimed: Claimed, journal: PostgresJournal) -> None:
        deployment = claimed.deployment
        if run := self._runs.get(deployment.deployment_id):
            run.begun = True
        structlog.contextvars.bind_contextvars(
            deployment=deployment.deployment_id, application=deployment.application_id, host=claimed.host.host
        )
        try:
            await self._attempt(claimed, journal)
        except LeaseLost:
            _LOG.warning("Another gateway has taken over")
        finally:
            self._runs.pop(deployment.deployment_id, None)
            claimed.release()

    async def _attempt(self, claimed: Claimed, journal: PostgresJournal) -> None:
        deployment = claimed.deployment
        means = Means(
            claimed.host.engine,
            claimed.identity,
            self._registry,
            claimed.slots.swaps,
            self._pace,
            self._settings.progress_deadline,
            self._settings.registry_lag,
            lambda title, body: self._alerts.tell(Alert(title, body)),
        )
        task = None
        try:
            task, left_open, caused_by = await execution.prepare(self._pool, self._vault, deployment)
            structlog.contextvars.bind_contextvars(deliveries=caused_by)
            if deployment.takeovers >= _MOST_TAKEOVERS + _MOST_SETTLINGS:
                failed = Outcome(Status.FAILED, _killed(deployment))
                await self._conclude(task, deployment, journal, failed, settled=False)
                return
            if await self._adopted_anew(means, task, journal):
                task, left_open, _ = await execution.prepare(self._pool, self._vault, deployment)
            _LOG.info("Rolling out", kind=deployment.kind, attempt=deployment.attempts)
            outcome = await self._roll_out(means, task, journal, left_open)
        except Postponed as error:
            await self._postpone(task, deployment, journal, error)
        except Unavailable as error:
            code = Code.DATABASE_UNAVAILABLE if isinstance(error, DatabaseUnavailable) else Code.INTERNAL
            await self._postpone(task, deployment, journal, Postponed(code, str(error)))
        except asyncio.CancelledError:
            if not journal.lost:
                await self._postpone(task, deployment, journal, _STOPPED)
            raise
        except LeaseLost:
            raise
        except Exception:
            _LOG.exception("A rollout failed on a defect")
            await self._end_on_a_defect(task, deployment, journal)
        else:
            await self._conclude(task, deployment, journal, outcome)

    async def _end_on_a_defect(self, task: Task | None, deployment: Deployment, journal: PostgresJournal) -> None:
        """Try a few times more: the push was accepted. While a swap is open the times are those of the swap."""
        reason = Reason(Code.INTERNAL, "the rollout failed on a defect of the gateway")
        if deployment.defects + 1 < _MOST_DEFECTS or await self._until_written(
            lambda: execution.swap_is_open(self._pool, deployment)
        ):
            again = Postponed(reason.code, reason.message)
            await self._postpone(task, deployment, journal, again, defect=True)
        else:
            await self._conclude(task, deployment, journal, Outcome(Status.FAILED, reason))

    async def _adopted_anew(self, means: Means, task: Task, journal: PostgresJournal) -> bool:
        """Take over what compose has made anew, and tell so; what cannot be taken over is refused further on."""
        if task.deployment.kind is Kind.DELETE:
            return False
        try:
            told = await adopt_anew(self._pool, self._vault, means.engine, means.identity, task.application)
        except (Failed, Conflict, InvalidInput):
            return False
        if told is None:
            return False
        _LOG.warning("Compose made an adopted container anew", told=told)
        await journal.begin(Step.SETTLE, told)
        self._alerts.tell(Alert(f"{task.application.name}: adopted anew", told))
        return True

    async def _roll_out(self, means: Means, task: Task, journal: PostgresJournal, left_open: Swap | None) -> Outcome:
        """Roll it out; where it is cancelled meanwhile, settle what was begun as a next owner would."""
        if task.deployment.takeovers >= _MOST_TAKEOVERS:
            return await self._put_an_end(means, task, journal, left_open)
        if task.deployment.cancelled_at is None:
            try:
                async with self._cancellable(task.deployment.deployment_id):
                    return await roll_out(means, task, journal, left_open)
            except _Cancelled:
                _LOG.info("Cancelled")
            unwanted = replace(task.deployment, cancelled_at=datetime.now(UTC))
            task, left_open, _ = await execution.prepare(self._pool, self._vault, unwanted)
        return await roll_out(means, task, journal, left_open)

    async def _put_an_end(self, means: Means, task: Task, journal: PostgresJournal, left_open: Swap | None) -> Outcome:
        """End what each of its gateways died of: put back what was begun, as if it were not wanted any more."""
        unwanted = replace(task.deployment, cancelled_at=datetime.now(UTC))
        outcome = await roll_out(means, replace(task, deployment=unwanted), journal, left_open)
        if outcome.status is not Status.CANCELLED:
            return outcome
        put_back = left_open is not None and left_open.old is not None
        return Outcome(Status.ROLLED_BACK if put_back else Status.FAILED, _killed(task.deployment))

    @asynccontextmanager
    async def _cancellable(self, deployment_id: str) -> AsyncIterator[None]:
        """Let `_cancel` end what is done in the block; raises _Cancelled then."""
        bound = asyncio.timeout(None)
        try:
            async with bound:
                self._bounds[deployment_id] = bound
                try:
                    yield
                finally:
                    self._bounds.pop(deployment_id, None)
        except TimeoutError as error:
            if bound.expired():
                raise _Cancelled from error
            raise

    async def _conclude(
        self,
        task: Task | None,
        deployment: Deployment,
        journal: PostgresJournal,
        outcome: Outcome,
        *,
        settled: bool = True,
    ) -> None:
        conclude = partial(execution.conclude, ran=task, window=self._settings.watch_window, settled=settled)
        ours = await self._until_written(lambda: conclude(self._pool, self._vault, deployment, journal, outcome))
        if ours and outcome.status in {Status.FAILED, Status.ROLLED_BACK}:
            self._tell(task, deployment, outcome.status, outcome.reason)
        ROLLOUTS.labels(deployment.kind, outcome.status).inc()
        for record in journal.ended:
            STEPS.labels(record.step, outcome.status).observe(record.seconds)
        _LOG.info(
            "Rolled out",
            outcome=outcome.status,
            digest=outcome.digest,
            **_why(outcome.reason),
        )

    async def _postpone(
        self,
        task: Task | None,
        deployment: Deployment,
        journal: PostgresJournal,
        error: Postponed,
        *,
        defect: bool = False,
    ) -> None:
        postpone = partial(execution.postpone, deadline=self._settings.retry_deadline, defect=defect)
        later = await self._until_written(lambda: postpone(self._pool, deployment, journal, error))
        _LOG.info("Postponed", outcome=later.status, **_why(later.reason))
        if later.status is Status.FAILED:
            self._tell(task, deployment, later.status, later.reason)
        if later.unserved:
            name = task.application.name if task else deployment.application_id
            _LOG.error("An application may serve nothing", name=name, **_why(later.reason))
            self._alerts.tell(Alert.of(name, "it may serve nothing", deployment, later.reason))

    def _tell(self, task: Task | None, deployment: Deployment, status: Status, reason: Reason | None) -> None:
        name = task.application.name if task else deployment.application_id
        what = "rolled back" if status is Status.ROLLED_BACK else "failed"
        self._alerts.tell(Alert.of(name, f"{deployment.kind} {what}", deployment, reason))

    async def _until_written(self, write: Callable[[], Awaitable[T]]) -> T:
        """Record what has happened, however long the database is away; what happened does not change.

        Where it fails on a defect a few times, the lease runs out, and the deployment is taken over.
        """
        defects = 0
        while True:
            try:
                return await write()
            except LeaseLost:
                raise
            except Unavailable as error:
                _LOG.warning("The outcome waits for the database", error=str(error))
            except Exception:
                defects += 1
                if defects >= _MOST_DEFECTS:
                    raise
                _LOG.exception("The outcome cannot be written down")
            await asyncio.sleep(POLL_INTERVAL)

    # -- the way out

    async def drain(self) -> None:
        """Claim no more, and give what runs the grace to finish."""
        self._draining = True
        self.fleet.retire()
        running = [run.job.wait() for run in self._runs.values()]
        if running:
            _LOG.info("Draining", rollouts=len(running), grace=self._settings.shutdown_grace)
            await asyncio.wait([asyncio.ensure_future(job) for job in running], timeout=self._settings.shutdown_grace)

    async def cut(self) -> None:
        """End what still runs; each puts back what it had begun."""
        await self._scheduler.close()
        for run in list(self._runs.values()):
            if not run.begun:  # it was cut before its first step
                await self._give_back(run.deployment, run.journal)


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
        await stack.enter_async_context(supervisor.fleet.living())
        tasks = [
            background_tasks.start("notifications", supervisor.listen_for_ever),
            background_tasks.start("heartbeat", supervisor.beat_for_ever),
            background_tasks.start("retention", supervisor.clean_for_ever),
        ]
        try:
            yield supervisor
        finally:
            await supervisor.drain()
            await supervisor.cut()
            await cancel_and_wait(*tasks)


_STOPPED = Postponed(Code.GATEWAY_STOPPED, "the gateway was stopped during the rollout")


def _killed(deployment: Deployment) -> Reason:
    return Reason(
        Code.GATEWAY_KILLED,
        f"{deployment.takeovers} gateways in a row ended in the middle of {deployment.kind} {deployment.deployment_id}",
    )


def _why(reason: Reason | None) -> dict[str, str]:
    """Return what a line of the log says of a reason: the same as the API does."""
    return {"code": reason.code, "reason": reason.message, "remedy": reason.remedy} if reason else {}


def _log_unforeseen(_scheduler: aiojobs.Scheduler, context: dict[str, object]) -> None:
    _LOG.error("A rollout ended unrecorded", exc_info=context.get("exception"))
