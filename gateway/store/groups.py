"""Groups: applications that go out together, in waves."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from gateway.model.errors import Conflict, NotFound
from gateway.store.database import Connection
from gateway.store.pagination import FIRST, Page

#: a group waits for further pushes for at most so many times its settling time
_PATIENCE = 10


@dataclass(frozen=True, slots=True)
class Group:
    """A row, with its members."""

    group_id: str
    name: str
    description: str
    #: seconds without a further push after which gathered deployments go out; None: nothing is gathered
    settle: int | None
    created_at: datetime
    #: the waves of the members, by application
    waves: Mapping[str, int]


_SELECT = """
    SELECT g.group_id, g.name, g.description, g.settle, g.created_at,
           coalesce((SELECT jsonb_object_agg(m.application_id, m.wave) FROM group_members m
                      WHERE m.group_id = g.group_id), '{}') AS waves
      FROM groups g
"""


def _group(row: asyncpg.Record) -> Group:
    return Group(**dict(row))


async def insert_group(connection: Connection, *, name: str, description: str, settle: int | None) -> str:
    """Insert a group without members and return its id. Raises Conflict when the name is taken."""
    try:
        return str(
            await connection.fetchval(
                "INSERT INTO groups (name, description, settle) VALUES ($1, $2, $3) RETURNING group_id",
                name,
                description,
                settle,
            )
        )
    except asyncpg.UniqueViolationError as error:
        raise _taken(name) from error


def _taken(name: str) -> Conflict:
    return Conflict(f"A group with the name {name!r} exists already: choose another name")


async def update_group(
    connection: Connection, group_id: str, *, name: str, description: str, settle: int | None
) -> None:
    """Change a group. Raises NotFound, and Conflict when the name is taken, or a member's deployments are gathered."""
    try:
        done = await connection.execute(
            "UPDATE groups SET name = $2, description = $3, settle = $4 WHERE group_id = $1",
            group_id,
            name,
            description,
            settle,
        )
    except asyncpg.UniqueViolationError as error:
        raise _taken(name) from error
    if done != "UPDATE 1":
        raise NotFound("Group not found")


async def replace_members(connection: Connection, group_id: str, waves: Mapping[str, int]) -> None:
    """Make these applications, with their waves, the members of a group.

    Raises NotFound where one does not exist, Conflict where another group gathers the deployments of one.
    """
    await connection.execute(
        "DELETE FROM group_members WHERE group_id = $1 AND application_id <> ALL($2)", group_id, list(waves)
    )
    try:
        await connection.execute(
            """
            INSERT INTO group_members AS m (group_id, application_id, wave, gathers)
            SELECT g.group_id, wanted.application_id, wanted.wave, g.settle IS NOT NULL
              FROM groups g, unnest($2::text[], $3::integer[]) AS wanted (application_id, wave)
             WHERE g.group_id = $1
             ORDER BY wanted.application_id
                ON CONFLICT (group_id, application_id) DO UPDATE SET wave = excluded.wave, gathers = excluded.gathers
            """,
            group_id,
            list(waves),
            list(waves.values()),
        )
    except asyncpg.UniqueViolationError as error:
        raise Conflict(
            "Another group with `settle` has one of these applications: only one group can gather its pushes"
        ) from error
    except asyncpg.ForeignKeyViolationError as error:
        raise NotFound("Application not found") from error


async def delete_group(connection: Connection, group_id: str) -> None:
    """Delete a group. A release of it goes on."""
    await connection.execute("DELETE FROM groups WHERE group_id = $1", group_id)


async def select_group(connection: Connection, group_id: str) -> Group:
    """Return a group. Raises NotFound."""
    row = await connection.fetchrow(f"{_SELECT} WHERE g.group_id = $1", group_id)
    if row is None:
        raise NotFound("Group not found")
    return _group(row)


async def lock_group(connection: Connection, group_id: str) -> None:
    """Lock a group. Raises NotFound."""
    if await connection.fetchval("SELECT 1 FROM groups WHERE group_id = $1 FOR NO KEY UPDATE", group_id) is None:
        raise NotFound("Group not found")


async def select_groups(
    connection: Connection, page: Page = FIRST, *, only: Collection[str] | None = None
) -> list[Group]:
    """Return a page of groups, newest first; with `only`, those whose members are all of these applications."""
    rows = await connection.fetch(
        f"""
        {_SELECT}
         WHERE (g.created_at, g.group_id) < ($1, $2)
           AND ($4::text[] IS NULL OR NOT EXISTS (
                   SELECT FROM group_members m WHERE m.group_id = g.group_id AND m.application_id <> ALL($4)
               ) AND EXISTS (SELECT FROM group_members m WHERE m.group_id = g.group_id))
         ORDER BY g.created_at DESC, g.group_id DESC
         LIMIT $3
        """,  # noqa: S608 - a constant
        *page.bounds,
        None if only is None else list(only),
    )
    return [_group(row) for row in rows]


def place(group: Group) -> tuple[datetime, str]:
    """Return the cursor of a group."""
    return group.created_at, group.group_id


async def select_member_ids(connection: Connection, group_id: str) -> list[str]:
    """Return the applications of a group."""
    rows = await connection.fetch("SELECT application_id FROM group_members WHERE group_id = $1", group_id)
    return [row["application_id"] for row in rows]


async def select_settled(connection: Connection) -> list[str]:
    """Return the groups whose gathered deployments go out now: no push came for the settling time, or one is old."""
    rows = await connection.fetch(
        f"""
        SELECT g.group_id
          FROM groups g
          JOIN group_members m USING (group_id)
          JOIN deployments d ON d.application_id = m.application_id AND d.status = 'queued'
         WHERE m.gathers AND d.release_id IS NULL AND d.kind IN ('deploy', 'redeploy')
           AND NOT EXISTS (SELECT FROM release_members o WHERE o.application_id = m.application_id AND o.open)
         GROUP BY g.group_id, g.settle
        HAVING max(d.requested_at) NOT BETWEEN now() - make_interval(secs => g.settle)
                   AND now() + make_interval(secs => g.settle)
            OR min(d.created_at) < now() - make_interval(secs => g.settle * {_PATIENCE})
        """  # noqa: S608 - a constant
    )
    return [row["group_id"] for row in rows]


async def select_gathered(connection: Connection, group_id: str) -> dict[str, str]:
    """Return the queued deployments of a group's members that are to go out together, by application.

    The caller holds the locks of the applications.
    """
    rows = await connection.fetch(
        """
        SELECT application_id, d.deployment_id
          FROM group_members m
          JOIN deployments d USING (application_id)
         WHERE m.group_id = $1 AND m.gathers AND d.status = 'queued' AND d.release_id IS NULL
           AND d.kind IN ('deploy', 'redeploy')
           AND NOT EXISTS (SELECT FROM release_members o WHERE o.application_id = m.application_id AND o.open)
           FOR NO KEY UPDATE OF d
        """,
        group_id,
    )
    return {row["application_id"]: row["deployment_id"] for row in rows}
