"""Sign-ins to the dashboard, and links that sign in once. Only hashes of their tokens are stored.

A sign-in stands for an API key. If the key is revoked or expired, the sign-in is not found.

The token of a sign-in is `BASE.REST`. The base stays when the token is replaced, and the hash of a token begins with
the hash of its base, so that all tokens of a sign-in can be deleted together.
"""

from datetime import timedelta
from hashlib import sha256

from gateway.model.api_keys import Caller
from gateway.store.api_keys import GRANTS, caller_of
from gateway.store.database import Connection

_VALID_KEY = "k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())"


def base_of(token: str) -> str:
    """Return the part of a token that stays when it is replaced."""
    return token.partition(".")[0]


def _hash(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogateescape")).digest()


def _hash_of_sign_in(token: str) -> bytes:
    return _hash(base_of(token)) + _hash(token)


async def insert_sign_in(connection: Connection, token: str, key_id: str, lifetime: timedelta) -> None:
    await connection.execute(
        "INSERT INTO sign_ins (token_hash, key_id, expires_at) VALUES ($1, $2, now() + $3)",
        _hash_of_sign_in(token),
        key_id,
        lifetime,
    )


async def select_sign_in(connection: Connection, token: str, *, idle: timedelta) -> tuple[Caller, timedelta] | None:
    """Return the caller who is signed in, and the age of the sign-in; None where the token is not valid.

    A sign-in that was not used for `idle` is not valid. Its last use is recorded to the minute.
    """
    row = await connection.fetchrow(
        f"""
        SELECT k.key_id, k.name, k.permission, {GRANTS}, now() - s.created_at AS age,
               s.last_used_at < now() - interval '1 minute' AS stale
          FROM sign_ins s
          JOIN api_keys k USING (key_id)
         WHERE s.token_hash = $1 AND s.expires_at > now() AND s.last_used_at > now() - $2::interval AND {_VALID_KEY}
        """,  # noqa: S608 - constants
        _hash_of_sign_in(token),
        idle,
    )
    if row is None:
        return None
    if row["stale"]:
        await connection.execute(
            "UPDATE sign_ins SET last_used_at = now() WHERE token_hash = $1", _hash_of_sign_in(token)
        )
    return caller_of(row), row["age"]


async def rotate_sign_in(connection: Connection, token: str, replaced: str, *, within: timedelta) -> bool:
    """Replace the token of a sign-in by `replaced`, once; return whether the sign-in exists.

    The previous token stays valid for `within`. A browser tab that sends it again meanwhile gets the same new token, so
    that tabs agree which ask at the same time, or which did not get the answer.
    """
    done = await connection.fetchval(
        """
        WITH former AS (
            -- Locked: somebody may sign out at this moment.
            SELECT key_id, expires_at FROM sign_ins WHERE token_hash = $1 FOR UPDATE
        ), next AS (
            INSERT INTO sign_ins (token_hash, key_id, expires_at)
            SELECT $2, key_id, expires_at FROM former
            ON CONFLICT DO NOTHING
        )
        UPDATE sign_ins s
           SET expires_at = least(former.expires_at, now() + $3)
          FROM former
         WHERE s.token_hash = $1
        RETURNING true
        """,
        _hash_of_sign_in(token),
        _hash_of_sign_in(replaced),
        within,
    )
    return done is not None


async def delete_sign_in(connection: Connection, token: str) -> None:
    """End a sign-in with all of its tokens, also those that are being added. Requires a transaction."""
    first = _hash(base_of(token))
    tokens = first, first + b"\xff" * (sha256().digest_size + 1)
    # A statement sees no row that is added while it waits for a lock; the next one does.
    await connection.execute("SELECT FROM sign_ins WHERE token_hash BETWEEN $1 AND $2 FOR UPDATE", *tokens)
    await connection.execute("DELETE FROM sign_ins WHERE token_hash BETWEEN $1 AND $2", *tokens)


async def delete_expired(connection: Connection) -> None:
    """Delete the sign-ins and the links that have expired."""
    await connection.execute("DELETE FROM sign_ins WHERE expires_at < now()")
    await connection.execute("DELETE FROM sign_in_links WHERE expires_at < now()")


async def insert_link(connection: Connection, token: str, key_id: str, lifetime: timedelta) -> None:
    await connection.execute(
        "INSERT INTO sign_in_links (token_hash, key_id, expires_at) VALUES ($1, $2, now() + $3)",
        _hash(token),
        key_id,
        lifetime,
    )


async def delete_link(connection: Connection, token: str) -> str | None:
    """Use up a link, and return the key that it signs in with. None if the link is used, expired or unknown."""
    key_id: str | None = await connection.fetchval(
        f"""
        WITH used AS (
            DELETE FROM sign_in_links
             WHERE token_hash = $1
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
