"""Set gates on applications, environments and projects."""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gateway.gates import catalog
from gateway.gates.asking import parse_rule
from gateway.gates.gate import Gate, GateRule
from gateway.model.api_keys import Grants
from gateway.model.errors import Conflict, InvalidInput
from gateway.model.gates import GateSetting, Level, effective
from gateway.store import gate_verdicts, gates
from gateway.store.database import transaction
from gateway.store.gates import Owner

if TYPE_CHECKING:
    from gateway.store.database import Connection, Pool
    from gateway.store.encryption import Vault

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_MAX_RULE = 100_000  # characters


@dataclass(frozen=True, slots=True)
class Placed:
    """A gate, and whether it applies where it was listed: a nearer one may replace it."""

    setting: GateSetting
    applies: bool


def owner_of(*, application_id: str | None, environment_id: str | None, project_id: str | None) -> Owner:
    """Return what gates are set on. Raises InvalidInput unless exactly one is named."""
    given = {
        Level.APPLICATION: application_id,
        Level.ENVIRONMENT: environment_id,
        Level.PROJECT: project_id,
    }
    named = [Owner(level, one) for level, one in given.items() if one is not None]
    if len(named) != 1:
        raise InvalidInput("name one of applicationId, environmentId and projectId", field="applicationId")
    return named[0]


def find_kind(kind: str) -> Gate:
    """Return the kind of gate. Raises InvalidInput, which names the kinds."""
    if (found := catalog.GATES.get(kind)) is None:
        kinds = ", ".join(sorted(catalog.GATES)) or "none"
        raise InvalidInput(f"{kind[:100]!r} is no kind of gate; there are: {kinds}", field="kind")
    return found


def place(settings: Sequence[GateSetting]) -> list[Placed]:
    """Tell of each gate whether it applies."""
    applied = {one.gate_id for one in effective(settings)}
    return [Placed(one, one.gate_id in applied) for one in settings]


async def select_placed(connection: "Connection", vault: "Vault", owner: Owner) -> list[Placed]:
    """Return the gates that are set there, and those that it inherits. Raises NotFound."""
    await gates.require_owner(connection, owner)
    return place(await gates.select_gates(connection, vault, owner))


async def create(
    pool: "Pool",
    vault: "Vault",
    owner: Owner,
    *,
    kind: str,
    name: str | None = None,
    rule: Mapping[str, Any],
    secret: str | None = None,
    enabled: bool = True,
    required: bool = False,
    grants: Grants | None = None,
) -> GateSetting:
    """Set a gate and return it. Raises NotFound, Conflict, and InvalidInput naming the field that is wrong.

    `grants` are those of a restricted key: a rule names no application that such a key is not for. Where a gate of this
    kind has a secret and none is given, it gets a new one.
    """
    gate = find_kind(kind)
    stored = _checked_rule(gate, rule) if enabled or rule else {}  # one that only turns another off needs no rule
    secret = new_secret() if secret is None and gate.has_secret else secret
    chosen = _checked_name(name if name is not None else kind)
    async with transaction(pool) as connection:
        await gates.lock_owner(connection, owner)
        if enabled:
            stored = await _prepare_rule(connection, owner, gate, stored, grants)
        await _check_switches(connection, vault, owner, chosen, enabled=enabled, required=required)
        made = await gates.insert_gate(
            connection,
            vault,
            owner,
            kind=kind,
            name=chosen,
            rule=stored,
            secret=secret,
            enabled=enabled,
            required=required,
        )
        await gate_verdicts.wake_owned(connection, owner)
    return made


