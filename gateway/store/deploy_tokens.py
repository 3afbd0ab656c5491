"""Deploy tokens: an application may have an endpoint of its own, whose secret is the token."""

import secrets
from collections.abc import Collection

from gateway.model.endpoints import DEPLOY_SOURCE, Endpoint
from gateway.model.errors import NotFound
from gateway.store import undecryptable
from gateway.store.database import Connection
from gateway.store.encryption import Vault
from gateway.store.endpoints import COLUMNS, from_row, hash_token, place

_TOKEN_BYTES = 24


async def select_address(connection: Connection, vault: Vault, endpoint_id: str) -> Endpoint:
    """Return the endpoint of a deploy token. Raises NotFound."""
    row = await connection.fetchrow(
        f"SELECT {COLUMNS} FROM endpoints WHERE endpoint_id = $1 AND source = $2",  # noqa: S608 - a constant
        endpoint_id,
        DEPLOY_SOURCE,
    )
    if row is None:
        raise NotFound("the deploy token of this delivery does not exist any more")
    return from_row(row, vault)


async def select_tokens(connection: Connection, vault: Vault, application_ids: Collection[str]) -> dict[str, str]:
    """Return the tokens by application, without those that no key decrypts."""
    rows = await connection.fetch(
        "SELECT application_id, endpoint_id, secret FROM endpoints WHERE application_id = ANY($1)",
        list(application_ids),
    )
    return dict(
        undecryptable.read_decryptable(
            rows, lambda row: (row["application_id"], vault.decrypt(row["secret"], place(row["endpoint_id"])))
        )
    )


async def renew_token(connection: Connection, vault: Vault, application_id: str) -> str:
    """Replace the token and return it. The caller holds the lock of the application's queue, or has just created it."""
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    endpoint_id = await connection.fetchval(
        "SELECT coalesce((SELECT endpoint_id FROM endpoints WHERE application_id = $1), gen_random_uuid()::text)",
        application_id,
    )
    await connection.execute(
        """
        INSERT INTO endpoints (endpoint_id, application_id, source, name, token_hash, secret)
        VALUES ($1, $2, $3, '', $4, $5)
            ON CONFLICT (application_id) DO UPDATE
           SET token_hash = excluded.token_hash, secret = excluded.secret
        """,
        endpoint_id,
        application_id,
        DEPLOY_SOURCE,
        hash_token(token),
        vault.encrypt(token, place(endpoint_id)),
    )
    return token
