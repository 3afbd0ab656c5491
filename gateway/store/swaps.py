"""The record of an open swap. A write changes nothing unless it has the newest epoch."""

import asyncpg

from gateway.model.configuration import Order, RuntimeKind
from gateway.model.deployments import Direction, Swap
from gateway.model.errors import Code, Reason
from gateway.store.database import Connection


async def insert_swap(connection: Connection, swap: Swap, epoch: int, least: float, ran: bytes | None) -> float | None:
    """Open a swap, record in its deployment what it lets serve, and renew the lease for at least `least` seconds.

    Also clears what the deployment waits for. `ran` is the encrypted configuration that the new version was made from.
    Returns the new length of the lease in seconds. Returns None, and opens nothing, for a stale owner.
    """
    length: float | None = await connection.fetchval(
        """
        WITH owner AS (
            UPDATE deployments
               SET object_id = $6, waits_for = NULL, lease_length = greatest(lease_length, make_interval(secs => $12)),
                   lease_until = now() + greatest(lease_length, make_interval(secs => $12))
             WHERE deployment_id = $2 AND epoch = $11 AND status = 'running'
            RETURNING lease_length
        ),
        opened AS (
            INSERT INTO swaps (application_id, deployment_id, serving_name, old, old_restart_policy, new,
                               new_restart_policy, runtime, swap_order, attempt, ran)
            SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $13 FROM owner
        )
        SELECT extract(epoch FROM lease_length)::float8 FROM owner
        """,
        swap.application_id,
        swap.deployment_id,
        swap.serving_name,
        swap.old,
        swap.old_restart_policy,
        swap.new,
        swap.new_restart_policy,
        swap.runtime,
        swap.order,
        swap.attempt,
        epoch,
        least,
        ran,
    )
    return length


async def update_swap(connection: Connection, swap: Swap, deployment_id: str, epoch: int) -> bool:
    """Record that the swap goes back, and why; return False for a stale owner."""
    done = await connection.execute(
        """
        UPDATE swaps s
           SET direction = 'back', reason_code = $4, reason_message = $5, log = $6
          FROM deployments d
         WHERE s.application_id = $1
           AND d.deployment_id = $2 AND d.epoch = $3 AND d.status = 'running'
        """,
        swap.application_id,
        deployment_id,
        epoch,
        swap.reason.code if swap.reason else None,
        swap.reason.message if swap.reason else None,
        swap.log,
    )
    return bool(done == "UPDATE 1")


async def delete_swap(connection: Connection, application_id: str, deployment_id: str, epoch: int) -> bool:
    """Delete a completed swap; return False for a stale owner."""
    done = await connection.execute(
        """
        WITH owner AS (
            UPDATE deployments SET lease_length = lease_length
             WHERE deployment_id = $2 AND epoch = $3 AND status = 'running'
            RETURNING application_id
        )
        DELETE FROM swaps s USING owner WHERE s.application_id = $1 AND owner.application_id = s.application_id
        """,
        application_id,
        deployment_id,
        epoch,
    )
    return bool(done == "DELETE 1")


async def count_settling(connection: Connection, application_id: str, *, settlings: int, defects: int) -> None:
    """Add to the counts of attempts that left the swap open: `defects` ended on a defect, `settlings` otherwise."""
    await connection.execute(
        "UPDATE swaps SET settlings = settlings + $2, defects = defects + $3 WHERE application_id = $1",
        application_id,
        settlings,
        defects,
    )


async def mark_notified(connection: Connection, application_id: str) -> bool:
    """Record that the alert is sent; return False if it was sent before."""
    done = await connection.execute(
        "UPDATE swaps SET told_at = now() WHERE application_id = $1 AND told_at IS NULL", application_id
    )
    return bool(done == "UPDATE 1")


async def count_unserved(connection: Connection) -> int:
    """Return the number of open swaps for which an alert was sent."""
    return int(await connection.fetchval("SELECT count(*) FROM swaps WHERE told_at IS NOT NULL"))


async def select_swap(connection: Connection, application_id: str) -> Swap | None:
    row = await connection.fetchrow(
        """
        SELECT application_id, deployment_id, serving_name, old, old_restart_policy, new, new_restart_policy,
               runtime, swap_order, attempt, direction, reason_code, reason_message, log, settlings, defects
          FROM swaps
         WHERE application_id = $1
        """,
        application_id,
    )
    return None if row is None else _swap(row)


def _swap(row: asyncpg.Record) -> Swap:
    code = row["reason_code"]
    return Swap(
        application_id=row["application_id"],
        deployment_id=row["deployment_id"],
        serving_name=row["serving_name"],
        old=row["old"],
        old_restart_policy=row["old_restart_policy"],
        new=row["new"],
        new_restart_policy=row["new_restart_policy"],
        runtime=RuntimeKind(row["runtime"]),
        order=Order(row["swap_order"]),
        attempt=row["attempt"],
        direction=Direction(row["direction"]),
        reason=None if code is None else Reason(Code.parse(code), row["reason_message"]),
        log=row["log"],
        failed_resumptions=row["settlings"],
        defects=row["defects"],
    )
