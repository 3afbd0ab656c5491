"""Monitors new versions after their rollout: trouble within the monitor window triggers a rollback.

The windows are database rows, so after a restart any gateway that reaches the engine goes on. Trouble deletes the row
in the transaction that enqueues the rollback, so only one gateway enqueues it. A rollback is never rolled back: then,
and when there is no previous version, an alert is sent and nothing else is done.
"""

import asyncio
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from gateway.background import isolate_failures
from gateway.docker import runtime_factory
from gateway.docker.engine.client import Engine, EngineIdentity, ReachedEngine
from gateway.docker.runtime import Runtime, Timeouts
from gateway.model.alerts import EventKind, of_deployment
from gateway.model.applications import Application, Desired
from gateway.model.deployments import Kind, MonitorWindow
from gateway.model.errors import Conflict, NotFound, Reason, RolloutError
from gateway.model.registries import anonymous
from gateway.queue import enqueue
from gateway.store import applications, deployments, outbox, releases, soaks, versions, watches
from gateway.store.database import Connection, Pool, statement, transaction
from gateway.store.encryption import Vault
from gateway.store.engines import Place
from gateway.worker.alerts import Alert, AlertSink
from gateway.worker.metrics import TROUBLES

_LOG = structlog.get_logger()

CHECK_INTERVAL = 1.0  # seconds
_MAX_PROBE_FAILURES = 3  # failed probes in a row
_CONFIRMATIONS = 2  # checks in a row that see trouble: a single one may see a restart that somebody requested
_MAX_CONCURRENT = 8  # checks on each engine
_MAX_TITLE = 200  # characters


@dataclass(slots=True)
class _Monitored:
    """State between checks: the application as it was deployed; times in seconds of the event loop's clock."""

    window: MonitorWindow
    application: Application
    confirmations: int = 0
    next_probe_at: float = 0.0
    failures: int = 0


class RolloutMonitor:
    """Checks the open monitor windows on the engines that this gateway reaches."""

    def __init__(self, pool: Pool, vault: Vault, timeouts: Timeouts, alerts: AlertSink) -> None:
        self._pool = pool
        self._vault = vault
        self._timeouts = timeouts
        self._alerts = alerts
        self._open: Mapping[Place, Sequence[MonitorWindow]] = {}
        self._monitored: dict[str, _Monitored] = {}

    async def find_open(self) -> Collection[Place]:
        """Find the open windows, once for all engines; return where they are."""
        async with statement(self._pool) as connection:
            self._open = await watches.select_watches(connection)
        self._drop_expired()
        return self._open.keys()

    async def check_windows(self, reached: ReachedEngine) -> None:
        """Check once each window on the engine that was open at the last call of `find_open`.

        Trouble counts only if the window is still open when the trouble is recorded.
        """
        engine_id = reached.identity.engine_id
        windows = [one for place in reached.server_ids for one in self._open.get(Place(engine_id, place), ())]
        at_once = asyncio.Semaphore(_MAX_CONCURRENT)

        async def one(window: MonitorWindow) -> None:
            async with at_once:
                with isolate_failures("watch", window.deployment_id):
                    await self._check(reached.engine, reached.identity, await self._load(window))

        for result in await asyncio.gather(*(one(window) for window in windows), return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def _load(self, window: MonitorWindow) -> _Monitored:
        if window.deployment_id not in self._monitored:
            async with transaction(self._pool) as connection:
                application = await applications.select_application(connection, self._vault, window.application_id)
                version = await versions.select_version(connection, self._vault, application, window.deployment_id)
            self._monitored[window.deployment_id] = _Monitored(window, version.application)
        return self._monitored[window.deployment_id]

    def _drop_expired(self) -> None:
        now = datetime.now(UTC)
        self._monitored = {key: one for key, one in self._monitored.items() if one.window.until > now}

    # -- one of them

    async def _check(self, engine: Engine, identity: EngineIdentity, monitored: _Monitored) -> None:
        application = monitored.application
        try:
            # Its kind is known even while a restarted engine is not a Swarm manager again yet.
            begun = monitored.window.runtime
            runtime = await runtime_factory.open_runtime(
                engine, identity, application, anonymous, self._timeouts, making=False, begun=begun
            )
            reason = await _find_trouble(runtime, monitored)
        except RolloutError:
            return  # the engine did not answer
        if reason is not None:
            await self._handle_trouble(monitored, reason)

    async def _handle_trouble(self, monitored: _Monitored, reason: Reason) -> None:
        """Close the window and enqueue the rollback, unless the window is closed or something newer is deployed."""
        window = monitored.window
        try:
            async with transaction(self._pool) as connection:
                desired = await applications.lock_application(connection, window.application_id)
                if desired is not Desired.RUNNING or not await watches.end_watch(connection, window):
                    return
                await soaks.fail_digest(connection, window.application_id, window.deployment_id, reason.message)
                deployment = await deployments.select_deployment(connection, window.deployment_id)
                whole = deployment.release_id is not None and await releases.report_trouble(
                    connection, deployment, reason
                )
                if whole:
                    await releases.notify(connection)
                rollback = None if whole else await self._enqueue_rollback(connection, monitored, reason)
                done = f"rollback {rollback} is queued" if rollback else "nothing is rolled back"
                if whole:
                    done = f"release {deployment.release_id} is put back"
                event = of_deployment(deployment, EventKind.TROUBLE, reason, done=done)
                await outbox.write_event(connection, event)
        except NotFound:
            return  # the application was deleted
        _LOG.warning(
            "Trouble within the monitor window",
            application=window.application_id,
            deployment=window.deployment_id,
            code=reason.code,
            reason=reason.message,
            remedy=reason.remedy,
            rollback=rollback,
        )
        TROUBLES.labels("rollback" if rollback or whole else "alert").inc()
        self._alerts.send(
            Alert.of(
                monitored.application.name, f"trouble after its rollout; {done}", deployment, reason, recorded=True
            )
        )

    async def _enqueue_rollback(self, connection: Connection, monitored: _Monitored, reason: Reason) -> str | None:
        """Enqueue a rollback and return its id; None when there is nothing to roll back to."""
        if monitored.window.kind is Kind.ROLLBACK:
            return None
        try:
            return await enqueue.enqueue_rollback(
                connection,
                self._vault,
                monitored.application,
                title=textwrap.shorten(f"Rollback: {reason.message}", _MAX_TITLE, placeholder=" …"),
                description=f"{reason.message}; within the monitor window of {monitored.window.deployment_id}",
                forced=False,
            )
        except Conflict:
            return None  # there is no previous version


async def _find_trouble(runtime: Runtime, monitored: _Monitored) -> Reason | None:
    window, probe = monitored.window, monitored.application.configuration.probe
    if reason := await runtime.failure_reason(window.object_id, window.restarts):
        monitored.confirmations += 1
        return reason if monitored.confirmations >= _CONFIRMATIONS else None
    monitored.confirmations = 0
    now = asyncio.get_running_loop().time()
    if probe is None or now < monitored.next_probe_at:
        return None
    monitored.next_probe_at = now + probe.interval
    reason = await runtime.run_probe(window.object_id)
    monitored.failures = monitored.failures + 1 if reason else 0
    return reason if monitored.failures >= _MAX_PROBE_FAILURES else None
