"""Looks at what applications do on their engines: whenever something happens there, and once a minute anyway.

What differs from what the last deployment brought is told once, when it has lasted for a moment, and put right where
the application says so: its `heal`. One of which a deployment runs is not looked at. One of which a deployment waits,
or that is within its watch window or a swap, is not put right: that is seen to already.
"""

from collections.abc import Mapping
from datetime import timedelta

import structlog

from gateway.background import isolate_failures
from gateway.docker import snapshot
from gateway.docker.engine.client import ReachedEngine
from gateway.model.errors import Conflict, NotFound
from gateway.model.observations import ExpectedState, ObservedState, alert_delay
from gateway.queue import enqueue
from gateway.store import applications, observations
from gateway.store.database import Pool, statement, transaction
from gateway.store.encryption import Vault
from gateway.store.observations import Standing
from gateway.worker.alerts import Alert, AlertSink
from gateway.worker.metrics import HEALED

_LOG = structlog.get_logger()

OBSERVE_EVERY = 60.0  # seconds
_SOON = 2.0  # seconds until the next look, where something is under way or not believed yet
_HEAL_PAUSE = timedelta(minutes=10)


class StateMonitor:
    """Observes the applications of the engines this gateway reaches."""

    def __init__(self, pool: Pool, vault: Vault, alerts: AlertSink) -> None:
        self._pool = pool
        self._vault = vault
        self._alerts = alerts
        self._known: dict[str, snapshot.KnownImages] = {}

    async def observe(self, reached: ReachedEngine) -> float | None:
        """Look once; return the seconds until the next look, None for the usual. Raises Postponed."""
        identity = reached.identity
        if identity.swarm_starting:
            return _SOON  # what is missing and what only is not told yet look alike
        async with statement(self._pool) as connection:
            expected, as_of = await observations.select_expected(connection, identity.engine_id, reached.server_ids)
        if not expected:
            return None
        known = self._known.setdefault(identity.daemon, {})
        now = await snapshot.take_snapshot(reached.engine, identity, known)
        found = {one.application_id: snapshot.observe(one, now) for one in expected if not one.has_running_deployment}
        async with transaction(self._pool) as connection:
            standings = await observations.upsert_observations(connection, found, as_of)
        unsure = await self._act(expected, found, standings)
        return _SOON if unsure or len(standings) < len(expected) else None

    async def _act(
        self, expected: list[ExpectedState], found: Mapping[str, ObservedState], standings: Mapping[str, Standing]
    ) -> bool:
        """Tell of what is wrong and put it right; return whether there is something that is not believed yet."""
        unsure, well = False, []
        for one in expected:
            standing = standings.get(one.application_id)
            if standing is None:
                continue
            if not one.should_alert(standing.state):
                well += [one.application_id] if standing.told else []
            elif standing.lasted < alert_delay(standing.state, waits=one.has_queued_deployment):
                unsure = True
            else:
                with isolate_failures("observation", one.application_id):
                    await self._tell(one, found[one.application_id], standing)
                    await self._heal(one, found[one.application_id], standing)
        if well:
            async with statement(self._pool) as connection:
                await observations.forget_told(connection, well)
        return unsure

    async def _tell(self, one: ExpectedState, seen: ObservedState, standing: Standing) -> None:
        if standing.told is seen.state or one.is_monitored:
            return
        async with statement(self._pool) as connection:
            if not await observations.mark_notified(connection, one.application_id, seen.state):
                return
        _LOG.warning("An application is not as it should be", application=one.application_id, state=seen.state,
                     detail=seen.detail)  # fmt: skip
        what = "it is put right" if one.should_heal(seen.state) else "it is left as it is; to put it right: redeploy"
        lines = [seen.detail, what, f"Application: {one.application_id}"]
        self._alerts.send(Alert(f"{one.name}: {seen.state}", "\n".join(filter(None, lines))))

    async def _heal(self, one: ExpectedState, seen: ObservedState, standing: Standing) -> None:
        """Queue the way back to what served last."""
        recently = standing.since_healed is not None and standing.since_healed < _HEAL_PAUSE
        if recently or not one.should_heal(seen.state):
            return
        try:
            async with transaction(self._pool) as connection:
                await applications.lock_application(connection, one.application_id)
                if not await applications.is_idle(connection, one.application_id):
                    return
                if not await observations.mark_healed(connection, one.application_id, _HEAL_PAUSE):
                    return
                application = await applications.select_application(connection, self._vault, one.application_id)
                queued = await enqueue.enqueue_rollback(
                    connection,
                    self._vault,
                    application,
                    to=one.deployment_id or enqueue.ADOPTED,
                    title=f"Put right: {seen.state}",
                    description=seen.detail,
                    forced=False,
                )
        except (Conflict, NotFound) as error:
            _LOG.warning("Cannot put an application right", application=one.application_id, error=str(error))
            return
        HEALED.labels(seen.state).inc()
        _LOG.info("Putting an application right", application=one.application_id, deployment=queued, state=seen.state)
