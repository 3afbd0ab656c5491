"""Servers. Their credentials are stored encrypted."""

from dataclasses import replace

import asyncpg
import orjson

from gateway.model.errors import Conflict, NotFound
from gateway.model.servers import Access, Server
from gateway.store import undecryptable
from gateway.store.database import Connection
from gateway.store.encryption import Vault
from gateway.store.pagination import FIRST, Page
from gateway.store.undecryptable import Row

CHANNEL = "gateway_servers"

_COLUMNS = "server_id, name, description, host, credentials, engine_id, error, created_at, changed_at"
_NOT_FOUND = "Server not found"


def _place(server_id: str) -> str:
    return f"servers:{server_id}:credentials"


def _from_row(row: Row, vault: Vault) -> Server:
    encrypted = row["credentials"]
    secrets = {} if encrypted is None else orjson.loads(vault.decrypt(encrypted, _place(row["server_id"])))
    return Server(
        server_id=row["server_id"],
        name=row["name"],
        description=row["description"],
        access=Access(row["host"], **secrets),
        engine_id=row["engine_id"],
        error=row["error"],
        created_at=row["created_at"],
        changed_at=row["changed_at"],
    )


def _read(row: Row, vault: Vault) -> Server:
    """Return a server; one whose credentials no key decrypts has the error instead."""
    ((server, why),) = undecryptable.read_all([row], lambda one: _from_row(one, vault), ["credentials"])
    return server if why is None else replace(server, error=why, unreadable=why)


def _encrypt_credentials(vault: Vault, server_id: str, access: Access) -> bytes | None:
    secrets = access.secrets()
    return vault.encrypt(orjson.dumps(secrets).decode(), _place(server_id)) if secrets else None


async def notify(connection: Connection) -> None:
    """Notify every gateway, after the commit, that the list of servers changed."""
    await connection.execute(f"NOTIFY {CHANNEL}")


async def select_servers(connection: Connection, vault: Vault) -> list[Server]:
    rows = await connection.fetch(f"SELECT {_COLUMNS} FROM servers ORDER BY created_at, server_id")  # noqa: S608
    return [_read(row, vault) for row in rows]


async def select_servers_page(connection: Connection, vault: Vault, page: Page = FIRST) -> list[Server]:
    """Return a page of the servers."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS}
          FROM servers
         WHERE (created_at, server_id) < ($1, $2)
         ORDER BY created_at DESC, server_id DESC
         LIMIT $3
        """,  # noqa: S608 - a constant
        *page.bounds,
    )
    return [_read(row, vault) for row in rows]


async def select_server(connection: Connection, vault: Vault, named: str) -> Server:
    """Return the server with this id or name. Raises NotFound."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM servers WHERE $1 IN (server_id, name) ORDER BY server_id = $1 DESC LIMIT 1",  # noqa: S608
        named,
    )
    if row is None:
        raise NotFound(_NOT_FOUND)
    return _read(row, vault)


async def insert_server(connection: Connection, vault: Vault, *, name: str, description: str, access: Access) -> Server:
    """Return the new server. Raises Conflict when the name is taken."""
    server_id = str(await connection.fetchval("SELECT gen_random_uuid()::text"))
    try:
        row = await connection.fetchrow(
            f"""
            INSERT INTO servers (server_id, name, description, host, credentials)
            VALUES ($1, $2, $3, $4, $5)
            RETURNING {_COLUMNS}
            """,  # noqa: S608
            server_id,
            name,
            description,
            access.host,
            _encrypt_credentials(vault, server_id, access),
        )
    except asyncpg.UniqueViolationError as error:
        raise Conflict(f"there is a server called {name!r} already") from error
    if row is None:  # pragma: no cover - RETURNING returns a row or raises
        raise NotFound(_NOT_FOUND)
    return _from_row(row, vault)


async def update_server(
    connection: Connection, vault: Vault, server_id: str, *, name: str, description: str, access: Access
) -> None:
    """Set all fields. Raises Conflict when the name is taken."""
    try:
        await connection.execute(
            """
            UPDATE servers
               SET name = $2, description = $3, host = $4, credentials = $5, error = NULL, changed_at = now()
             WHERE server_id = $1
            """,
            server_id,
            name,
            description,
            access.host,
            _encrypt_credentials(vault, server_id, access),
        )
    except asyncpg.UniqueViolationError as error:
        raise Conflict(f"there is a server called {name!r} already") from error


async def update_error(connection: Connection, server_id: str, error: str) -> None:
    """Record why no engine answers at the server. `engines.upsert_seen` clears this."""
    await connection.execute(
        "UPDATE servers SET error = $2 WHERE server_id = $1 AND error IS DISTINCT FROM $2", server_id, error
    )


async def delete_server(connection: Connection, server_id: str) -> None:
    """Delete a server. Raises Conflict while applications are on it."""
    try:
        await connection.execute("DELETE FROM servers WHERE server_id = $1", server_id)
    except asyncpg.ForeignKeyViolationError as error:
        raise Conflict("applications are on this server: delete them first") from error
