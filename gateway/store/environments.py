"""Environments of projects. Their variables are stored encrypted."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import asyncpg

from gateway.model import interpolation
from gateway.model.applications import Application
from gateway.model.errors import InvalidInput, NotFound
from gateway.model.projects import Environment
from gateway.store import projects, undecryptable
from gateway.store.database import Connection
from gateway.store.encryption import Vault
from gateway.store.undecryptable import Row

_COLUMNS = "environment_id, project_id, name, description, variables, is_default, created_at"
_NOT_FOUND = "Environment not found"


def _place(environment_id: str) -> str:
    return f"environments:{environment_id}:variables"


def _from_row(row: Row, vault: Vault) -> Environment:
    encrypted = row["variables"]
    return Environment(
        environment_id=row["environment_id"],
        project_id=row["project_id"],
        name=row["name"],
        description=row["description"],
        variables=None if encrypted is None else vault.decrypt(encrypted, _place(row["environment_id"])),
        is_default=row["is_default"],
        created_at=row["created_at"],
    )


async def select_environments(connection: Connection, vault: Vault, project_ids: Sequence[str]) -> list[Environment]:
    """Return the environments of these projects, the default ones first, without variables that no key decrypts."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS}
          FROM environments
         WHERE project_id = ANY($1)
         ORDER BY project_id, is_default DESC, created_at, environment_id
        """,  # noqa: S608 - a constant
        list(project_ids),
    )
    return [one for one, _ in undecryptable.read_all(rows, lambda row: _from_row(row, vault), ["variables"])]


@dataclass(frozen=True, slots=True)
class Place:
    """An environment and its project, by name."""

    environment_id: str
    name: str
    project_id: str
    project_name: str


async def select_places(connection: Connection, environment_ids: Collection[str]) -> dict[str, Place]:
    """Return the names of these environments and of their projects, by id."""
    rows = await connection.fetch(
        """
        SELECT e.environment_id, e.name, e.project_id, p.name AS project_name
          FROM environments e
          JOIN projects p USING (project_id)
         WHERE e.environment_id = ANY($1)
        """,
        list(environment_ids),
    )
    return {row["environment_id"]: Place(**row) for row in rows}


async def select_first_places(connection: Connection, most: int) -> list[Place]:
    """Return environments with their projects by name, at most so many; first the one that is used by default."""
    rows = await connection.fetch(
        """
        SELECT e.environment_id, e.name, e.project_id, p.name AS project_name
          FROM environments e
          JOIN projects p USING (project_id)
         ORDER BY p.project_id <> 'default', lower(p.name), p.project_id, NOT e.is_default, lower(e.name)
         LIMIT $1
        """,
        most,
    )
    return [Place(**row) for row in rows]


async def select_environment(
    connection: Connection, vault: Vault, environment_id: str, *, without: Collection[str] = ()
) -> Environment:
    """Raises NotFound, and UndecryptableSecret when the variables are wanted and no key decrypts them."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM environments WHERE environment_id = $1",  # noqa: S608 - a constant
        environment_id,
    )
    if row is None:
        raise NotFound(_NOT_FOUND)
    ((found, _),) = undecryptable.read_all([row], lambda one: _from_row(one, vault), without)
    return found


async def select_variables(connection: Connection, vault: Vault, environment_id: str) -> tuple[str | None, str | None]:
    """Return the variables of an environment, and those of its project."""
    environment = await select_environment(connection, vault, environment_id)
    project = await projects.select_project(connection, vault, environment.project_id)
    return environment.variables, project.variables


async def resolve_variables(
    connection: Connection, vault: Vault, application: Application
) -> tuple[Application, str | None]:
    """Return the application with its variables resolved, and the error that prevents that."""
    if not interpolation.has_references(application.environment) or application.environment_id is None:
        return application, None
    environment, project = await select_variables(connection, vault, application.environment_id)
    try:
        found = interpolation.resolve(application.environment, environment=environment, project=project)
    except InvalidInput as error:
        return application, str(error)
    return replace(application, resolved_variables=found), None


async def lock_environment(connection: Connection, environment_id: str) -> None:
    """Prevent applications from being added until the transaction ends. Raises NotFound."""
    if not await connection.fetchval(
        "SELECT true FROM environments WHERE environment_id = $1 FOR UPDATE", environment_id
    ):
        raise NotFound(_NOT_FOUND)


async def insert_environment(
    connection: Connection, project_id: str, name: str, description: str | None, *, is_default: bool = False
) -> str:
    """Return the id of the new environment. Raises NotFound for an unknown project."""
    try:
        row = await connection.fetchval(
            """
            INSERT INTO environments (project_id, name, description, is_default)
            VALUES ($1, $2, $3, $4)
            RETURNING environment_id
            """,
            project_id,
            name,
            description,
            is_default,
        )
    except asyncpg.ForeignKeyViolationError as error:
        raise NotFound("Project not found") from error
    return str(row)


#: the columns that `update_environment` sets
_SETTABLE = ("name", "description", "variables")


async def update_environment(
    connection: Connection, vault: Vault, environment_id: str, changes: Mapping[str, str | None]
) -> None:
    """Set the named columns, with variables in plain text. Raises NotFound."""
    columns = [column for column in _SETTABLE if column in changes]
    values = [_stored(vault, environment_id, column, changes[column]) for column in columns]
    assignments = ", ".join(f"{column} = ${number}" for number, column in enumerate(columns, start=2))
    done = await connection.execute(
        f"UPDATE environments SET {assignments} WHERE environment_id = $1",  # noqa: S608 - names from the constant
        environment_id,
        *values,
    )
    if done == "UPDATE 0":
        raise NotFound(_NOT_FOUND)


def _stored(vault: Vault, environment_id: str, column: str, value: str | None) -> str | bytes | None:
    return vault.encrypt(value, _place(environment_id)) if column == "variables" and value else value or None


async def delete_environment(connection: Connection, environment_id: str) -> None:
    """Delete an environment without applications."""
    await connection.execute("DELETE FROM environments WHERE environment_id = $1", environment_id)
