"""All encrypted columns, and their re-encryption with another master key."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.model.errors import Unavailable
from gateway.store.database import Pool, statement
from gateway.store.encryption import Vault

_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Column:
    """A column of encrypted secrets; `key` is the primary key of the table."""

    table: str
    key: str
    name: str

    def place(self, row: str) -> str:
        return f"{self.table}:{row}:{self.name}"


#: every encrypted column of the schema; a test compares this list with the schema
ENCRYPTED = (
    Column("alerts", "alert_id", "address"),
    Column("applications", "application_id", "registry_password"),
    Column("applications", "application_id", "environment"),
    Column("applications", "application_id", "base"),
    Column("applications", "application_id", "files"),
    Column("applications", "application_id", "other_secrets"),
    Column("deployments", "deployment_id", "ran"),
    Column("endpoints", "endpoint_id", "secret"),
    Column("endpoints", "endpoint_id", "former_secret"),
    Column("environments", "environment_id", "variables"),
    Column("gates", "gate_id", "secret"),
    Column("projects", "project_id", "variables"),
    Column("registries", "registry_id", "password"),
    Column("servers", "server_id", "credentials"),
    Column("swaps", "application_id", "ran"),
)


@dataclass(slots=True)
class Progress:
    """How many secrets were re-encrypted or current already, and the places of those that no key decrypts."""

    reencrypted: int = 0
    current: int = 0
    lost: list[str] = field(default_factory=list)


async def reencrypt(pool: Pool, vault: Vault, columns: Iterable[Column] = ENCRYPTED) -> Progress:
    """Encrypt with the newest key what another key encrypted, row by row; a second call continues.

    A row that is changed meanwhile is skipped, since the change has encrypted it anew.
    """
    progress = Progress()
    for column in columns:
        after: str | None = ""
        while after is not None:
            after = await _reencrypt_batch(pool, vault, column, after, progress)
    return progress


async def _reencrypt_batch(pool: Pool, vault: Vault, column: Column, after: str, progress: Progress) -> str | None:
    """Process the next rows; return the last key, None when there are no more."""
    async with statement(pool) as connection:
        rows = await connection.fetch(
            f"""
            SELECT {column.key} AS key, {column.name} AS encrypted
              FROM {column.table}
             WHERE {column.key} > $1 AND {column.name} IS NOT NULL
             ORDER BY {column.key}
             LIMIT {_AT_ONCE}
            """,  # noqa: S608 - constants
            after,
        )
        for row in rows:
            place, before = column.place(row["key"]), row["encrypted"]
            if vault.is_current(before, place):
                progress.current += 1
                continue
            try:
                anew = vault.encrypt(vault.decrypt(before, place), place)
            except Unavailable:
                progress.lost.append(place)
                continue
            await connection.execute(
                f"UPDATE {column.table} SET {column.name} = $2 "  # noqa: S608 - constants
                f"WHERE {column.key} = $1 AND {column.name} = $3",
                row["key"],
                anew,
                before,
            )
            progress.reencrypted += 1
    return rows[-1]["key"] if rows else None
