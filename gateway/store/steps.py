"""The steps of rollouts. A write changes nothing unless it has the newest epoch."""

from collections.abc import Sequence

from gateway.model.deployments import Step, StepRecord
from gateway.store.database import Connection


async def upsert_steps(connection: Connection, deployment_id: str, epoch: int, steps: dict[int, StepRecord]) -> bool:
    """Write steps by number; return False for a stale owner."""
    rows = await connection.fetch(
        """
        INSERT INTO steps (deployment_id, epoch, number, step, detail, started_at, finished_at)
        SELECT d.deployment_id, d.epoch, s.number, s.step, s.detail, s.started_at, s.finished_at
          FROM deployments d
         CROSS JOIN unnest($3::int[], $4::text[], $5::text[], $6::timestamptz[], $7::timestamptz[])
                    AS s (number, step, detail, started_at, finished_at)
         WHERE d.deployment_id = $1 AND d.epoch = $2 AND d.status = 'running'
            ON CONFLICT (deployment_id, epoch, number) DO UPDATE
           SET detail = excluded.detail, finished_at = excluded.finished_at
        RETURNING number
        """,
        deployment_id,
        epoch,
        list(steps),
        [record.step for record in steps.values()],
        [record.detail for record in steps.values()],
        [record.started_at for record in steps.values()],
        [record.finished_at for record in steps.values()],
    )
    return len(rows) == len(steps)


async def select_steps(connection: Connection, deployment_ids: Sequence[str]) -> dict[str, list[StepRecord]]:
    """Return the steps of all attempts of each deployment, in the order of their start."""
    rows = await connection.fetch(
        """
        SELECT deployment_id, step, detail, started_at, finished_at
          FROM steps
         WHERE deployment_id = ANY($1)
         ORDER BY deployment_id, epoch, number
        """,
        deployment_ids,
    )
    found: dict[str, list[StepRecord]] = {deployment_id: [] for deployment_id in deployment_ids}
    for row in rows:
        record = StepRecord(Step(row["step"]), row["detail"], row["started_at"], row["finished_at"])
        found[row["deployment_id"]].append(record)
    return found
