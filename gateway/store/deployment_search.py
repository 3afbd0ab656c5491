"""Find deployments by what they are, among those of all applications."""

from collections.abc import Collection
from dataclasses import dataclass

from gateway.model.deployments import Deployment, Kind, Status
from gateway.store.database import Connection
from gateway.store.deployments import COLUMNS, from_row
from gateway.store.pagination import Cursor, Page

_AT_ONCE = 20_000  # rows that one page searches


@dataclass(frozen=True, slots=True)
class DeploymentFilter:
    """Which deployments to find; empty and None match all."""

    #: part of the application's name, or of the image
    text: str = ""
    state: Status | None = None
    kind: Kind | None = None
    application_id: str | None = None
    project_id: str | None = None


async def select_matching(
    connection: Connection, wanted: DeploymentFilter, page: Page, *, only: Collection[str] | None = None
) -> tuple[list[Deployment], Cursor | None]:
    """Return a page of deployments, newest first, and where the next one begins: of `only` these, where not None.

    They are searched among a number of rows at a time: a page may have few rows although another one follows.
    """
    moment, row_id, limit = page.bounds
    rows = await connection.fetch(
        f"""
        WITH searched AS (
            SELECT deployment_id, application_id, created_at, status, kind, reference
              FROM deployments
             WHERE (created_at, deployment_id) < ($1, $2) AND ($3::text IS NULL OR application_id = $3)
             ORDER BY created_at DESC, deployment_id DESC
             LIMIT $4
        ),
        found AS (
            SELECT s.deployment_id
              FROM searched s
              JOIN applications a USING (application_id)
              JOIN environments e USING (environment_id)
             WHERE ($5::text IS NULL OR s.status::text = $5) AND ($6::text IS NULL OR s.kind::text = $6)
               AND ($7 = '' OR strpos(lower(concat_ws(E'\\n', a.name, a.app_name, s.reference)), lower($7)) > 0)
               AND ($8::text IS NULL OR e.project_id = $8)
               AND ($9::text[] IS NULL OR s.application_id = ANY($9))
             ORDER BY s.created_at DESC, s.deployment_id DESC
             LIMIT $10
        )
        SELECT {COLUMNS}
          FROM deployments
         WHERE deployment_id = ANY (ARRAY(SELECT deployment_id FROM found))
         ORDER BY created_at DESC, deployment_id DESC
        """,  # noqa: S608 - a constant
        moment,
        row_id,
        wanted.application_id,
        _AT_ONCE,
        wanted.state,
        wanted.kind,
        wanted.text,
        wanted.project_id,
        None if only is None else list(only),
        limit,
    )
    found = [from_row(row) for row in rows]
    if len(found) >= limit:
        return found, Cursor(found[-1].created_at, found[-1].deployment_id)
    last = await connection.fetchrow(
        """
        SELECT created_at, deployment_id
          FROM deployments
         WHERE (created_at, deployment_id) < ($1, $2) AND ($3::text IS NULL OR application_id = $3)
         ORDER BY created_at DESC, deployment_id DESC
        OFFSET $4
         LIMIT 1
        """,
        moment,
        row_id,
        wanted.application_id,
        _AT_ONCE - 1,
    )
    return found, None if last is None else Cursor(last["created_at"], last["deployment_id"])
