"""Removes replaced versions that have been kept for long enough, of applications nobody is deploying just now."""

from gateway.engine import runtimes
from gateway.engine.client import Reached
from gateway.engine.runtime import Pace
from gateway.loops import sparing
from gateway.registries import nobody
from gateway.store import applications
from gateway.store.database import Pool, transaction
from gateway.store.vault import Vault

SWEEP_EVERY = 3600.0  # seconds


async def expire_kept(pool: Pool, vault: Vault, pace: Pace, reached: Reached) -> None:
    """Go through the applications there once; raises Postponed where the engine is away."""
    engine, identity = reached.engine, reached.identity
    async with transaction(pool) as connection:
        resting = await applications.select_resting(connection, vault, identity.engine_id, reached.server_ids)
    for application in resting:
        with sparing("kept versions", application.application_id):
            runtime = await runtimes.choose(engine, identity, application, nobody, pace, making=False, begun=None)
            # Since it was selected a rollback may have been asked for, which needs what is kept.
            async with transaction(pool) as connection:
                still = await applications.is_resting(connection, application.application_id)
            if still:
                await runtime.expire()
