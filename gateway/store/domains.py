"""The domains of applications. API clients store them; the gateway does not use them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from gateway.model.errors import NotFound
from gateway.store.database import Connection

_COLUMNS = "domain_id, number, application_id, host, columns, created_at"


@dataclass(frozen=True, slots=True)
class Domain:
    """A host name; `columns` has the other fields of the API."""

    domain_id: str
    number: int
    application_id: str
    host: str
    columns: Mapping[str, object]
    created_at: datetime


def _found(row: asyncpg.Record | None) -> Domain:
    if row is None:
        raise NotFound("Domain not found")
    return Domain(**dict(row))


async def insert_domain(
    connection: Connection, application_id: str, host: str, columns: Mapping[str, object]
) -> Domain:
    row = await connection.fetchrow(
        f"INSERT INTO domains (application_id, host, columns) VALUES ($1, $2, $3) RETURNING {_COLUMNS}",  # noqa: S608
        application_id,
        host,
        dict(columns),
    )
    return _found(row)


async def select_domain(connection: Connection, domain_id: str) -> Domain:
    """Return a domain. Raises NotFound."""
    return _found(await connection.fetchrow(f"SELECT {_COLUMNS} FROM domains WHERE domain_id = $1", domain_id))  # noqa: S608


async def select_domains(connection: Connection, application_id: str) -> list[Domain]:
    """Return the domains of an application, the oldest first."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM domains WHERE application_id = $1 ORDER BY number LIMIT 1000",  # noqa: S608
        application_id,
    )
    return [_found(row) for row in rows]


async def update_domain(
    connection: Connection, domain_id: str, *, host: str | None, columns: Mapping[str, object]
) -> Domain:
    """Set the given fields and return the domain. Raises NotFound."""
    row = await connection.fetchrow(
        f"""
        UPDATE domains SET host = coalesce($2, host), columns = columns || $3
         WHERE domain_id = $1
        RETURNING {_COLUMNS}
        """,  # noqa: S608
        domain_id,
        host,
        dict(columns),
    )
    return _found(row)


async def delete_domain(connection: Connection, domain_id: str) -> Domain:
    """Delete the domain and return it. Raises NotFound."""
    row = await connection.fetchrow(
        f"DELETE FROM domains WHERE domain_id = $1 RETURNING {_COLUMNS}",  # noqa: S608
        domain_id,
    )
    return _found(row)
