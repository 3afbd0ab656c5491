"""Applications in short, for lists of environments and for searches."""

from collections.abc import Collection, Sequence

import asyncpg

from gateway.model.applications import Desired
from gateway.model.observations import State
from gateway.model.projects import ApplicationSummary
from gateway.store.database import Connection
from gateway.store.observations import CURRENT

_SUMMARIES = f"""
    SELECT a.application_id, a.environment_id, a.name, a.app_name, a.description, a.server_id, a.desired,
           a.created_at, d.status, CASE WHEN o.application_id IS NOT NULL THEN {CURRENT} END AS observed
      FROM applications a
      LEFT JOIN observations o USING (application_id)
      LEFT JOIN LATERAL (
           SELECT status
             FROM deployments
            WHERE application_id = a.application_id AND status NOT IN ('superseded', 'cancelled')
            ORDER BY created_at DESC
            LIMIT 1
           ) d ON true
     WHERE a.desired <> 'deleted'
"""  # noqa: S608 - a constant


def _from_row(row: asyncpg.Record) -> ApplicationSummary:
    observed = row["observed"]
    return ApplicationSummary(
        **{**row, "desired": Desired(row["desired"]), "observed": None if observed is None else State(observed)}
    )


async def select_summaries(connection: Connection, environment_ids: Sequence[str]) -> list[ApplicationSummary]:
    """Return the applications of these environments, the oldest first, without those that are being deleted."""
    rows = await connection.fetch(
        f"{_SUMMARIES} AND a.environment_id = ANY($1) ORDER BY a.created_at, a.application_id", environment_ids
    )
    return [_from_row(row) for row in rows]


async def select_named(connection: Connection, application_ids: Sequence[str]) -> list[ApplicationSummary]:
    """Return these applications, without those that are being deleted."""
    rows = await connection.fetch(f"{_SUMMARIES} AND a.application_id = ANY($1)", application_ids)
    return [_from_row(row) for row in rows]


_MATCHING = """
       AND ($8::text[] IS NULL OR a.application_id = ANY($8))
       AND ($1::text IS NULL OR a.environment_id = $1)
       AND ($2::text IS NULL OR a.environment_id IN (SELECT environment_id FROM environments WHERE project_id = $2))
       AND ($3 = ''
            OR strpos(lower(concat_ws(E'\\n', a.name, a.app_name, a.description, a.docker_image)), lower($3)) > 0)
       AND ($4 = '' OR strpos(lower(a.name), lower($4)) > 0)
       AND ($5 = '' OR strpos(lower(a.app_name), lower($5)) > 0)
       AND ($6 = '' OR strpos(lower(coalesce(a.description, '')), lower($6)) > 0)
       AND ($7 = '' OR strpos(lower(coalesce(a.docker_image, '')), lower($7)) > 0)
"""


async def search_summaries(
    connection: Connection,
    *,
    only: Collection[str] | None,
    environment_id: str | None,
    project_id: str | None,
    q: str,
    name: str,
    app_name: str,
    description: str,
    docker_image: str,
    limit: int,
    offset: int,
) -> tuple[list[ApplicationSummary], int]:
    """Return a page of the applications that have these words, whatever their case, newest first, and how many have.

    Of `only` these, where that is not None.
    """
    wanted = (
        environment_id,
        project_id,
        q,
        name,
        app_name,
        description,
        docker_image,
        None if only is None else list(only),
    )
    rows = await connection.fetch(
        f"{_SUMMARIES} {_MATCHING} ORDER BY a.created_at DESC, a.application_id LIMIT $9 OFFSET $10",
        *wanted,
        limit,
        offset,
    )
    total = await connection.fetchval(
        f"SELECT count(*) FROM applications a WHERE a.desired <> 'deleted' {_MATCHING}",  # noqa: S608 - constants
        *wanted,
    )
    return [_from_row(row) for row in rows], total


async def release_deleted(connection: Connection, environment_ids: Sequence[str]) -> None:
    """Remove the applications that are being deleted from these environments."""
    await connection.execute(
        "UPDATE applications SET environment_id = NULL WHERE environment_id = ANY($1) AND desired = 'deleted'",
        environment_ids,
    )
