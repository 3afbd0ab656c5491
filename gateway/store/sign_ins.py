"""Sign-ins to the dashboard, and links that sign in once. Only hashes of their tokens are stored.

A sign-in stands for an API key: where that is revoked or expired, the sign-in is not found.
"""

from datetime import timedelta
from hashlib import sha256

from gateway.model.api_keys import Caller
from gateway.store.api_keys import GRANTS, caller_of
from gateway.store.database import Connection

_VALID_KEY = "k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())"


def _hash(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogateescape")).digest()


async def insert_sign_in(connection: Connection, token: str, key_id: str, lifetime: timedelta) -> None:
    await connection.execute(
        "INSERT INTO sign_ins (token_hash, key_id, expires_at) VALUES ($1, $2, now() + $3)",
        _hash(token),
        key_id,
        lifetime,
    )


async def select_sign_in(connection: Connection, token: str, *, idle: timedelta) -> tuple[Caller, timedelta] | None:
    """Return the caller who is signed in, and the age of the sign-in; None where the token is not valid.

    One that was not used for `idle` is not valid. Its use is noted by the minute.
    """
    row = await connection.fetchrow(
        f"""
        SELECT k.key_id, k.name, k.permission, {GRANTS}, now() - s.created_at AS age,
               s.last_used_at < now() - interval '1 minute' AS stale
          FROM sign_ins s
          JOIN api_keys k USING (key_id)
         WHERE s.token_hash = $1 AND s.expires_at > now() AND s.last_used_at > now() - $2::interval AND {_VALID_KEY}
        """,  # noqa: S608 - constants
        _hash(token),
        idle,
    )
    if row is None:
        return None
    if row["stale"]:
        await connection.execute("UPDATE sign_ins SET last_used_at = now() WHERE token_hash = $1", _hash(token))
    return caller_of(row), row["age"]


async def rotate_sign_in(connection: Connection, token: str, replaced: str, *, within: timedelta) -> None:
    """Give a sign-in another token. The former one is valid `within` this time."""
    await connection.execute(
        """
        WITH former AS (
            UPDATE sign_ins SET expires_at = least(expires_at, now() + $3), created_at = now()
             WHERE token_hash = $1
            RETURNING key_id
        )
        INSERT INTO sign_ins (token_hash, key_id, expires_at)
        SELECT $2, former.key_id, s.expires_at FROM former JOIN sign_ins s ON s.token_hash = $1
        """,
        _hash(token),
        _hash(replaced),
        within,
    )


async def delete_sign_in(connection: Connection, token: str) -> None:
    """End a sign-in, and delete those that have expired."""
    await connection.execute("DELETE FROM sign_ins WHERE token_hash = $1 OR expires_at < now()", _hash(token))


async def insert_link(connection: Connection, token: str, key_id: str, lifetime: timedelta) -> None:
    await connection.execute(
        "INSERT INTO sign_in_links (token_hash, key_id, expires_at) VALUES ($1, $2, now() + $3)",
        _hash(token),
        key_id,
        lifetime,
    )


async def delete_link(connection: Connection, token: str) -> str | None:
    """Use a link up; return the key that it signs in with, None where it is used, expired or unknown."""
    key_id: str | None = await connection.fetchval(
        f"""
        WITH used AS (
            DELETE FROM sign_in_links
             WHERE token_hash = $1 OR expires_at < now()
            RETURNING token_hash, key_id, expires_at
        )
        SELECT used.key_id
          FROM used
          JOIN api_keys k USING (key_id)
         WHERE used.token_hash = $1 AND used.expires_at > now() AND {_VALID_KEY}
        """,  # noqa: S608 - a constant
        _hash(token),
    )
    return key_id