async def update(
    pool: "Pool",
    vault: "Vault",
    gate_id: str,
    *,
    name: str | None = None,
    rule: Mapping[str, Any] | None = None,
    secret: str | None = None,
    enabled: bool | None = None,
    required: bool | None = None,
    grants: Grants | None = None,
) -> GateSetting:
    """Change what is given and return the gate. Raises NotFound, Conflict, and InvalidInput naming the field."""
    async with transaction(pool) as connection:
        before = await _lock(connection, vault, gate_id)
        owner = Owner(before.level, before.owner_id)
        await gate_verdicts.wake_owned(connection, owner)
        gate = find_kind(before.kind)
        stays_off = not (before.enabled if enabled is None else enabled)
        if rule is None and not stays_off and not before.enabled:
            rule = before.rule
        if rule is not None and not (stays_off and not rule):
            rule = await _prepare_rule(connection, owner, gate, _checked_rule(gate, rule), grants)
        changed = replace(
            before,
            name=before.name if name is None else _checked_name(name),
            rule=before.rule if rule is None else rule,
            enabled=before.enabled if enabled is None else enabled,
            required=before.required if required is None else required,
        )
        await _check_switches(
            connection, vault, owner, changed.name, enabled=changed.enabled, required=changed.required
        )
        return await gates.update_gate(connection, vault, changed, secret=secret)


async def remove(pool: "Pool", vault: "Vault", gate_id: str) -> GateSetting:
    """Remove a gate and return it as it was. Raises NotFound."""
    async with transaction(pool) as connection:
        before = await _lock(connection, vault, gate_id)
        await gate_verdicts.wake_owned(connection, Owner(before.level, before.owner_id))
        await gates.delete_gate(connection, gate_id)
    return before


async def _lock(connection: "Connection", vault: "Vault", gate_id: str) -> GateSetting:
    """Lock what the gate is set on, then the gate, as a deletion does, and return it. Raises NotFound."""
    owner = await gates.select_owner(connection, gate_id)
    await gates.lock_owner(connection, owner)
    return await gates.select_gate(connection, vault, gate_id)


def new_secret() -> str:
    """Make a secret of 32 random bytes."""
    return secrets.token_urlsafe(32)


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name[:100]!r} is not a gate's name: letters, digits and . _ -, from 1 to 63", field="name"
        )
    return name


def _checked_rule(gate: Gate, rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rule as it is stored: with the fields that were given."""
    parsed = parse_rule(gate, rule)
    if gate.opens is not None and gate.opens(parsed, datetime.now(UTC)) is None:
        raise InvalidInput("the rule lets nothing pass: it does not open within nine years", field="rule")
    stored = _to_stored(parsed)
    if len(str(stored)) > _MAX_RULE:
        raise InvalidInput(f"the rule is longer than {_MAX_RULE} characters", field="rule")
    return stored


def canonical_rule(kind: str, rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rule as it would be stored. Raises InvalidInput naming the field."""
    return _to_stored(parse_rule(find_kind(kind), rule))


def _to_stored(rule: GateRule) -> dict[str, Any]:
    return rule.model_dump(mode="json", by_alias=True, exclude_unset=True)


async def _prepare_rule(
    connection: "Connection", owner: Owner, gate: Gate, rule: dict[str, Any], grants: Grants | None
) -> dict[str, Any]:
    """Return the rule as its gate completes it."""
    if gate.prepare is None:
        return rule
    return _to_stored(await gate.prepare(connection, owner, parse_rule(gate, rule), grants))


async def _check_switches(
    connection: "Connection", vault: "Vault", owner: Owner, name: str, *, enabled: bool, required: bool
) -> None:
    """Raises InvalidInput for what would have no effect, Conflict for turning off what is required from above."""
    if required and owner.level is Level.APPLICATION:
        raise InvalidInput(
            "an application's own gate is never replaced: required is for gates that are inherited", field="required"
        )
    if required and not enabled:
        raise InvalidInput("a required gate cannot be turned off: remove it", field="enabled")
    if enabled:
        return
    inherited = await gates.select_gates(connection, vault, owner)
    for one in inherited:
        if one.name == name and one.required and one.level is not owner.level:
            raise Conflict(f"the gate {name} is required by the {one.level}, and cannot be turned off here")
