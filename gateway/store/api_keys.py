"""API keys, kept as hashes."""

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address

import asyncpg

from gateway.model.api_keys import Caller, Grants, Permission
from gateway.model.errors import InvalidInput, NotFound, Throttled
from gateway.model.signatures import constant_time_equal
from gateway.store.database import Connection
from gateway.store.pagination import FIRST, Page

PREFIX = "gw_"
_LENGTH = 64  # of a whole key, as Dokploy's are: some programs accept no other length
_SHOWN = 6  # characters of the secret that are shown


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate limit: at most so many requests in a window."""

    most: int
    window: timedelta


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret. A person recognises it by `prefix`; without `grants` it is not restricted."""

    key_id: str
    name: str
    prefix: str
    permission: Permission
    grants: Grants | None
    rate: Rate | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    last_used_from: str | None
    revoked_at: datetime | None


#: the grants of the key `k`
GRANTS = """
    CASE WHEN restricted THEN ARRAY(
        SELECT application_id FROM key_applications g WHERE g.key_id = k.key_id
    ) END AS applications,
    CASE WHEN restricted THEN ARRAY(
        SELECT project_id FROM key_projects g WHERE g.key_id = k.key_id
    ) END AS projects
"""
_COLUMNS = f"""
    key_id, name, prefix, permission, {GRANTS}, rate_most, rate_window, created_at, expires_at, last_used_at,
    host(last_used_from) AS last_used_from, revoked_at
"""


def _hash(key: str) -> bytes:
    # 256 random bits need no slow hash, and a lookup by hash reveals nothing through its time.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _grants(row: asyncpg.Record) -> Grants | None:
    if row["applications"] is None:
        return None
    return Grants(frozenset(row["applications"]), frozenset(row["projects"]))


