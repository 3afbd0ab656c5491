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
    if deployment.state is not Status.QUEUED:
        return None
    if deployment.status is Status.RUNNING and deployment.reason is not None:
        return Wait(1, f"its turn: {deployment.reason.message}")
    row = await connection.fetchrow(
        """
        SELECT (SELECT r.deployment_id
                  FROM deployments r
                 WHERE r.application_id = d.application_id AND r.status = 'running') AS behind,
               (SELECT count(*)
                  FROM deployments w
                  JOIN applications o USING (application_id)
                 WHERE w.status = 'queued' AND o.server_id IS NOT DISTINCT FROM a.server_id
                   AND (o.engine_id IS NULL OR a.engine_id IS NULL OR o.engine_id = a.engine_id)
                   AND (w.next_attempt_at, w.created_at, w.deployment_id)
                     < (d.next_attempt_at, d.created_at, d.deployment_id)) AS before,
               ARRAY(SELECT v.name FROM gate_verdicts v
                      WHERE v.deployment_id = d.deployment_id AND v.verdict = 'unknown'
                      ORDER BY v.name) AS gates
          FROM deployments d
          JOIN applications a USING (application_id)
         WHERE d.deployment_id = $1
        """,
        deployment.deployment_id,
    )
    if row is None:
        return None
    return Wait(row["before"] + 1, _waits_for(deployment, row["behind"], row["before"], row["gates"]))


def _waits_for(deployment: Deployment, behind: str | None, before: int, gates: Sequence[str]) -> str:
    if behind is not None:
        return f"deployment {behind} of the same application, which runs"
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
