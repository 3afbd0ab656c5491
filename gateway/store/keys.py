"""API keys, kept as hashes."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime

from gateway.errors import NotFound
from gateway.store.database import Connection

_PREFIX_LENGTH = 9


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret; `prefix` is how a person recognises it."""

    key_id: str
    name: str
    prefix: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


async def insert_key(connection: Connection, name: str) -> str:
    """Return the new key: the only time it is known."""
    key = f"gw_{secrets.token_urlsafe(32)}"
    await connection.execute(
        "INSERT INTO api_keys (name, prefix, key_hash) VALUES ($1, $2, $3)",
        name,
        key[:_PREFIX_LENGTH],
        _hash(key),
    )
    return key


async def select_keys(connection: Connection) -> list[Key]:
    rows = await connection.fetch(
        """
        SELECT key_id, name, prefix, created_at, last_used_at, revoked_at
          FROM api_keys
         ORDER BY created_at
        """
    )
    return [Key(**dict(row)) for row in rows]


async def select_key(connection: Connection, key: str) -> str | None:
    """Return the id of a key that is valid, its last use noted by the minute; None for any other."""
    row = await connection.fetchrow(
        "SELECT key_id, last_used_at < now() - interval '1 minute' AS stale FROM api_keys "
        "WHERE key_hash = $1 AND revoked_at IS NULL",
        _hash(key),
    )
    if row is None:
        return None
    if row["stale"] is not False:
        await connection.execute("UPDATE api_keys SET last_used_at = now() WHERE key_id = $1", row["key_id"])
    return str(row["key_id"])


async def revoke_key(connection: Connection, named: str) -> None:
    """Refuse the key from now on, by its id, prefix or name; raises NotFound."""
    done = await connection.execute(
        "UPDATE api_keys SET revoked_at = now() WHERE $1 IN (key_id, prefix, name) AND revoked_at IS NULL",
        named,
    )
    if done == "UPDATE 0":
        raise NotFound(f"there is no valid key {named!r}; see: gateway keys list")
