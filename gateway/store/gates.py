"""Gates, as they are set on applications, environments and projects. Their secrets are stored encrypted."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import asyncpg

from gateway.model.errors import Conflict, InvalidInput, NotFound
from gateway.model.gates import GateSetting, Level
from gateway.store import undecryptable
from gateway.store.database import Connection
from gateway.store.encryption import Vault
from gateway.store.undecryptable import Row

#: gates that one application, environment or project may have
MOST = 20

_NOT_FOUND = "Gate not found"

_COLUMNS = """
    gate_id, application_id, environment_id, project_id, kind, name, rule, secret, enabled, required, created_at
"""

#: an expression: whether gates are set on the application of the row, its environment or its project
GATED = """
    EXISTS (
        SELECT FROM gates g
         WHERE g.application_id = applications.application_id OR g.environment_id = applications.environment_id
            OR g.project_id = (SELECT e.project_id FROM environments e
                                WHERE e.environment_id = applications.environment_id)
    )
"""


@dataclass(frozen=True, slots=True)
class Owner:
    """What a gate is set on."""

    level: Level
    owner_id: str

    @property
    def column(self) -> str:
        return f"{self.level}_id"


def _place(gate_id: str) -> str:
    return f"gates:{gate_id}:secret"


def _from_row(row: Row, vault: Vault) -> GateSetting:
    level = next(level for level in Level if row[f"{level}_id"] is not None)
    encrypted = row["secret"]
    return GateSetting(
        gate_id=row["gate_id"],
        level=level,
        owner_id=row[f"{level}_id"],
        kind=row["kind"],
        name=row["name"],
        rule=row["rule"],
        enabled=row["enabled"],
        required=row["required"],
        created_at=row["created_at"],
        secret=None if encrypted is None else vault.decrypt(encrypted, _place(row["gate_id"])),
        secret_mark="" if encrypted is None else hashlib.sha256(encrypted).hexdigest(),
    )


def _read(rows: Sequence[Row], vault: Vault) -> list[GateSetting]:
    """Return the gates. A gate whose secret no key decrypts has the error in its place."""
    found = undecryptable.read_all(rows, lambda row: _from_row(row, vault), ["secret"])
    return [gate if why is None else replace(gate, unreadable=why) for gate, why in found]


async def select_gates(connection: Connection, vault: Vault, owner: Owner) -> list[GateSetting]:
    """Return the gates of an application, environment or project, with inherited ones, also those that do not apply."""
    rows = await connection.fetch(
        f"""
        WITH place AS (
            SELECT application_id, environment_id, project_id
              FROM applications LEFT JOIN environments USING (environment_id)
             WHERE $1 = 'application' AND application_id = $2
             UNION ALL
            SELECT NULL, environment_id, project_id FROM environments WHERE $1 = 'environment' AND environment_id = $2
             UNION ALL
            SELECT NULL, NULL, project_id FROM projects WHERE $1 = 'project' AND project_id = $2
        )
        SELECT {", ".join("g." + column.strip() for column in _COLUMNS.split(","))}
          FROM place p
          JOIN gates g ON g.application_id = p.application_id OR g.environment_id = p.environment_id
                       OR g.project_id = p.project_id
         ORDER BY g.name, g.application_id IS NULL, g.environment_id IS NULL
        """,  # noqa: S608 - constants
        owner.level,
        owner.owner_id,
    )
    return _read(rows, vault)


async def select_owner(connection: Connection, gate_id: str) -> Owner:
    """Return what a gate is set on; that never changes. Raises NotFound."""
    row = await connection.fetchrow(
        "SELECT application_id, environment_id, project_id FROM gates WHERE gate_id = $1", gate_id
    )
    if row is None:
        raise NotFound(_NOT_FOUND)
    return next(Owner(level, row[f"{level}_id"]) for level in Level if row[f"{level}_id"] is not None)


async def select_gate(connection: Connection, vault: Vault, gate_id: str) -> GateSetting:
    """Return a gate and lock its row. Raises NotFound."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM gates WHERE gate_id = $1 FOR NO KEY UPDATE",  # noqa: S608 - a constant
        gate_id,
    )
    if row is None:
        raise NotFound(_NOT_FOUND)
    return _read([row], vault)[0]


