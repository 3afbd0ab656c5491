"""Webhook endpoints. The token of the path is stored as a hash, the secret encrypted."""

import hashlib
import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

from gateway.model.endpoints import Endpoint, Network
from gateway.model.errors import NotFound
from gateway.store import undecryptable
from gateway.store.database import Connection
from gateway.store.encryption import Vault
from gateway.store.pagination import FIRST, Page
from gateway.store.undecryptable import Row

COLUMNS = """
    endpoint_id, source, name, secret, host, aliases, settings, repositories, networks, rate, enabled, created_at,
    application_id, xmin::text AS version,
    CASE WHEN former_until > now() THEN former_secret END AS former_secret,
    CASE WHEN former_until > now() THEN former_until END AS former_until
"""


def place(endpoint_id: str, column: str = "secret") -> str:
    return f"endpoints:{endpoint_id}:{column}"


def hash_token(token: str) -> bytes:
    # 256 random bits need no slow hash, and a lookup by hash reveals nothing through its time.
    return hashlib.sha256(token.encode()).digest()


def from_row(row: Row, vault: Vault) -> Endpoint:
    endpoint_id, former = row["endpoint_id"], row["former_secret"]
    return Endpoint(
        endpoint_id=endpoint_id,
        source=row["source"],
        name=row["name"],
        secret="" if row["secret"] is None else vault.decrypt(row["secret"], place(endpoint_id)),
        former_secret=None if former is None else vault.decrypt(former, place(endpoint_id, "former_secret")),
        former_until=row["former_until"],
        host=row["host"],
        aliases=frozenset(row["aliases"]),
        settings=row["settings"],
        repositories=tuple(row["repositories"]),
        networks=tuple(row["networks"]),
        rate=row["rate"],
        enabled=row["enabled"],
        created_at=row["created_at"],
        application_id=row["application_id"],
        version=row["version"],
    )


async def select_endpoint(connection: Connection, vault: Vault, source: str, token: str) -> Endpoint:
    """Return the endpoint of this path. Raises NotFound."""
    row = await connection.fetchrow(
        f"""
        SELECT {COLUMNS}
          FROM endpoints
         WHERE (token_hash = $1 OR (former_token_hash = $1 AND former_until > now())) AND source = $2
        """,  # noqa: S608 - a constant
        hash_token(token),
        source,
    )
    if row is None:
        raise NotFound("there is no such webhook")
    return from_row(row, vault)


async def select_endpoint_by_id(connection: Connection, vault: Vault, endpoint_id: str) -> Endpoint:
    """Return a registry's endpoint. Raises NotFound."""
    row = await connection.fetchrow(
        f"SELECT {COLUMNS} FROM endpoints WHERE endpoint_id = $1 AND application_id IS NULL",  # noqa: S608 - a constant
        endpoint_id,
    )
    if row is None:
        raise _unknown(endpoint_id)
    return from_row(row, vault)


async def select_endpoints(connection: Connection, vault: Vault, page: Page = FIRST) -> list[Endpoint]:
    """Return a page of the registries' endpoints, without secrets that no key decrypts."""
    rows = await connection.fetch(
        f"""
        SELECT {COLUMNS}
          FROM endpoints
         WHERE application_id IS NULL AND (created_at, endpoint_id) < ($1, $2)
         ORDER BY created_at DESC, endpoint_id DESC
         LIMIT $3
        """,  # noqa: S608 - a constant
        *page.bounds,
    )
    found = undecryptable.read_all(rows, lambda row: from_row(row, vault), ["secret", "former_secret"])
    return [one for one, _ in found]


async def select_endpoint_names(connection: Connection, endpoint_ids: Collection[str]) -> dict[str, str]:
    """Return the names of these endpoints of registries by id; of those without a name, their source."""
    rows = await connection.fetch(
        """
        SELECT endpoint_id, coalesce(nullif(name, ''), source) AS name
          FROM endpoints
         WHERE endpoint_id = ANY($1) AND application_id IS NULL
        """,
        list(endpoint_ids),
    )
    return {row["endpoint_id"]: row["name"] for row in rows}


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
    repositories: Sequence[str] = (),
    networks: Sequence[Network] = (),
    rate: int | None = None,
) -> tuple[str, str]:
    """Return the id and the token of the path, which is known only now."""
    endpoint_id = str(await connection.fetchval("SELECT gen_random_uuid()::text"))
    token = secrets.token_urlsafe(32)
    await connection.execute(
        """
        INSERT INTO endpoints (endpoint_id, source, name, token_hash, secret, host, aliases, settings,
                               repositories, networks, rate)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        """,
        endpoint_id,
        source,
        name,
        hash_token(token),
        vault.encrypt(secret, place(endpoint_id)),
        host,
        list(aliases),
        dict(settings),
        list(repositories),
        list(networks),
        rate,
    )
    return endpoint_id, token


async def rotate_secret(
    connection: Connection, vault: Vault, endpoint: Endpoint, secret: str, grace: timedelta
) -> None:
    """Replace the secret; the former one stays valid for the grace period."""
    await connection.execute(
        """
        UPDATE endpoints
           SET secret = $2, former_secret = $3, former_until = now() + $4::interval, former_token_hash = NULL
         WHERE endpoint_id = $1
        """,
        endpoint.endpoint_id,
        vault.encrypt(secret, place(endpoint.endpoint_id)),
        vault.encrypt(endpoint.secret, place(endpoint.endpoint_id, "former_secret")),
        grace,
    )


async def rotate_token(connection: Connection, endpoint_id: str, grace: timedelta) -> str:
    """Replace the token of the path and return it; the former one stays valid for the grace period."""
    token = secrets.token_urlsafe(32)
    await connection.execute(
        """
        UPDATE endpoints
           SET token_hash = $2, former_token_hash = token_hash, former_until = now() + $3::interval,
               former_secret = NULL
         WHERE endpoint_id = $1
        """,
        endpoint_id,
        hash_token(token),
        grace,
    )
    return token


async def update_endpoint(
    connection: Connection,
    endpoint_id: str,
    *,
    name: str,
    host: str | None,
    aliases: Sequence[str],
    settings: Mapping[str, str],
    repositories: Sequence[str],
    networks: Sequence[Network],
    rate: int | None,
) -> None:
    """Set all fields but the source, the path and the secret."""
    await connection.execute(
        """
        UPDATE endpoints
           SET name = $2, host = $3, aliases = $4, settings = $5, repositories = $6, networks = $7, rate = $8
         WHERE endpoint_id = $1 AND application_id IS NULL
        """,
        endpoint_id,
        name,
        host,
        list(aliases),
        dict(settings),
        list(repositories),
        list(networks),
        rate,
    )


async def update_enabled(connection: Connection, endpoint_id: str, *, enabled: bool) -> None:
    """Enable or disable the endpoint. Raises NotFound."""
    done = await connection.execute(
        "UPDATE endpoints SET enabled = $2 WHERE endpoint_id = $1 AND application_id IS NULL", endpoint_id, enabled
    )
    if done == "UPDATE 0":
        raise _unknown(endpoint_id)


async def delete_endpoint(connection: Connection, endpoint_id: str) -> None:
    """Delete the endpoint. Raises NotFound."""
    done = await connection.execute(
        "DELETE FROM endpoints WHERE endpoint_id = $1 AND application_id IS NULL", endpoint_id
    )
    if done == "DELETE 0":
        raise _unknown(endpoint_id)


def _unknown(endpoint_id: str) -> NotFound:
    return NotFound(f"there is no webhook {endpoint_id!r}; see: gateway webhooks list")
