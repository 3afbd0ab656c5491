"""The position of a queued deployment, and what it waits for."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from gateway.model.deployments import Deployment, Status
from gateway.model.errors import Code
from gateway.store.database import Connection


@dataclass(frozen=True, slots=True)
class Wait:
    """The position in the queue of its engine, where 1 is next, and what must happen first."""

    position: int
    waits_for: str


async def select_wait(connection: Connection, deployment: Deployment) -> Wait | None:
    """Return the position of a deployment; None if it is not queued."""
    return (await select_waits(connection, [deployment])).get(deployment.deployment_id)


async def select_waits(connection: Connection, deployments: Sequence[Deployment]) -> dict[str, Wait]:
    """Return the positions of those that are queued, by id. The queue is read once for all of them."""
    waits = {one.deployment_id: one for one in deployments if one.state is Status.QUEUED}
    their_turn = {
        name: Wait(1, f"its turn: {one.reason.message}")
        for name, one in waits.items()
        if one.status is Status.RUNNING and one.reason is not None
    }
    queued = [name for name in waits if name not in their_turn]
    if not queued:
        return their_turn
    rows = await connection.fetch(
        """
        WITH line AS MATERIALIZED (
            -- One that is bound to no engine yet may go to any of its server: it counts for all of them.
            SELECT w.deployment_id, count(*) OVER place
                   + CASE WHEN o.engine_id IS NULL
                          THEN count(o.engine_id) OVER server
                          ELSE count(*) FILTER (WHERE o.engine_id IS NULL) OVER server END AS position
              FROM deployments w
              JOIN applications o USING (application_id)
             WHERE w.status = 'queued'
            WINDOW server AS (
                       PARTITION BY o.server_id ORDER BY w.next_attempt_at, w.created_at, w.deployment_id
                   ),
                   place AS (
                       PARTITION BY o.server_id, o.engine_id
                           ORDER BY w.next_attempt_at, w.created_at, w.deployment_id
                   )
        )
        SELECT d.deployment_id, coalesce(l.position, 1) - 1 AS before,
               (SELECT r.deployment_id
                  FROM deployments r
                 WHERE r.application_id = d.application_id AND r.status = 'running'
                   AND r.deployment_id <> d.deployment_id  -- which may have been claimed meanwhile
               ) AS behind,
               ARRAY(SELECT v.name FROM gate_verdicts v
                      WHERE v.deployment_id = d.deployment_id AND v.verdict = 'unknown'
                      ORDER BY v.name) AS gates,
               CASE WHEN d.release_id IS NULL
                    THEN (SELECT min(m.release_id) FROM release_members m
                           WHERE m.application_id = d.application_id AND m.open) END AS release,
               CASE WHEN d.release_id IS NULL AND d.kind IN ('deploy', 'redeploy')
                    THEN (SELECT min(g.name) FROM group_members m JOIN groups g USING (group_id)
                           WHERE m.application_id = d.application_id AND m.gathers) END AS gathering
          FROM deployments d
          LEFT JOIN line l USING (deployment_id)
         WHERE d.deployment_id = ANY($1)
        """,
        queued,
    )
    return their_turn | {
        row["deployment_id"]: Wait(
            row["before"] + 1,
            _release_before(row["release"], row["gathering"])
            or _waits_for(waits[row["deployment_id"]], row["behind"], row["before"], row["gates"]),
        )
        for row in rows
    }


def _release_before(release: str | None, gathering: str | None) -> str | None:
    """Return what a deployment that belongs to no release waits for, if that is one: see `leases.HELD`."""
    if release is not None:
        return f"release {release}, which the application belongs to"
    return None if gathering is None else f"a release of group {gathering}, which gathers what was pushed"


def _waits_for(deployment: Deployment, behind: str | None, before: int, gates: Sequence[str]) -> str:
    if behind is not None:
        return f"the deployment {behind} of the same application, which is under way"
    if deployment.reason is not None and deployment.reason.code is Code.ENGINE_UNREACHABLE:
        return f"the engine: {deployment.reason.message}"
    if deployment.next_attempt_at > datetime.now(UTC):
        at = f"{deployment.next_attempt_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        if gates and deployment.reason is not None:
            return f"{_named(gates)} asked again at the latest at {at}"
        return f"its next attempt at {at}"
    return f"a free slot on the engine, behind {before} others" if before else "a free slot on the engine"


def _named(gates: Sequence[str]) -> str:
    return f"the gate {gates[0]}, which is" if len(gates) == 1 else f"the gates {', '.join(gates)}, which are"
