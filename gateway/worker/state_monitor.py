"""Observes the state of applications: after every event of their engine, and once a minute.

Each observation also removes the abandoned containers of the engine.

A followed application is observed more often, to count how long it has run well. A state that differs from what the
last deployment left, and lasts for a moment, causes one alert. With `heal`, the application is also repaired.

An application with a running deployment is not observed. An application is not repaired while it has a queued
deployment (unless that waits at a gate), an open monitor window or an open swap: another part of the gateway acts then.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from uuid import uuid4

import structlog

from gateway.background import isolate_failures
from gateway.docker import snapshot
from gateway.docker.engine.client import Engine, ReachedEngine
from gateway.model.alerts import EventKind, of_state
from gateway.model.applications import Desired
from gateway.model.errors import Conflict, NotFound, RolloutError
from gateway.model.observations import ExpectedState, ObservedState, State, alert_delay
from gateway.model.reference import Digest
from gateway.model.soaks import is_well
from gateway.queue import enqueue
from gateway.store import applications, deployments, observations, outbox, queue, soaks
from gateway.store.database import Pool, statement, transaction
from gateway.store.encryption import Vault
from gateway.store.observations import Standing
from gateway.store.soaks import Sighting
from gateway.worker.abandoned import remove_abandoned
from gateway.worker.alerts import Alert, AlertSink
from gateway.worker.metrics import HEALED

_LOG = structlog.get_logger()

OBSERVE_INTERVAL = 60.0  # seconds
_SIGHT_DEADLINE = 5.0  # seconds
_SOAK_INTERVAL = 10.0  # seconds, while another application follows one of the engine
_RECHECK_DELAY = 2.0  # seconds until the next check, while something is in progress or unconfirmed
_MIN_HEAL_INTERVAL = timedelta(minutes=10)


class StateMonitor:
    """Observes the applications on the engines that this gateway reaches."""

    def __init__(self, pool: Pool, vault: Vault, alerts: AlertSink) -> None:
        self._pool = pool
        self._vault = vault
        self._alerts = alerts
        self._known_images: dict[str, snapshot.KnownImages] = {}

    async def observe(self, reached: ReachedEngine) -> float | None:
        """Observe an engine once; return the seconds until the next time, None for the usual. Raises Postponed."""
        identity = reached.identity
        if identity.swarm_starting:
            return _RECHECK_DELAY  # a missing service and one not listed yet look the same
        async with statement(self._pool) as connection:
            all_expected, as_of = await observations.select_expected(connection, identity.engine_id, reached.server_ids)
        if not all_expected:
            return None
        known_images = self._known_images.setdefault(identity.daemon, {})
        current = await snapshot.take_snapshot(reached.engine, identity, known_images)
        with isolate_failures("abandoned containers", identity.name):
            await remove_abandoned(self._pool, reached.engine, current, as_of)
        states = {
            expected.application_id: snapshot.observe(expected, current)
            for expected in all_expected
            if not expected.has_running_deployment
        }
        states |= await self._newer(all_expected, states, current)
        sightings = await self._sight_followed(reached.engine, all_expected, states, current)
        async with transaction(self._pool) if sightings else statement(self._pool) as connection:
            standings = await observations.upsert_observations(connection, states, as_of)
            if seen := {key: one for key, one in sightings.items() if key in standings}:
                await soaks.record_sightings(connection, seen, as_of)
        unconfirmed = await self._act(all_expected, states, standings)
        if unconfirmed or len(standings) < len(all_expected):
            return _RECHECK_DELAY
        return _SOAK_INTERVAL if sightings else None

    async def _newer(
        self, all_expected: Sequence[ExpectedState], states: Mapping[str, ObservedState], current: snapshot.Snapshot
    ) -> dict[str, ObservedState]:
        """Return the states of applications whose container was made by a deployment that the database does not know.

        A deployment whose version serves is never deleted, so the database was restored from a backup older than it.
        """
        made = {
            expected.application_id: deployment_id
            for expected in all_expected
            if expected.application_id in states
            and states[expected.application_id].state is State.DRIFTED
            and (deployment_id := snapshot.deployment_of(expected, current)) is not None
        }
        if not made:
            return {}
        async with statement(self._pool) as connection:
            known = await deployments.select_known(connection, list(made.values()))
        return {
            application_id: ObservedState(
                State.DRIFTED,
                f"{states[application_id].detail}; the deployment {deployment_id} made it, which is newer than the "
                "backup that this database was restored from. It serves on until the next push or redeploy",
                is_newer=True,
            )
            for application_id, deployment_id in made.items()
            if deployment_id not in known
        }

    async def _sight_followed(
        self,
        engine: Engine,
        all_expected: Sequence[ExpectedState],
        states: Mapping[str, ObservedState],
        current: snapshot.Snapshot,
    ) -> dict[str, Sighting]:
        """Return what the followed applications run, None for an application that does not run well.

        An application whose container the engine does not describe in time is left out.
        """
        sightings: dict[str, Sighting] = {}

        async def sight(expected: ExpectedState, digest: Digest) -> None:
            well = expected.desired is Desired.RUNNING and is_well(states[expected.application_id].state)
            with suppress(RolloutError, TimeoutError):
                async with asyncio.timeout(_SIGHT_DEADLINE):
                    run = await snapshot.identify_run(engine, expected, current) if well else None
                sightings[expected.application_id] = Sighting(digest, run)

        followed = [one for one in all_expected if one.is_followed and one.application_id in states]
        await asyncio.gather(*(sight(one, Digest(one.digest)) for one in followed if one.digest is not None))
        return sightings

    async def _act(
        self, all_expected: list[ExpectedState], states: Mapping[str, ObservedState], standings: Mapping[str, Standing]
    ) -> bool:
        """Send alerts and heal; return whether a state is still unconfirmed."""
        unconfirmed, recovered = False, []
        for expected in all_expected:
            standing = standings.get(expected.application_id)
            if standing is None:
                continue
            if not expected.should_alert(standing.state):
                recovered += [expected.application_id] if standing.notified else []
            elif standing.lasted < alert_delay(standing.state, waits=expected.has_queued_deployment):
                unconfirmed = True
            else:
                with isolate_failures("observation", expected.application_id):
                    await self._send_alert(expected, states[expected.application_id], standing)
                    await self._heal(expected, states[expected.application_id], standing)
        if recovered:
            await self._tell_recovered(recovered)
        return unconfirmed

    async def _tell_recovered(self, application_ids: Sequence[str]) -> None:
        for application_id in application_ids:
            async with transaction(self._pool) as connection:
                await applications.lock_row(connection, application_id)
                if not await observations.forget_notified(connection, application_id):
                    continue
                event = of_state(application_id, EventKind.RECOVERED, "", "", once=str(uuid4()))
                await outbox.write_event(connection, event)

    async def _send_alert(self, expected: ExpectedState, observed: ObservedState, standing: Standing) -> None:
        if standing.notified is observed.state or expected.is_monitored:
            return
        what = "it will be healed" if expected.should_heal(observed) else "nothing is done; to repair it, redeploy"
        async with transaction(self._pool) as connection:
            await applications.lock_row(connection, expected.application_id)
            if not await observations.mark_notified(connection, expected.application_id, observed.state):
                return
            await outbox.write_event(
                connection,
                of_state(expected.application_id, EventKind(observed.state), observed.detail, what, once=str(uuid4())),
            )
        _LOG.warning(
            "An application is not in its expected state",
            application=expected.application_id,
            state=observed.state,
            detail=observed.detail,
        )
        lines = [observed.detail, what, f"Application: {expected.application_id}"]
        self._alerts.send(Alert(f"{expected.name}: {observed.state}", "\n".join(filter(None, lines)), recorded=True))

    async def _heal(self, expected: ExpectedState, observed: ObservedState, standing: Standing) -> None:
        """Enqueue a rollback to what served last."""
        healed_recently = standing.since_healed is not None and standing.since_healed < _MIN_HEAL_INTERVAL
        if healed_recently or not expected.should_heal(observed):
            return
        try:
            async with transaction(self._pool) as connection:
                await applications.lock_application(connection, expected.application_id)
                if not await queue.is_free(connection, expected.application_id):
                    return
                if not await observations.mark_healed(connection, expected.application_id, _MIN_HEAL_INTERVAL):
                    return
                application = await applications.select_application(connection, self._vault, expected.application_id)
                rollback = await enqueue.enqueue_rollback(
                    connection,
                    self._vault,
                    application,
                    to=expected.deployment_id or enqueue.ADOPTED,
                    title=f"Heal: {observed.state}",
                    description=observed.detail,
                    forced=False,
                )
        except (Conflict, NotFound) as error:
            _LOG.warning("Cannot heal an application", application=expected.application_id, error=str(error))
            return
        HEALED.labels(observed.state).inc()
        _LOG.info(
            "Healing an application", application=expected.application_id, deployment=rollback, state=observed.state
        )
