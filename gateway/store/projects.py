"""Projects. Their variables are stored encrypted."""

from collections.abc import Collection, Iterable, Mapping

from gateway.model.errors import NotFound
from gateway.model.projects import DEFAULT, PRODUCTION, Project
from gateway.store import undecryptable
from gateway.store.database import Connection
from gateway.store.encryption import Vault
from gateway.store.pagination import FIRST, MOST, Page
from gateway.store.undecryptable import Row

_COLUMNS = "project_id, name, description, variables, created_at"
_NOT_FOUND = "Project not found"


def _place(project_id: str) -> str:
    return f"projects:{project_id}:variables"


def _from_row(row: Row, vault: Vault) -> Project:
    encrypted = row["variables"]
    return Project(
        project_id=row["project_id"],
        name=row["name"],
        description=row["description"],
        variables=None if encrypted is None else vault.decrypt(encrypted, _place(row["project_id"])),
        created_at=row["created_at"],
    )


def _read(rows: Iterable[Row], vault: Vault) -> list[Project]:
    """Return the projects, without variables that no key decrypts."""
    return [one for one, _ in undecryptable.read_all(rows, lambda row: _from_row(row, vault), ["variables"])]


async def select_projects(
    connection: Connection, vault: Vault, page: Page = FIRST, *, only: Collection[str] | None = None
) -> list[Project]:
    """Return a page of all projects, or of `only` these."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS}
          FROM projects
         WHERE (created_at, project_id) < ($1, $2) AND ($4::text[] IS NULL OR project_id = ANY($4))
         ORDER BY created_at DESC, project_id DESC
         LIMIT $3
        """,  # noqa: S608 - a constant
        *page.bounds,
        None if only is None else list(only),
    )
    return _read(rows, vault)


async def select_project_names(connection: Connection, *, only: Collection[str] | None = None) -> dict[str, str]:
    """Return the names of all projects, or of `only` these, by id: of the newest thousand."""
    rows = await connection.fetch(
        f"""
        SELECT project_id, name
          FROM projects
         WHERE $1::text[] IS NULL OR project_id = ANY($1)
         ORDER BY created_at DESC, project_id DESC
         LIMIT {MOST}
        """,  # noqa: S608 - a constant
        None if only is None else list(only),
    )
    return {row["project_id"]: row["name"] for row in rows}


_MATCHING = """
    strpos(lower(concat_ws(E'\\n', name, description)), lower($1)) > 0
    AND strpos(lower(name), lower($2)) > 0
    AND strpos(lower(coalesce(description, '')), lower($3)) > 0
"""


async def search_projects(
    connection: Connection, vault: Vault, *, q: str, name: str, description: str, limit: int, offset: int
) -> tuple[list[Project], int]:
    """Return a page of the projects that contain these words in any case, newest first, and their total."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS}
          FROM projects
         WHERE {_MATCHING}
         ORDER BY created_at DESC, project_id DESC
         LIMIT $4 OFFSET $5
        """,  # noqa: S608 - constants
        q,
        name,
        description,
        limit,
        offset,
    )
    total = await connection.fetchval(f"SELECT count(*) FROM projects WHERE {_MATCHING}", q, name, description)  # noqa: S608
    return _read(rows, vault), int(total)


async def select_project(
    connection: Connection, vault: Vault, project_id: str, *, without: Collection[str] = ()
) -> Project:
    """Raises NotFound, and UndecryptableSecret when the variables are wanted and no key decrypts them."""
    row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM projects WHERE project_id = $1", project_id)  # noqa: S608
    if row is None:
        raise NotFound(_NOT_FOUND)
    ((found, _),) = undecryptable.read_all([row], lambda one: _from_row(one, vault), without)
    return found


async def lock_project(connection: Connection, project_id: str) -> None:
    """Prevent anything from being added to the project until the transaction ends. Raises NotFound."""
    if not await connection.fetchval("SELECT true FROM projects WHERE project_id = $1 FOR UPDATE", project_id):
        raise NotFound(_NOT_FOUND)


async def insert_project(connection: Connection, name: str) -> str:
    """Return the id of the new project, which has no environments."""
    return str(await connection.fetchval("INSERT INTO projects (name) VALUES ($1) RETURNING project_id", name))


#: the columns that `update_project` sets
_SETTABLE = ("name", "description", "variables")


async def update_project(
    connection: Connection, vault: Vault, project_id: str, changes: Mapping[str, str | None]
) -> None:
    """Set the named columns, with variables in plain text. Raises NotFound."""
    columns = [column for column in _SETTABLE if column in changes]
    values = [_stored(vault, project_id, column, changes[column]) for column in columns]
    assignments = ", ".join(f"{column} = ${number}" for number, column in enumerate(columns, start=2))
    done = await connection.execute(
        f"UPDATE projects SET {assignments} WHERE project_id = $1",  # noqa: S608 - names from the constant
        project_id,
        *values,
    )
    if done == "UPDATE 0":
        raise NotFound(_NOT_FOUND)


def _stored(vault: Vault, project_id: str, column: str, value: str | None) -> str | bytes | None:
    return vault.encrypt(value, _place(project_id)) if column == "variables" and value else value or None


async def delete_project(connection: Connection, project_id: str) -> None:
    """Delete a project and its environments, which have no applications."""
    await connection.execute("DELETE FROM projects WHERE project_id = $1", project_id)


async def ensure_default(connection: Connection) -> str:
    """Return the environment of applications that are created without one; create it if necessary."""
    await connection.execute(
        "INSERT INTO projects (project_id, name) VALUES ($1, 'Default') ON CONFLICT DO NOTHING", DEFAULT
    )
    await connection.execute(
        """
        INSERT INTO environments (environment_id, project_id, name, description, is_default)
        VALUES ($1, $1, $2, 'Production environment', true)
            ON CONFLICT DO NOTHING
        """,
        DEFAULT,
        PRODUCTION,
    )
    return DEFAULT
