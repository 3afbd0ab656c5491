"""Webhook endpoints: where a registry may tell us of pushes. The token in the path is kept as a hash."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from gateway.errors import NotFound
from gateway.reference import Domain
from gateway.store.database import Connection
from gateway.store.vault import Vault


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One sender's way in."""

    endpoint_id: str
    source: str
    name: str
    secret: str = field(repr=False)
    host: Domain | None
    aliases: frozenset[str]
    settings: Mapping[str, str]
    created_at: datetime


def _place(endpoint_id: str) -> str:
    return f"endpoints:{endpoint_id}:secret"


def _hash(token: str) -> bytes:
    # 256 random bits need no slow hash, and the look-up by hash takes no longer for a near miss.
    return hashlib.sha256(token.encode()).digest()


def _from_row(row: asyncpg.Record, vault: Vault) -> Endpoint:
    return Endpoint(
        endpoint_id=row["endpoint_id"],
        source=row["source"],
        name=row["name"],
        secret=vault.open(row["secret"], _place(row["endpoint_id"])),
        host=row["host"],
        aliases=frozenset(row["aliases"]),
        settings=row["settings"],
        created_at=row["created_at"],
    )


async def select_endpoint(connection: Connection, vault: Vault, source: str, token: str) -> Endpoint:
    """Return the endpoint at this path; raises NotFound."""
    row = await connection.fetchrow(
        """
        SELECT endpoint_id, source, name, secret, host, aliases, settings, created_at
          FROM endpoints
         WHERE token_hash = $1 AND source = $2
        """,
        _hash(token),
        source,
    )
    if row is None:
        raise NotFound("there is no such webhook")
    return _from_row(row, vault)


async def select_endpoints(connection: Connection, vault: Vault) -> list[Endpoint]:
    rows = await connection.fetch(
        """
        SELECT endpoint_id, source, name, secret, host, aliases, settings, created_at
          FROM endpoints
         ORDER BY created_at
        """
    )
    return [_from_row(row, vault) for row in rows]


async def insert_endpoint(
    connection: Connection,
    vault: Vault,
    *,
    source: str,
    name: str,
    secret: str,
    host: str | None,
    aliases: Sequence[str],
    settings: Mapping[str, str],
) -> tuple[str, str]:
    """Return the new id, and the token of its path: the only time it is known."""
    endpoint_id = str(await connection.fetchval("SELECT gen_random_uuid()::text"))
    token = secrets.token_urlsafe(32)
    await connection.execute(
        """
        INSERT INTO endpoints (endpoint_id, source, name, token_hash, secret, host, aliases, settings)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        """,
        endpoint_id,
        source,
        name,
        _hash(token),
        vault.seal(secret, _place(endpoint_id)),
        host,
        list(aliases),
        dict(settings),
    )
    return endpoint_id, token


async def delete_endpoint(connection: Connection, endpoint_id: str) -> None:
    """Close the endpoint; raises NotFound."""
    if await connection.execute("DELETE FROM endpoints WHERE endpoint_id = $1", endpoint_id) == "DELETE 0":
        raise NotFound(f"there is no webhook {endpoint_id!r}; see: gateway webhooks list")
