"""What a key for an application alone must not do to the gates that its environment or project requires."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from gateway.model.api_keys import Caller
from gateway.model.errors import Forbidden
from gateway.model.gates import GateSetting, Level
from gateway.store import gates, resource_owners
from gateway.store.gates import Owner
from gateway.store.resource_owners import ResourceKind

if TYPE_CHECKING:
    from gateway.store.database import Connection
    from gateway.store.encryption import Vault

_ADVICE = "Use a key for the project, or an unrestricted one"


async def require_movable(connection: "Connection", vault: "Vault", caller: Caller, application_id: str) -> None:
    """Raises Forbidden where the caller would take the application away from a gate that is required above it."""
    for one in await _required_above(connection, vault, caller, application_id):
        raise Forbidden(
            f"its {one.level} requires the gate {one.name}: a key for the application alone cannot move it elsewhere. "
            f"{_ADVICE}."
        )


async def require_overridable(
    connection: "Connection", vault: "Vault", caller: Caller, application_id: str, gate_ids: Collection[str]
) -> None:
    """Raises Forbidden where the caller would let a deployment pass a gate that is required above the application."""
    for one in await _required_above(connection, vault, caller, application_id):
        if one.gate_id in gate_ids:
            raise Forbidden(
                f"the gate {one.name} is required by the {one.level}: a key for the application alone cannot let a "
                f"deployment pass it. {_ADVICE}."
            )


async def _required_above(
    connection: "Connection", vault: "Vault", caller: Caller, application_id: str
) -> list[GateSetting]:
    """Return what the environment and project of the application require, nothing for a key that covers the project."""
    if caller.grants is None:
        return []
    owner = await resource_owners.select_owner(connection, ResourceKind.APPLICATION, application_id)
    if owner is not None and owner.project_id in caller.grants.projects:
        return []
    found = await gates.select_gates(connection, vault, Owner(Level.APPLICATION, application_id))
    return [one for one in found if one.required and one.level is not Level.APPLICATION]
