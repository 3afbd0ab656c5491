"""Let one deployment pass a gate that does not let it pass, at a person's word.

It holds for one image and configuration: when the deployment resolves to another digest, or is configured otherwise,
the gate is asked about that. A deployment that the gate has ended stays as it is; then one that does the same is
queued, and may pass.
"""

from typing import TYPE_CHECKING

from gateway.admin.gate_rights import require_overridable
from gateway.model.api_keys import Caller
from gateway.model.deployments import FINISHED, Deployment, Status
from gateway.model.errors import Conflict, InvalidInput, NotFound
from gateway.model.gates import Verdict
from gateway.model.ids import meant_ids
from gateway.queue import enqueue
from gateway.store import applications, deployments, gate_verdicts
from gateway.store.database import transaction
from gateway.store.gate_verdicts import GateVerdict

if TYPE_CHECKING:
    from gateway.store.database import Connection, Pool
    from gateway.store.encryption import Vault

_MAX_REASON = 2000  # characters


async def override(
    pool: "Pool", vault: "Vault", deployment_id: str, named: str, reason: str, *, caller: Caller | None = None
) -> str:
    """Let the deployment pass the gates of this name, id or beginning of an id.

    Returns the deployment that may pass: the same, or a new one.
    `caller` is the key that asks, None for the command line. Raises NotFound, Conflict, Forbidden, InvalidInput.
    """
    if not reason.strip() or len(reason) > _MAX_REASON:
        raise InvalidInput(f"say why, in at most {_MAX_REASON} characters", field="reason")
    async with transaction(pool) as connection:
        application_id = (await deployments.select_deployment(connection, deployment_id)).application_id
        await applications.lock_application(connection, application_id)
        found = await deployments.select_deployment(connection, deployment_id)
        closed = await _select_closed(connection, found, named)
        if caller is not None:
            ids = {one.gate_id for one in closed}
            await require_overridable(connection, vault, caller, application_id, ids)
        if found.status not in FINISHED:
            await gate_verdicts.insert_override(connection, found, closed, reason)
            await gate_verdicts.wake(connection, [deployment_id])
            return deployment_id
        if found.status is not Status.FAILED:
            raise Conflict(f"Deployment {deployment_id} has already ended: {found.status}")
        again = await enqueue.enqueue_again(connection, found, title=f"Again, past the gate {closed[0].name}")
        queued = await deployments.select_deployment(connection, again)
        await gate_verdicts.copy_overrides(connection, deployment_id, again)
        await gate_verdicts.insert_override(connection, queued, closed, reason)
    return again


async def _select_closed(connection: "Connection", found: Deployment, named: str) -> list[GateVerdict]:
    """Return the verdicts of the named gates that do not let the deployment pass."""
    verdicts = await gate_verdicts.select_verdicts(connection, found.deployment_id)
    ids = meant_ids(named, ((one.gate_id, one.name) for one in verdicts))
    chosen = [one for one in verdicts if one.gate_id in ids]
    if not chosen:
        asked = ", ".join(one.name for one in verdicts) or "none yet"
        raise NotFound(f"no gate {named[:100]!r} was asked about deployment {found.deployment_id}; asked were: {asked}")
    closed = [one for one in chosen if one.verdict is not Verdict.PASSED]
    if not closed:
        raise Conflict(f"the gate {chosen[0].name} lets deployment {found.deployment_id} pass")
    return closed