_LOCK: Mapping[Level, str] = {
    Level.APPLICATION: "SELECT true FROM applications WHERE application_id = $1 AND desired <> 'deleted' "
    "FOR NO KEY UPDATE",
    Level.ENVIRONMENT: "SELECT true FROM environments WHERE environment_id = $1 FOR NO KEY UPDATE",
    Level.PROJECT: "SELECT true FROM projects WHERE project_id = $1 FOR NO KEY UPDATE",
}


async def lock_owner(connection: Connection, owner: Owner) -> None:
    """Lock the application, environment or project until the transaction ends. Raises NotFound."""
    if not await connection.fetchval(_LOCK[owner.level], owner.owner_id):
        raise NotFound(f"{owner.level.capitalize()} not found")


async def require_owner(connection: Connection, owner: Owner) -> None:
    """Raise NotFound unless the application, environment or project exists."""
    if not await connection.fetchval(_LOCK[owner.level].partition(" FOR ")[0], owner.owner_id):
        raise NotFound(f"{owner.level.capitalize()} not found")


async def insert_gate(
    connection: Connection,
    vault: Vault,
    owner: Owner,
    *,
    kind: str,
    name: str,
    rule: Mapping[str, Any],
    secret: str | None,
    enabled: bool,
    required: bool,
) -> GateSetting:
    """Return the new gate. The caller holds the owner's lock. Raises Conflict, and InvalidInput for one too many."""
    gate_id = str(await connection.fetchval("SELECT gen_random_uuid()::text"))
    count = await connection.fetchval(
        f"SELECT count(*) FROM gates WHERE {owner.column} = $1",  # noqa: S608 - one of three
        owner.owner_id,
    )
    if count >= MOST:
        raise InvalidInput(f"this {owner.level} has {MOST} gates already; remove one: gateway gates remove")
    try:
        async with connection.transaction():
            row = await connection.fetchrow(
                f"""
                INSERT INTO gates (gate_id, {owner.column}, kind, name, rule, secret, enabled, required)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
                RETURNING {_COLUMNS}
                """,  # noqa: S608 - constants
                gate_id,
                owner.owner_id,
                kind,
                name,
                dict(rule),
                None if secret is None else vault.encrypt(secret, _place(gate_id)),
                enabled,
                required,
            )
    except asyncpg.UniqueViolationError as error:
        taken = f"this {owner.level} has a gate called {name} already: change it, or choose another name"
        if error.constraint_name == "gates_one_promotion":
            taken = "this application follows another one already: change that gate, or remove it"
        raise Conflict(taken) from error
    return _read([row] if row else [], vault)[0]


async def update_gate(connection: Connection, vault: Vault, changed: GateSetting, *, secret: str | None) -> GateSetting:
    """Store the gate's name, rule and switches, and a new secret if one is given. Raises Conflict."""
    try:
        async with connection.transaction():
            row = await connection.fetchrow(
                f"""
                UPDATE gates SET name = $2, rule = $3, enabled = $4, required = $5, secret = coalesce($6, secret)
                 WHERE gate_id = $1
                RETURNING {_COLUMNS}
                """,  # noqa: S608 - a constant
                changed.gate_id,
                changed.name,
                dict(changed.rule),
                changed.enabled,
                changed.required,
                None if secret is None else vault.encrypt(secret, _place(changed.gate_id)),
            )
    except asyncpg.UniqueViolationError as error:
        raise Conflict(f"there is a gate called {changed.name} already: choose another name") from error
    if row is None:
        raise NotFound(_NOT_FOUND)
    return _read([row], vault)[0]


async def delete_gate(connection: Connection, gate_id: str) -> None:
    """Delete the gate. The verdicts about deployments stay."""
    await connection.execute("DELETE FROM gates WHERE gate_id = $1", gate_id)
