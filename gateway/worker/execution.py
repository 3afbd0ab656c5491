"""Execute one claimed deployment: load it, run it, record how it ended.

    load ─▶ run ─┬─▶ complete     it has an outcome
                 ├─▶ postpone     an error that heals by itself, or the gateway stops: retried later
                 └─▶ (nothing)    the lease was lost: another gateway records it

The outcome is written however long the database is unavailable.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

import structlog

from gateway.admin.adoption import adopt_recreated
from gateway.background import POLL_INTERVAL
from gateway.config import Settings
from gateway.docker.runtime import Timeouts
from gateway.gates.gate import Gate, Sources
from gateway.model.deployments import FINISHED, Deployment, Kind, LeaseLost, Outcome, Status, Step
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
from gateway.rollout.attempt import RolloutContext
from gateway.rollout.recipes import roll_out
from gateway.store.database import Pool
from gateway.store.encryption import Vault
from gateway.store.rollout_journal import PostgresJournal
from gateway.worker import completion, retry
from gateway.worker.alerts import Alert, AlertSink
from gateway.worker.engine_worker import Claimed
from gateway.worker.gates import Gatekeeper
from gateway.worker.metrics import STEPS, count_rollout
from gateway.worker.task_loader import LoadedTask, load_task
from gateway.worker.traces import Traces

_LOG = structlog.get_logger()

T = TypeVar("T")

_MAX_DEFECTS = 3  # attempts that may end on a defect of the gateway, and also tries to record one outcome
# After so many gateways in a row died during a deployment, it is only put back. After so many more, nothing is tried.
_MAX_TAKEOVERS = 6
_MAX_SETTLE_TAKEOVERS = 3
_GIVE_BACK_DEADLINE = 5.0  # seconds

_STOPPED = Postponed(Code.GATEWAY_STOPPED, "the gateway was stopped during the rollout")


@dataclass(slots=True, repr=False)
class ExecutionContext:
    """What the executions of a gateway share."""

    pool: Pool
    vault: Vault
    registry: RegistryClient
    settings: Settings
    timeouts: Timeouts
    alerts: AlertSink
    #: all kinds of gates, by name
    gates: Mapping[str, Gate]
    #: None when no receiver of traces is set
    traces: Traces | None = None


class _Cancelled(Exception):
    """A person cancelled the deployment while it ran; its rollout has put back what it could."""


@dataclass(slots=True, eq=False, repr=False)
class Execution:
    """The execution of one claimed deployment, until it has an outcome or is postponed. It runs once."""

    context: ExecutionContext
    claimed: Claimed
    journal: PostgresJournal
    #: False until `execute` has begun: it stays False when the execution is cancelled before its first step
    started: bool = False
    _loaded: LoadedTask | None = None
    #: ends a rollout that can be cancelled
    _cancel_scope: asyncio.Timeout | None = None

    @property
    def deployment(self) -> Deployment:
        return self.claimed.deployment

    # -- load, run, record

    async def execute(self) -> None:
        """Load, run, record. Raises LeaseLost when another gateway has taken over."""
        self.started = True
        try:
            await self._load()
            outcome = await self._run()
        except LeaseLost:
            raise
        except asyncio.CancelledError:
            if not self.journal.lost:
                await self._postpone(_STOPPED)
            raise
        except Exception as error:
            await self._retry_or_fail(error)
        else:
            await self._complete(outcome)

    async def _load(self) -> None:
        loaded = await load_task(self.context.pool, self.context.vault, self.deployment)
        if loaded.task.application.gated:
            keeper = self._gatekeeper()
            ask = keeper.ask if loaded.task.prepared is None else keeper.recall
            loaded = replace(loaded, task=replace(loaded.task, ask_gates=ask))
        self._loaded = loaded
        structlog.contextvars.bind_contextvars(deliveries=self._loaded.deliveries)

    async def _run(self) -> Outcome:
        """Roll the deployment out; raises Postponed for what heals by itself."""
        if self._abandoned:
            return Outcome(Status.FAILED, self._killed())
        if await self._adopt_recreated():
            await self._load()
        _LOG.info("Rolling out", kind=self.deployment.kind, attempt=self.deployment.attempts)
        if self.deployment.takeovers >= _MAX_TAKEOVERS:
            return await self._put_back_only()
        if self.deployment.cancelled_at is not None:
            return await self._roll_out(self._task())
        try:
            async with self._cancellable():
                return await self._roll_out(self._task())
        except _Cancelled:
            _LOG.info("Cancelled")
            return await self._settle_cancelled()

    async def _complete(self, outcome: Outcome) -> None:
        """Record the outcome, once."""
        context = self.context
        owned = await _until_recorded(
            lambda: completion.complete(
                context.pool,
                context.vault,
                self.deployment,
                self.journal,
                outcome,
                monitor_window=context.settings.watch_window,
                swap_settled=not self._abandoned,
            )
        )
        if owned and outcome.status in {Status.FAILED, Status.ROLLED_BACK}:
            self._alert_ended(outcome.status, outcome.reason)
        self._count(outcome.status)
        for record in self.journal.ended:
            STEPS.labels(record.step, outcome.status).observe(record.seconds)
        _LOG.info("Rolled out", outcome=outcome.status, digest=outcome.digest, **_reason_fields(outcome.reason))

    async def _retry_or_fail(self, error: Exception) -> None:
        """Record that the attempt ended with this error: postpone the deployment, or end it."""
        if isinstance(error, Postponed):
            await self._postpone(error)
        elif isinstance(error, Unavailable):
            code = Code.DATABASE_UNAVAILABLE if isinstance(error, DatabaseUnavailable) else Code.INTERNAL
            await self._postpone(Postponed(code, str(error)))
        else:
            _LOG.error("A rollout failed on a defect", exc_info=error)
            await self._retry_or_fail_on_defect()

    async def _retry_or_fail_on_defect(self) -> None:
        """Postpone the deployment, or fail it after a few defects. While a swap is open, `postpone` counts instead."""
        reason = Reason(Code.INTERNAL, "the rollout failed on a defect of the gateway")
        if self.deployment.defects + 1 < _MAX_DEFECTS or await _until_recorded(
            lambda: retry.swap_is_open(self.context.pool, self.deployment)
        ):
            await self._postpone(Postponed(reason.code, reason.message), defect=True)
        else:
            await self._complete(Outcome(Status.FAILED, reason))

    async def _postpone(self, error: Postponed, *, defect: bool = False) -> None:
        """Put the deployment back into the queue, or end it where `retry` says so."""
        context = self.context
        postponed = await _until_recorded(
            lambda: retry.postpone(
                context.pool,
                self.deployment,
                self.journal,
                error,
                deadline=context.settings.retry_deadline,
                defect=defect,
            )
        )
        _LOG.info("Postponed", outcome=postponed.status, **_reason_fields(postponed.reason))
        if postponed.status in FINISHED:
            self._count(postponed.status)
        if postponed.status is Status.FAILED:
            self._alert_ended(postponed.status, postponed.reason)
        if postponed.unserved:
            _LOG.error("An application may serve nothing", name=self._name, **_reason_fields(postponed.reason))
            self._alert("it may serve nothing", postponed.reason)

    def _count(self, status: Status) -> None:
        """Count the deployment, which has ended, and offer it to the traces."""
        count_rollout(self.deployment.application_id, self.deployment.kind, status)
        if self.context.traces is not None:
            self.context.traces.offer(self.deployment.deployment_id)

    # -- from outside

    def cancel(self) -> None:
        """Cancel the rollout. Does nothing during the commit: the new version is proven, and the rollout succeeds."""
        if self.journal.step is Step.COMMIT:
            return
        scope, self._cancel_scope = self._cancel_scope, None
        if scope is not None:
            scope.reschedule(0)

    async def give_back(self) -> None:
        """Put the deployment back into the queue before its first step, so that it need not wait for its lease."""
        with suppress(TimeoutError, LeaseLost):
            async with asyncio.timeout(_GIVE_BACK_DEADLINE):
                await self._postpone(_STOPPED)

    # -- running

    async def _roll_out(self, loaded: LoadedTask) -> Outcome:
        return await roll_out(self._rollout_context(), loaded.task, self.journal, loaded.left_open)

    def _task(self) -> LoadedTask:
        if self._loaded is None:
            raise RuntimeError("the deployment is not loaded")
        return self._loaded

    def _gatekeeper(self) -> Gatekeeper:
        context = self.context
        sources = Sources(context.pool, context.vault, context.registry, context.settings)
        return Gatekeeper(sources, context.gates, context.alerts)

    def _rollout_context(self) -> RolloutContext:
        claimed, context = self.claimed, self.context
        return RolloutContext(
            claimed.worker.engine,
            claimed.identity,
            context.registry,
            claimed.slots.swaps,
            context.timeouts,
            context.settings.progress_deadline,
            context.settings.registry_lag,
            lambda title, body: context.alerts.send(Alert(title, body)),
            claimed.slots.preparations,
            claimed.lend_slot,
        )

    @asynccontextmanager
    async def _cancellable(self) -> AsyncIterator[None]:
        """Let `cancel` end the block; raises _Cancelled then."""
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._cancel_scope = scope
                try:
                    yield
                finally:
                    self._cancel_scope = None
        except TimeoutError as error:
            if scope.expired():
                raise _Cancelled from error
            raise

    async def _settle_cancelled(self) -> Outcome:
        """Settle what the cancelled rollout has begun, as the next owner would."""
        cancelled = replace(self._task().task.deployment, cancelled_at=datetime.now(UTC))
        return await self._roll_out(await load_task(self.context.pool, self.context.vault, cancelled))

    async def _put_back_only(self) -> Outcome:
        """Put back what was begun, as if the deployment were cancelled, because too many gateways died during it."""
        loaded = self._task()
        cancelled = replace(loaded.task.deployment, cancelled_at=datetime.now(UTC))
        outcome = await self._roll_out(replace(loaded, task=replace(loaded.task, deployment=cancelled)))
        if outcome.status is not Status.CANCELLED:
            return outcome
        put_back = loaded.left_open is not None and loaded.left_open.old is not None
        return Outcome(Status.ROLLED_BACK if put_back else Status.FAILED, self._killed())

    @property
    def _abandoned(self) -> bool:
        """Whether gateways died even while putting back. Then nothing more is tried, and an open swap stays open."""
        return self.deployment.takeovers >= _MAX_TAKEOVERS + _MAX_SETTLE_TAKEOVERS

    def _killed(self) -> Reason:
        takeovers, kind = self.deployment.takeovers, self.deployment.kind
        return Reason(
            Code.GATEWAY_KILLED,
            f"{takeovers} gateways in a row ended in the middle of {kind} {self.deployment.deployment_id}",
        )

    async def _adopt_recreated(self) -> bool:
        """Adopt the container that Compose created in place of the adopted one. Return whether one was adopted.

        Returns False when that container cannot be adopted: the rollout finds it again and reports why.
        """
        context, claimed, application = self.context, self.claimed, self._task().task.application
        if self.deployment.kind is Kind.DELETE:
            return False
        try:
            adopted = await adopt_recreated(
                context.pool, context.vault, claimed.worker.engine, claimed.identity, application
            )
        except (Failed, Conflict, InvalidInput):
            return False
        if adopted is None:
            return False
        _LOG.warning("Compose recreated an adopted container", change=adopted)
        await self.journal.begin(Step.SETTLE, adopted)
        context.alerts.send(Alert(f"{application.name}: adopted anew", adopted))
        return True

    # -- alerts

    @property
    def _name(self) -> str:
        return self._loaded.task.application.name if self._loaded else self.deployment.application_id

    def _alert(self, what: str, reason: Reason | None, *, recorded: bool = False) -> None:
        self.context.alerts.send(Alert.of(self._name, what, self.deployment, reason, recorded=recorded))

    def _alert_ended(self, status: Status, reason: Reason | None) -> None:
        what = "rolled back" if status is Status.ROLLED_BACK else "failed"
        self._alert(f"{self.deployment.kind} {what}", reason, recorded=True)


async def _until_recorded(write: Callable[[], Awaitable[T]]) -> T:
    """Repeat `write` while the database is unavailable: what it records has happened, and does not change.

    Raises LeaseLost at once, and any other error after a few tries. Then the lease expires, and another gateway takes
    over.
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
            if defects >= _MAX_DEFECTS:
                raise
            _LOG.exception("The outcome could not be recorded")
        await asyncio.sleep(POLL_INTERVAL)


def _reason_fields(reason: Reason | None) -> dict[str, str]:
    """Return the log fields of a reason: the same as the API's."""
    return {"code": reason.code, "reason": reason.message, "remedy": reason.remedy} if reason else {}
