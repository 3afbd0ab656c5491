"""Claims one deployment, as a gateway with one free slot on one engine of its own."""

from collections.abc import Collection

from gateway.model.deployments import Deployment
from gateway.store.database import Pool
from gateway.store.leases import Due
from gateway.worker import claims


async def claim_one(
    pool: Pool, owner: str, engine_id: str, *, lease: float, held: Collection[str] = ()
) -> Deployment | None:
    """Claim the first deployment that is due on the engine."""

    def choose(due: Due) -> str | None:
        return None if due.server_id is not None or due.engine_id not in {None, engine_id} else engine_id

    async with pool.acquire() as connection:
        found = await claims.claim(connection, owner=owner, choose=choose, running_ids=held, lease=lease, most=1)
    return next(iter(found), None)
