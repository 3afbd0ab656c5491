"""Looks at what has just come to serve: trouble within its watch window brings the former version back.

The windows are rows, so whichever gateway reaches the engine looks on after a restart. Trouble deletes the row in the
transaction that queues the way back: however many see it, one of them does. A rollback is never rolled back; then, and
where nothing ran before, people are told and nothing is done.
"""

import asyncio
import textwrap
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from gateway.background import isolate_failures
from gateway.docker import runtime_factory
from gateway.docker.engine.client import Engine, EngineIdentity, ReachedEngine
from gateway.docker.runtime import Runtime, Timeouts
from gateway.model.applications import Application, Desired
from gateway.model.deployments import Kind, MonitorWindow
from gateway.model.errors import Conflict, NotFound, Reason, RolloutError
from gateway.model.registries import anonymous
from gateway.queue import enqueue
from gateway.store import applications, deployments, versions, watches
from gateway.store.database import Connection, Pool, statement, transaction
from gateway.store.encryption import Vault
from gateway.worker.alerts import Alert, AlertSink
from gateway.worker.metrics import TROUBLES

_LOG = structlog.get_logger()

LOOK_EVERY = 1.0  # seconds
_FAILURES = 3  # of the probe, in a row, that are trouble
_SEEN = 2  # looks in a row: one may come upon a restart that somebody asked for
_AT_ONCE = 8  # looks, on each engine
_TITLE = 200  # characters


@dataclass(slots=True)
class _Watched:
    """What is remembered between looks, the application as the deployment ran it; times by the loop's clock."""

    watch: MonitorWindow
    application: Application
    seen: int = 0
    ask_at: float = 0.0
    failures: int = 0


class RolloutMonitor:
    """Looks at the windows of the engines this gateway reaches."""

    def __init__(self, pool: Pool, vault: Vault, timeouts: Timeouts, alerts: AlertSink) -> None:
        self._pool = pool
        self._vault = vault
        self._timeouts = timeouts
        self._alerts = alerts
        self._watched: dict[str, _Watched] = {}

    async def look(self, reached: ReachedEngine) -> None:
        """Look once at each window that is open there."""
        async with statement(self._pool) as connection:
            found = await watches.select_watches(connection, reached.identity.engine_id, reached.server_ids)
        self._forget()
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def one(watch: MonitorWindow) -> None:
            async with at_once:
                with isolate_failures("watch", watch.deployment_id):
                    await self._look_at(reached.engine, reached.identity, await self._recall(watch))

        for result in await asyncio.gather(*(one(watch) for watch in found), return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def _recall(self, watch: MonitorWindow) -> _Watched:
        if watch.deployment_id not in self._watched:
            async with transaction(self._pool) as connection:
                application = await applications.select_application(connection, self._vault, watch.application_id)
                ran = await versions.select_version(connection, self._vault, application, watch.deployment_id)
            self._watched[watch.deployment_id] = _Watched(watch, ran.application)
        return self._watched[watch.deployment_id]

    def _forget(self) -> None:
        now = datetime.now(UTC)
        self._watched = {key: one for key, one in self._watched.items() if one.watch.until > now}

    # -- one of them

    async def _look_at(self, engine: Engine, identity: EngineIdentity, watched: _Watched) -> None:
        application = watched.application
        try:
            # What it is stays known while an engine that was restarted does not manage its Swarm yet.
            begun = watched.watch.runtime
            runtime = await runtime_factory.open_runtime(
                engine, identity, application, anonymous, self._timeouts, making=False, begun=begun
            )
            reason = await _trouble(runtime, watched)
        except RolloutError:
            return  # the engine does not say
        if reason is not None:
            await self._end(watched, reason)

    async def _end(self, watched: _Watched, reason: Reason) -> None:
        """Close the window and queue the way back, where it is still open and nothing newer has come."""
        watch = watched.watch
        try:
            async with transaction(self._pool) as connection:
                desired = await applications.lock_application(connection, watch.application_id)
                if desired is not Desired.RUNNING or not await watches.end_watch(connection, watch):
                    return
                deployment = await deployments.select_deployment(connection, watch.deployment_id)
                back = await self._go_back(connection, watched, reason)
        except NotFound:
            return  # deleted meanwhile
        done = f"rollback {back} is queued" if back else "it is left as it is"
        _LOG.warning(
            "Trouble within the watch window",
            application=watch.application_id,
            deployment=watch.deployment_id,
            code=reason.code,
            reason=reason.message,
            remedy=reason.remedy,
            rollback=back,
        )
        TROUBLES.labels("rollback" if back else "alert").inc()
        self._alerts.send(Alert.of(watched.application.name, f"trouble after its rollout; {done}", deployment, reason))

    async def _go_back(self, connection: Connection, watched: _Watched, reason: Reason) -> str | None:
        """Return the rollback that is queued, None where there is none to be."""
        if watched.watch.kind is Kind.ROLLBACK:
            return None
        try:
            return await enqueue.enqueue_rollback(
                connection,
                self._vault,
                watched.application,
                title=textwrap.shorten(f"Rollback: {reason.message}", _TITLE, placeholder=" …"),
                description=f"{reason.message}; within the watch window of deployment {watched.watch.deployment_id}",
                forced=False,
            )
        except Conflict:
            return None  # nothing ran before


async def _trouble(runtime: Runtime, watched: _Watched) -> Reason | None:
    watch, probe = watched.watch, watched.application.configuration.probe
    if reason := await runtime.failure_reason(watch.object_id, watch.restarts):
        watched.seen += 1
        return reason if watched.seen >= _SEEN else None
    watched.seen = 0
    now = asyncio.get_running_loop().time()
    if probe is None or now < watched.ask_at:
        return None
    watched.ask_at = now + probe.interval
    reason = await runtime.run_probe(watch.object_id)
    watched.failures = watched.failures + 1 if reason else 0
    return reason if watched.failures >= _FAILURES else None