def _from_row(row: asyncpg.Record) -> Key:
    return Key(
        key_id=row["key_id"],
        name=row["name"],
        prefix=row["prefix"],
        permission=Permission[row["permission"].upper()],
        grants=_grants(row),
        rate=None if row["rate_most"] is None else Rate(row["rate_most"], row["rate_window"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        last_used_at=row["last_used_at"],
        last_used_from=row["last_used_from"],
        revoked_at=row["revoked_at"],
    )


async def insert_key(
    connection: Connection,
    name: str,
    *,
    permission: Permission = Permission.ADMIN,
    grants: Grants | None = None,
    expires_at: datetime | None = None,
    rate: Rate | None = None,
    prefix: str = PREFIX,
    held_by: str | None = None,
) -> tuple[str, Key]:
    """Return the new key, which is known only now, and its row. Raises InvalidInput for a grant to an unknown id.

    `held_by` is the person that the key stands for when deployments are approved, if not the key itself.
    """
    if not name.strip():
        raise InvalidInput("a key needs a name", field="name")
    key = prefix + secrets.token_urlsafe(_LENGTH)[: max(_LENGTH - len(prefix), _LENGTH // 2)]
    key_id = await connection.fetchval(
        """
        INSERT INTO api_keys (name, prefix, key_hash, permission, restricted, expires_at, rate_most, rate_window,
                              held_by)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        RETURNING key_id
        """,
        name,
        key[: len(prefix) + _SHOWN],
        _hash(key),
        permission.scope_name,
        grants is not None,
        expires_at,
        rate and rate.most,
        rate and rate.window,
        held_by,
    )
    if grants is not None:
        await _grant(connection, key_id, grants)
    row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM api_keys k WHERE key_id = $1", key_id)  # noqa: S608
    if row is None:  # pragma: no cover - it was just made
        raise NotFound("API key not found")
    return key, _from_row(row)


async def _grant(connection: Connection, key_id: str, grants: Grants) -> None:
    for noun, ids in (("application", grants.applications), ("project", grants.projects)):
        found = await connection.fetch(
            f"""
            INSERT INTO key_{noun}s (key_id, {noun}_id)
            SELECT $1, {noun}_id FROM {noun}s WHERE {noun}_id = ANY($2)
            RETURNING {noun}_id AS id
            """,  # noqa: S608 - constants
            key_id,
            list(ids),
        )
        if missing := ids - {row["id"] for row in found}:
            raise InvalidInput(f"there is no {noun} {min(missing)!r}", field=f"{noun}Ids")


async def select_keys(connection: Connection, page: Page = FIRST, *, valid: bool = False) -> list[Key]:
    """Return a page of the keys, or of those that are neither revoked nor expired."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS}
          FROM api_keys k
         WHERE (created_at, key_id) < ($1, $2)
           AND (NOT $4 OR revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()))
         ORDER BY created_at DESC, key_id DESC
         LIMIT $3
        """,  # noqa: S608 - constants
        *page.bounds,
        valid,
    )
    return [_from_row(row) for row in rows]


async def select_first_created(connection: Connection) -> datetime:
    """Return when the first key was created; the time of this statement where there is none."""
    first: datetime = await connection.fetchval("SELECT coalesce(min(created_at), now()) FROM api_keys")
    return first


async def delete_signed_in(connection: Connection, *, older_than: timedelta) -> None:
    """Delete the keys of `gateway open` that expired so long ago that nobody asks any more who they stood for."""
    await connection.execute(
        "DELETE FROM api_keys WHERE held_by IS NOT NULL AND expires_at < now() - $1::interval", older_than
    )


async def select_key(connection: Connection, key_id: str) -> Key:
    """Return a key. Raises NotFound."""
    row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM api_keys k WHERE key_id = $1", key_id)  # noqa: S608
    if row is None:
        raise NotFound("API key not found")
    return _from_row(row)


async def select_caller(
    connection: Connection, key: str, *, calls: int = 1, remote: IPv4Address | IPv6Address | None = None
) -> Caller | None:
    """Return the caller of a key, and record its last use to the minute. None if the key is not valid.

    Raises Throttled when `calls` further calls exceed the key's rate limit. Then none of them counts.
    """
    digest = _hash(key)
    row = await connection.fetchrow(
        f"""
        SELECT key_id, name, key_hash, permission, {GRANTS}, rate_most,
               last_used_at < now() - interval '1 minute' AS stale
          FROM api_keys k
         WHERE key_hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
        """,  # noqa: S608 - a constant
        digest,
    )
    if row is None or not constant_time_equal(row["key_hash"], digest):
        return None
    if row["rate_most"] is not None:
        await _count(connection, row["key_id"], calls)
    if row["stale"] is not False:
        await connection.execute(
            "UPDATE api_keys SET last_used_at = now(), last_used_from = $2 WHERE key_id = $1", row["key_id"], remote
        )
    return caller_of(row)


def caller_of(row: asyncpg.Record) -> Caller:
    """Return the caller of a row with key_id, name, permission and the grants."""
    return Caller(row["key_id"], row["name"], Permission[row["permission"].upper()], _grants(row))


async def select_valid(connection: Connection, digests: Collection[bytes]) -> frozenset[bytes]:
    """Return those of these hashes that belong to valid keys."""
    rows = await connection.fetch(
        """
        SELECT key_hash
          FROM api_keys
         WHERE key_hash = ANY($1::bytea[]) AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
        """,
        list(digests),
    )
    return frozenset(row["key_hash"] for row in rows)


async def _count(connection: Connection, key_id: str, calls: int) -> None:
    """Count these calls against the rate limit of a key, all or none. Raises Throttled when they exceed it."""
    row = await connection.fetchrow(
        """
        WITH seen AS (
            SELECT key_id, name, rate_most, rate_window, running,
                   CASE WHEN running THEN window_from ELSE now() END AS start,
                   CASE WHEN running THEN window_count ELSE 0 END + $2 AS calls
              FROM (
                   SELECT *, coalesce(window_from BETWEEN now() - rate_window AND now() + rate_window,
                                       false) AS running
                     FROM api_keys WHERE key_id = $1 FOR UPDATE
                   ) AS held
        ), counted AS (
            UPDATE api_keys k
               SET window_from = seen.start, window_count = seen.calls
              FROM seen
             WHERE k.key_id = seen.key_id AND seen.calls <= seen.rate_most
        )
        SELECT name, rate_most, rate_window, calls > rate_most AS over,
               extract(epoch FROM start + rate_window - now())::float8 AS rest
          FROM seen
        """,
        key_id,
        calls,
    )
    if row is not None and row["over"]:
        raise Throttled(
            f"key {row['name']!r} is limited to {row['rate_most']} requests in {row['rate_window']}"
            + (f", and each of the {calls} calls of a batch counts" if calls > 1 else ""),
            retry_after=max(row["rest"], 1),
        )


async def revoke_by_id(connection: Connection, key_id: str) -> bool:
    """Revoke the key; return whether it was valid."""
    done = await connection.execute(
        "UPDATE api_keys SET revoked_at = now() WHERE key_id = $1 AND revoked_at IS NULL", key_id
    )
    return done != "UPDATE 0"


async def restore_by_id(connection: Connection, key_id: str) -> bool:
    """Undo the revocation of a key; return whether there was one."""
    done = await connection.execute(
        "UPDATE api_keys SET revoked_at = NULL WHERE key_id = $1 AND revoked_at IS NOT NULL", key_id
    )
    return bool(done == "UPDATE 1")


async def revoke_keys(connection: Connection, named: str) -> int:
    """Revoke every key with this id, prefix or name, and return how many. Raises NotFound if there is none."""
    done = await connection.execute(
        "UPDATE api_keys SET revoked_at = now() WHERE $1 IN (key_id, prefix, name) AND revoked_at IS NULL",
        named,
    )
    if done == "UPDATE 0":
        raise NotFound(f"there is no valid key {named!r}; see: gateway keys list")
    return int(done.removeprefix("UPDATE "))
