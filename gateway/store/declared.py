"""The objects of declarations: finds and locks them by name, and records which declaration made them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gateway.model.declared.objects import DEFAULT_PROJECT, Kind
from gateway.model.errors import NotFound
from gateway.model.projects import DEFAULT
from gateway.store.database import Connection

#: the column with the id of each kind
_ID: Mapping[Kind, str] = {
    Kind.SERVER: "server_id",
    Kind.REGISTRY: "registry_id",
    Kind.PROJECT: "project_id",
    Kind.ENVIRONMENT: "environment_id",
    Kind.APPLICATION: "application_id",
    Kind.GROUP: "group_id",
    Kind.WEBHOOK: "endpoint_id",
    Kind.ALERT: "alert_id",
    Kind.KEY: "key_id",
}
#: the table of each kind, which of its rows there are, and the column with the name
_TABLE: Mapping[Kind, tuple[str, str, str]] = {
    Kind.SERVER: ("servers", "true", "name"),
    Kind.REGISTRY: ("registries", "true", "registry_name"),
    Kind.PROJECT: ("projects", "true", "name"),
    Kind.ENVIRONMENT: ("environments", "true", "name"),
    Kind.APPLICATION: ("applications", "desired <> 'deleted'", "name"),
    Kind.GROUP: ("groups", "true", "name"),
    Kind.WEBHOOK: ("endpoints", "application_id IS NULL", "name"),
    Kind.ALERT: ("alerts", "set_at IS NULL", "name"),
    Kind.KEY: ("api_keys", "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())", "name"),
}
#: the column with the id of what an object is in
_INSIDE: Mapping[Kind, str] = {Kind.ENVIRONMENT: "project_id", Kind.APPLICATION: "environment_id"}


async def select_ids(connection: Connection, kind: Kind, name: str, inside: str | None = None) -> list[str]:
    """Return the ids of the objects with this name; of an environment or application, inside that project or one."""
    table, live, column = _TABLE[kind]
    within = f"AND {_INSIDE[kind]} = $2" if kind in _INSIDE else "AND $2::text IS NULL"
    rows = await connection.fetch(
        f"SELECT {_ID[kind]} AS id FROM {table} WHERE {column} = $1 AND {live} {within} ORDER BY 1",  # noqa: S608 - constants
        name,
        inside,
    )
    return [row["id"] for row in rows]


async def select_all_ids(connection: Connection, kind: Kind, most: int) -> list[str]:
    """Return the ids of all objects of this kind, at most so many, the oldest first."""
    table, live, _ = _TABLE[kind]
    rows = await connection.fetch(
        f"SELECT {_ID[kind]} AS id FROM {table} WHERE {live} ORDER BY created_at, 1 LIMIT $1",  # noqa: S608 - constants
        most,
    )
    return [row["id"] for row in rows]


async def lock(connection: Connection, kind: Kind, object_id: str) -> None:
    """Lock an object until the transaction ends. Raises NotFound."""
    table, live, _ = _TABLE[kind]
    found = await connection.fetchval(
        f"SELECT true FROM {table} WHERE {_ID[kind]} = $1 AND {live} FOR NO KEY UPDATE",  # noqa: S608 - constants
        object_id,
    )
    if not found:
        raise NotFound(f"{kind.capitalize()} not found")


async def lock_name(connection: Connection, kind: Kind, name: str, inside: str | None) -> None:
    """Lock this name against another declaration that makes an object of it, until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 8))", f"{kind}/{inside}/{name}")


# -- names of applications, as others refer to them

_NAMED = f"""
    SELECT a.application_id, p.name AS project, e.name AS environment, a.name,
           CASE WHEN p.project_id = '{DEFAULT}' THEN '{DEFAULT_PROJECT}' ELSE p.name END AS first_name
      FROM applications a
      JOIN environments e USING (environment_id)
      JOIN projects p USING (project_id)
     WHERE a.desired <> 'deleted'
"""  # noqa: S608 - constants


async def select_referred(connection: Connection, reference: str) -> list[str]:
    """Return the applications with this name, PROJECT/ENVIRONMENT/NAME or id; where one has more of it, only that.

    The default project is also found by its original name, in case that somebody renamed it.
    """
    rows = await connection.fetch(
        f"""
        SELECT application_id,
               CASE WHEN application_id = $1 THEN 0
                    WHEN concat_ws('/', project, environment, name) = $1 THEN 1
                    WHEN concat_ws('/', first_name, environment, name) = $1 THEN 2
                    ELSE 3 END AS rank
          FROM ({_NAMED}) AS named
         WHERE $1 IN (application_id, name, concat_ws('/', project, environment, name),
                      concat_ws('/', first_name, environment, name))
         ORDER BY rank, application_id
        """,  # noqa: S608 - constants
        reference,
    )
    return [row["application_id"] for row in rows if row["rank"] == rows[0]["rank"]]


