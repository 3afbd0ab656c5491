"""All that is sealed, in one place, and sealing it anew."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.model.errors import Unavailable
from gateway.store.database import Pool, statement
from gateway.store.encryption import Vault

_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Column:
    """Where sealed secrets are; `key` is what tells the rows."""

    table: str
    key: str
    name: str

    def place(self, row: str) -> str:
        return f"{self.table}:{row}:{self.name}"


#: every column of the schema that holds sealed secrets; a test holds the two together
SEALED = (
    Column("applications", "application_id", "registry_password"),
    Column("applications", "application_id", "environment"),
    Column("applications", "application_id", "base"),
    Column("applications", "application_id", "files"),
    Column("applications", "application_id", "other_secrets"),
    Column("deployments", "deployment_id", "ran"),
    Column("endpoints", "endpoint_id", "secret"),
    Column("endpoints", "endpoint_id", "former_secret"),
    Column("environments", "environment_id", "variables"),
    Column("projects", "project_id", "variables"),
    Column("registries", "registry_id", "password"),
    Column("servers", "server_id", "credentials"),
)


@dataclass(slots=True)
class Progress:
    """What was found: sealed anew, sealed as it should be, and what no key opens."""

    reencrypted: int = 0
    current: int = 0
    lost: list[str] = field(default_factory=list)


async def reencrypt(pool: Pool, vault: Vault, columns: Iterable[Column] = SEALED) -> Progress:
    """Seal with the newest key what was sealed with another, a row at a time; done again, it goes on.

    A row that somebody else changes meanwhile is left to them.
    """
    progress = Progress()
    for column in columns:
        after: str | None = ""
        while after is not None:
            after = await _reencrypt_batch(pool, vault, column, after, progress)
    return progress


async def _reencrypt_batch(pool: Pool, vault: Vault, column: Column, after: str, progress: Progress) -> str | None:
    """Go through the next rows; return the last, None where there are no more."""
    async with statement(pool) as connection:
        rows = await connection.fetch(
            f"""
            SELECT {column.key} AS key, {column.name} AS sealed
              FROM {column.table}
             WHERE {column.key} > $1 AND {column.name} IS NOT NULL
             ORDER BY {column.key}
             LIMIT {_AT_ONCE}
            """,  # noqa: S608 - constants
            after,
        )
        for row in rows:
            place, before = column.place(row["key"]), row["sealed"]
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
