"""People who sign in with OpenID Connect. Each has one API key, whatever their name and however often they sign in."""

from datetime import datetime

from gateway.model.api_keys import Permission
from gateway.model.errors import Forbidden
from gateway.store import api_keys
from gateway.store.database import Connection


async def upsert_person(
    connection: Connection, issuer: str, subject: str, *, name: str, permission: Permission, expires_at: datetime
) -> str:
    """Renew the person's key, and return its id; raises Forbidden when it was revoked."""
    # Two sign-ins of one person at once: the second one finds the key of the first.
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"oidc {issuer} {subject}")
    row = await connection.fetchrow(
        """
        SELECT k.key_id, k.revoked_at
          FROM oidc_people p
          JOIN api_keys k USING (key_id)
         WHERE p.issuer = $1 AND p.subject = $2
        """,
        issuer,
        subject,
    )
    if row is None:
        _, key = await api_keys.insert_key(connection, name, permission=permission, expires_at=expires_at)
        await connection.execute(
            "INSERT INTO oidc_people (issuer, subject, key_id) VALUES ($1, $2, $3)", issuer, subject, key.key_id
        )
        return key.key_id
    if row["revoked_at"] is not None:
        raise Forbidden(f"The access of {name} was revoked. To restore it: gateway keys restore {row['key_id']}")
    key_id = str(row["key_id"])
    await connection.execute(
        "UPDATE api_keys SET name = $2, permission = $3, expires_at = $4 WHERE key_id = $1",
        key_id,
        name,
        permission.scope_name,
        expires_at,
    )
    return key_id


async def expire_person(connection: Connection, issuer: str, subject: str) -> None:
    """End the person's key, as it would end by itself: the next sign-in renews it."""
    await connection.execute(
        """
        UPDATE api_keys SET expires_at = now()
         WHERE key_id = (SELECT key_id FROM oidc_people WHERE issuer = $1 AND subject = $2) AND expires_at > now()
        """,
        issuer,
        subject,
    )
