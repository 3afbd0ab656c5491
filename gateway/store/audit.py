"""The audit: rows are inserted, read, and expire. Triggers of the schema record the changes of rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from gateway.model.audit import Actor, AuditEntry, Outcome
from gateway.store.database import Connection

_COLUMNS = """
    number, at, call_id, via, who, key_id, address, action, noun, target, target_name, application_id, before, after,
    outcome, detail, times
"""
_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class UnrecordedEvent:
    """An action that no trigger recorded, and how often it happened."""

    actor: Actor
    outcome: Outcome
    detail: str = ""
    target: str | None = None
    times: int = 1


def _from_row(row: asyncpg.Record) -> AuditEntry:
    return AuditEntry(**{**dict(row), "outcome": Outcome(row["outcome"])})


async def insert_unrecorded(connection: Connection, events: Sequence[UnrecordedEvent]) -> None:
    """Record what no trigger has recorded: refusals, failures, and actions that changed no row.

    A target that is an application, or a deployment of one, is found by the application. A target is named as it is
    called now.
    """
    await connection.executemany(
        """
        INSERT INTO audit (call_id, via, who, key_id, address, action, target, target_name, application_id, outcome,
                           detail, times)
        SELECT $1, $2, $3, $4, $5, $6, $7, (
                   SELECT name
                     FROM (SELECT name FROM applications WHERE application_id = $7
                            UNION ALL
                           SELECT a.name FROM deployments d JOIN applications a USING (application_id)
                            WHERE d.deployment_id = $7
                            UNION ALL SELECT name FROM alerts WHERE alert_id = $7
                            UNION ALL SELECT name FROM api_keys WHERE key_id = $7
                            UNION ALL SELECT name FROM endpoints WHERE endpoint_id = $7
                            UNION ALL SELECT name FROM environments WHERE environment_id = $7
                            UNION ALL SELECT name FROM gates WHERE gate_id = $7
                            UNION ALL SELECT name FROM groups WHERE group_id = $7
                            UNION ALL SELECT name FROM projects WHERE project_id = $7
                            UNION ALL SELECT registry_name FROM registries WHERE registry_id = $7
                            UNION ALL SELECT name FROM servers WHERE server_id = $7
                          ) AS named
                    WHERE name <> ''
                    LIMIT 1
               ), coalesce(
                   (SELECT application_id FROM applications WHERE application_id = $7),
                   (SELECT application_id FROM deployments WHERE deployment_id = $7)
               ), $8::audit_outcome, $9, $10
         WHERE $8 <> 'done' OR NOT EXISTS (SELECT FROM audit WHERE call_id = $1)
        """,
        [
            (
                one.actor.call_id,
                one.actor.via,
                one.actor.who,
                one.actor.key_id,
                one.actor.address,
                one.actor.action,
                one.target,
                one.outcome,
                one.detail,
                one.times,
            )
            for one in events
        ],
    )


async def select_entries(
    connection: Connection,
    *,
    below: int | None = None,
    application_id: str | None = None,
    key_id: str | None = None,
    action: str | None = None,
    outcome: Outcome | None = None,
    limit: int = 100,
) -> list[AuditEntry]:
    """Return the entries below a number, the newest first."""
    wanted = {"number <": below, "application_id =": application_id, "key_id =": key_id, "action =": action}
    given = {column: value for column, value in (wanted | {"outcome =": outcome}).items() if value is not None}
    # A statement of its own for each choice, which reads by the index that fits.
    matching = " AND ".join(f"{column} ${number}" for number, column in enumerate(given, 2))
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM audit {matching and f'WHERE {matching}'} ORDER BY number DESC LIMIT $1",  # noqa: S608
        limit,
        *given.values(),
    )
    return [_from_row(row) for row in rows]


async def select_newest(connection: Connection) -> int:
    """Return the number of the newest row, 0 if there is none."""
    return int(await connection.fetchval("SELECT coalesce(max(number), 0) FROM audit"))


async def select_commands(connection: Connection, above: int, newest: int) -> list[AuditEntry]:
    """Return the changes by commands among the rows above one number and up to another, the oldest first."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS}
          FROM audit
         WHERE number > $1 AND number <= $2 AND via = 'cli'
         ORDER BY number
         LIMIT {_AT_ONCE}
        """,  # noqa: S608 - constants
        above,
        newest,
    )
    return [_from_row(row) for row in rows]


async def delete_expired(connection: Connection, *, older_than: timedelta, most: int) -> bool:
    """Delete expired rows, and the oldest beyond so many; return whether there may be more.

    Refusals are counted apart, so that many of them displace no record of a change.
    """
    await connection.execute("SELECT set_config('gateway.expires_audit', 'on', true)")
    done = await connection.execute(
        """
        DELETE FROM audit
         WHERE number IN (
               SELECT number FROM audit
                WHERE at < now() - $1::interval
                   OR (outcome = 'done' AND number < (
                          SELECT min(number) FROM (
                              SELECT number FROM audit WHERE outcome = 'done' ORDER BY number DESC LIMIT $2
                          ) AS kept))
                   OR (outcome <> 'done' AND number < (
                          SELECT min(number) FROM (
                              SELECT number FROM audit WHERE outcome <> 'done' ORDER BY number DESC LIMIT $2
                          ) AS kept))
                ORDER BY number
                LIMIT $3
               )
        """,
        older_than,
        most,
        _AT_ONCE,
    )
    await connection.execute("SELECT set_config('gateway.expires_audit', '', true)")
    return done == f"DELETE {_AT_ONCE}"
