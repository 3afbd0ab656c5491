"""Claim deployments for all engines that this gateway reaches, a batch of them in one statement.

The cost grows with the number of due deployments, not with the number of engines. A deployment that was found due may
change before the claim, so the claiming statement checks again that it is due.
"""

from collections.abc import Callable, Collection
from datetime import timedelta

from gateway.model.deployments import Deployment
from gateway.store import leases, migrate
from gateway.store.database import Connection
from gateway.store.leases import Due

_PAGE = 500  # due deployments to look at in one statement
MOST = 128  # claims in one statement


async def claim(
    connection: Connection,
    *,
    owner: str,
    choose: Callable[[Due], str | None],
    running_ids: Collection[str],
    lease: float,
    most: int = MOST,
) -> list[Deployment]:
    """Claim at most `most` deployments for `lease` seconds, and bind their applications to their engines.

    `choose` returns the id of the engine for a deployment, or None when this gateway does not claim it now. Deployments
    in `running_ids` are excluded: this gateway still works on them, even if their lease expired while the database was
    unavailable. Returns nothing when a newer release of the gateway has migrated the database.
    """
    while True:
        chosen = await _choose(connection, owner, choose, running_ids, most)
        if not chosen or await migrate.select_newer(connection) is not None:
            return []
        found = await leases.claim_deployments(connection, owner, chosen, timedelta(seconds=lease))
        claimed = [one for one in found if one is not None]
        if claimed or not found:
            return claimed


async def _choose(
    connection: Connection, owner: str, choose: Callable[[Due], str | None], running_ids: Collection[str], most: int
) -> dict[str, str]:
    """Return the deployments to claim, the first due ones that `choose` accepts, each with the id of its engine."""
    chosen: dict[str, str] = {}
    suspects = 0
    for offset in range(0, 1_000_000, _PAGE):
        page = await leases.select_due(connection, owner, limit=_PAGE, offset=offset)
        for due in page:
            if due.deployment_id in running_ids or (due.room is not None and due.room <= suspects):
                continue
            if (engine_id := choose(due)) is not None:
                chosen[due.deployment_id] = engine_id
                suspects += due.room is not None
            if len(chosen) >= most:
                return chosen
        if chosen or len(page) < _PAGE:
            break
    return chosen
