"""Logins that are kept for all applications, their passwords sealed."""

import asyncpg

from gateway.errors import NotFound
from gateway.reference import Domain
from gateway.registries import Credentials, Registry, Scope
from gateway.store.database import Connection
from gateway.store.vault import Vault

_COLUMNS = """
    registry_id, registry_name, registry_url, registry_type, image_prefix, domain, path, username, password,
    created_at
"""


def _place(registry_id: str) -> str:
    return f"registries:{registry_id}:password"


def _from_row(row: asyncpg.Record, vault: Vault) -> Registry:
    return Registry(
        registry_id=row["registry_id"],
        registry_name=row["registry_name"],
        registry_url=row["registry_url"],
        registry_type=row["registry_type"],
        image_prefix=row["image_prefix"],
        scope=Scope(row["domain"], row["path"]),
        credentials=Credentials(row["username"], vault.open(row["password"], _place(row["registry_id"]))),
        created_at=row["created_at"],
    )


async def select_registries(connection: Connection, vault: Vault, domain: Domain | None = None) -> list[Registry]:
    """Return all of them, or those of one domain."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM registries WHERE $1::text IS NULL OR domain = $1 ORDER BY created_at",  # noqa: S608
        domain,
    )
    return [_from_row(row, vault) for row in rows]


async def insert_registry(
    connection: Connection,
    vault: Vault,
    *,
    registry_name: str,
    registry_url: str,
    registry_type: str,
    image_prefix: str | None,
    scope: Scope,
    credentials: Credentials,
) -> Registry:
    registry_id = str(await connection.fetchval("SELECT gen_random_uuid()::text"))
    row = await connection.fetchrow(
        f"""
        INSERT INTO registries (registry_id, registry_name, registry_url, registry_type, image_prefix, domain, path,
                                username, password)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        RETURNING {_COLUMNS}
        """,  # noqa: S608
        registry_id,
        registry_name,
        registry_url,
        registry_type,
        image_prefix,
        scope.domain,
        scope.path,
        credentials.username,
        vault.seal(credentials.password, _place(registry_id)),
    )
    if row is None:  # pragma: no cover - RETURNING answers or raises
        raise NotFound("Registry not found")
    return _from_row(row, vault)


async def delete_registry(connection: Connection, vault: Vault, registry_id: str) -> Registry:
    """Return what was removed; raises NotFound."""
    row = await connection.fetchrow(
        f"DELETE FROM registries WHERE registry_id = $1 RETURNING {_COLUMNS}",  # noqa: S608
        registry_id,
    )
    if row is None:
        raise NotFound("Registry not found")
    return _from_row(row, vault)