async def select_full_names(connection: Connection, application_ids: Collection[str]) -> dict[str, str]:
    """Return PROJECT/ENVIRONMENT/NAME of these applications by id: the id, where others have the same."""
    rows = await connection.fetch(
        f"""
        SELECT application_id, CASE WHEN same = 1 THEN full_name ELSE application_id END AS full_name
          FROM (SELECT application_id, full_name, count(*) OVER (PARTITION BY full_name) AS same
                  FROM (SELECT application_id, concat_ws('/', project, environment, name) AS full_name
                          FROM ({_NAMED}) AS named) AS each) AS counted
         WHERE application_id = ANY($1)
        """,  # noqa: S608 - a constant
        list(application_ids),
    )
    return {row["application_id"]: row["full_name"] for row in rows}


# -- what a declaration made


@dataclass(frozen=True, slots=True)
class Made:
    """An object that was made for a declaration."""

    kind: Kind
    object_id: str


async def select_made(connection: Connection, declaration: str) -> list[Made]:
    """Return what was made for a declaration and is still there."""
    found = []
    for kind, column in _ID.items():
        table, live, _ = _TABLE[kind]
        rows = await connection.fetch(
            f"""
            SELECT t.{column} AS id
              FROM declared_objects d
              JOIN (SELECT * FROM {table} WHERE {live}) AS t ON t.{column} = d.{column}
             WHERE d.declaration = $1
             ORDER BY d.made_at, 1
            """,  # noqa: S608 - constants
            declaration,
        )
        found += [Made(kind, row["id"]) for row in rows]
    return found


async def select_declaration(connection: Connection, kind: Kind, object_id: str) -> str | None:
    """Return the declaration that an object was made for; None for none."""
    found = await connection.fetchval(
        f"SELECT declaration FROM declared_objects WHERE {_ID[kind]} = $1",  # noqa: S608 - a constant
        object_id,
    )
    return None if found is None else str(found)


async def insert_made(connection: Connection, kind: Kind, object_id: str, declaration: str) -> None:
    """Remember that an object was made for a declaration."""
    await connection.execute(
        f"INSERT INTO declared_objects ({_ID[kind]}, declaration) VALUES ($1, $2)",  # noqa: S608 - a constant
        object_id,
        declaration,
    )


async def move_made(connection: Connection, kind: Kind, object_id: str, declaration: str) -> None:
    """Let an object that was made for one declaration belong to another one."""
    await connection.execute(
        f"UPDATE declared_objects SET declaration = $2 WHERE {_ID[kind]} = $1 AND declaration <> $2",  # noqa: S608
        object_id,
        declaration,
    )


@dataclass(frozen=True, slots=True)
class Place:
    """The names of an object, of its environment and of its project; None where it is in none."""

    project: str | None
    environment: str | None
    name: str
    inside: str | None


_PLACES: Mapping[Kind, str] = {
    Kind.ENVIRONMENT: """
        SELECT p.name AS project, NULL AS environment, e.name, e.project_id AS inside
          FROM environments e JOIN projects p USING (project_id) WHERE environment_id = $1
    """,
    Kind.APPLICATION: """
        SELECT p.name AS project, e.name AS environment, a.name, a.environment_id AS inside
          FROM applications a JOIN environments e USING (environment_id) JOIN projects p USING (project_id)
         WHERE application_id = $1
    """,
}


async def select_place(connection: Connection, kind: Kind, object_id: str) -> Place:
    """Return the names that lead to an object. Raises NotFound."""
    table, _, column = _TABLE[kind]
    row = await connection.fetchrow(
        _PLACES.get(
            kind,
            f"SELECT NULL AS project, NULL AS environment, {column} AS name, NULL AS inside"  # noqa: S608 - constants
            f" FROM {table} WHERE {_ID[kind]} = $1",
        ),
        object_id,
    )
    if row is None:
        raise NotFound(f"{kind.capitalize()} not found")
    return Place(**dict(row))


async def select_reconcile(connection: Connection, application_id: str) -> int | None:
    """Return the poll interval of an application in seconds; 0: never, None: as its registry."""
    found = await connection.fetchval("SELECT reconcile FROM applications WHERE application_id = $1", application_id)
    return None if found is None else int(found)
