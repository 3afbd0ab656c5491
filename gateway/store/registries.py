"""Registry credentials for all applications. Passwords are stored encrypted."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gateway.model.ecr import AwsIdentity
from gateway.model.errors import NotFound
from gateway.model.reference import Domain
from gateway.model.registries import Credentials, Registration, Registry, RegistryScope, RegistryType
from gateway.store import undecryptable
from gateway.store.database import Connection
from gateway.store.encryption import Vault
from gateway.store.pagination import FIRST, Page
from gateway.store.undecryptable import Row

_COLUMNS = """
    registry_id, registry_name, registry_url, registry_type, image_prefix, domain, path, username, password,
    authority, amazon, created_at
"""
_NOT_FOUND = "Registry not found"


def _place(registry_id: str) -> str:
    return f"registries:{registry_id}:password"


def _from_row(row: Row, vault: Vault) -> Registry:
    return Registry(
        registry_id=row["registry_id"],
        registry_name=row["registry_name"],
        registry_url=row["registry_url"],
        registry_type=RegistryType(row["registry_type"]),
        image_prefix=row["image_prefix"],
        scope=RegistryScope(row["domain"], row["path"]),
        login=_login(
            row["username"],
            "" if row["password"] is None else vault.decrypt(row["password"], _place(row["registry_id"])),
            row["amazon"],
        ),
        ca_certificates=row["authority"],
        created_at=row["created_at"],
    )


def _read(rows: Sequence[Row], vault: Vault) -> list[Registry]:
    """Return the registries; one whose password no key decrypts has the error instead."""
    found = undecryptable.read_all(rows, lambda row: _from_row(row, vault), ["password"])
    return [registry if why is None else replace(registry, unreadable=why) for registry, why in found]


def _login(username: str, password: str, amazon: Mapping[str, Any] | None) -> Credentials | AwsIdentity | None:
    if amazon is not None:
        return AwsIdentity(access_key_id=username, secret_access_key=password, **amazon)
    return Credentials(username, password) if username else None


def _values(vault: Vault, registry_id: str, registration: Registration) -> tuple[object, ...]:
    """Return the values of the columns, in their order."""
    login, scope = registration.login, registration.scope
    username, password, amazon = "", "", None
    if isinstance(login, AwsIdentity):
        username, password = login.access_key_id, login.secret_access_key
        amazon = {name: getattr(login, name) for name in ("region", "public", "profile", "role_arn", "external_id")}
    elif login is not None:
        username, password = login.username, login.password
    return (
        registry_id,
        registration.registry_name,
        registration.registry_url,
        registration.registry_type,
        registration.image_prefix,
        scope.domain,
        scope.path,
        username,
        vault.encrypt(password, _place(registry_id)),
        registration.ca_certificates,
        amazon,
    )


async def select_registries_page(connection: Connection, vault: Vault, page: Page = FIRST) -> list[Registry]:
    """Return a page of the registries."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS}
          FROM registries
         WHERE (created_at, registry_id) < ($1, $2)
         ORDER BY created_at DESC, registry_id DESC
         LIMIT $3
        """,  # noqa: S608 - a constant
        *page.bounds,
    )
    return _read(rows, vault)


async def select_registries(connection: Connection, vault: Vault, domain: Domain | None = None) -> list[Registry]:
    """Return all registries, or those of one domain."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM registries WHERE $1::text IS NULL OR domain = $1 ORDER BY created_at",  # noqa: S608
        domain,
    )
    return _read(rows, vault)


async def select_registry(connection: Connection, vault: Vault, registry_id: str) -> Registry:
    """Return a registry and lock its row until the transaction ends. Raises NotFound."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM registries WHERE registry_id = $1 FOR NO KEY UPDATE",  # noqa: S608
        registry_id,
    )
    if row is None:
        raise NotFound(_NOT_FOUND)
    return _read([row], vault)[0]


async def insert_registry(connection: Connection, vault: Vault, registration: Registration) -> Registry:
    registry_id = str(await connection.fetchval("SELECT gen_random_uuid()::text"))
    row = await connection.fetchrow(
        f"""
        INSERT INTO registries (registry_id, registry_name, registry_url, registry_type, image_prefix, domain, path,
                                username, password, authority, amazon)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        RETURNING {_COLUMNS}
        """,  # noqa: S608
        *_values(vault, registry_id, registration),
    )
    if row is None:  # pragma: no cover - RETURNING returns a row or raises
        raise NotFound(_NOT_FOUND)
    return _from_row(row, vault)


async def update_registry(connection: Connection, vault: Vault, registry_id: str, registration: Registration) -> None:
    await connection.execute(
        """
        UPDATE registries
           SET registry_name = $2, registry_url = $3, registry_type = $4, image_prefix = $5, domain = $6, path = $7,
               username = $8, password = $9, authority = $10, amazon = $11
         WHERE registry_id = $1
        """,
        *_values(vault, registry_id, registration),
    )


async def delete_registry(connection: Connection, vault: Vault, registry_id: str) -> Registry:
    """Delete a registry and return it. Raises NotFound."""
    row = await connection.fetchrow(
        f"DELETE FROM registries WHERE registry_id = $1 RETURNING {_COLUMNS}",  # noqa: S608
        registry_id,
    )
    if row is None:
        raise NotFound(_NOT_FOUND)
    return _read([row], vault)[0]
