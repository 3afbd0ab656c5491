"""Claim the next deployment of an engine: the transaction that takes it from the queue."""

from collections.abc import Sequence
from datetime import timedelta

from gateway.model.deployments import Deployment
from gateway.store import applications, leases, migrate
from gateway.store.database import Pool, transaction


async def claim(
    pool: Pool,
    *,
    owner: str,
    engine_id: str,
    server_ids: Sequence[str | None],
    running_ids: Sequence[str],
    lease: float,
) -> Deployment | None:
    """Claim the next deployment for `lease` seconds, and bind its application to the engine.

    Returns None where nothing is due, or where a newer release of the gateway has migrated the database.
    """
    async with transaction(pool) as connection:
        if await migrate.select_newer(connection) is not None:
            return None
        deployment = await leases.claim_deployment(
            connection,
            owner=owner,
            engine_id=engine_id,
            server_ids=server_ids,
            held=running_ids,
            lease=timedelta(seconds=lease),
        )
        if deployment is not None:
            await applications.bind_engine(connection, deployment.application_id, engine_id)
        return deployment
