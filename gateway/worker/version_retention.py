"""Removes kept versions after their retention time, and pulled images that no container uses."""

from collections.abc import Collection

from gateway.background import isolate_failures
from gateway.docker import runtime_factory
from gateway.docker.engine import images
from gateway.docker.engine.client import Engine, ReachedEngine
from gateway.docker.runtime import Timeouts
from gateway.model.registries import anonymous
from gateway.store import applications, pulled_images, queue
from gateway.store.database import Pool, transaction
from gateway.store.encryption import Vault

PRUNE_INTERVAL = 3600.0  # seconds
REMOVE_IMAGES_INTERVAL = 15.0


async def prune_kept_versions(pool: Pool, vault: Vault, timeouts: Timeouts, reached: ReachedEngine) -> None:
    """Prune the kept versions on an engine once; raises Postponed when it is unreachable."""
    engine, identity = reached.engine, reached.identity
    async with transaction(pool) as connection:
        idle = await applications.select_idle(connection, vault, identity.engine_id, reached.server_ids)
    for application in idle:
        with isolate_failures("kept versions", application.application_id):
            runtime = await runtime_factory.open_runtime(
                engine, identity, application, anonymous, timeouts, making=False, begun=None
            )
            # A rollback that needs the kept version may have been requested meanwhile.
            async with transaction(pool) as connection:
                still_idle = await queue.is_free(connection, application.application_id)
            if still_idle:
                await runtime.prune_kept()


async def remove_unused_images(pool: Pool, reached: ReachedEngine) -> None:
    """Remove the pulled images that no container uses; raises Postponed when the engine is unreachable."""
    async with transaction(pool) as connection:
        unused = await pulled_images.select_idle(connection, reached.identity.engine_id, reached.server_ids)
    used = await images.images_in_use(reached.engine) if unused else frozenset()
    for one in unused:
        with isolate_failures("images", str(one.reference)):
            await _remove_image(pool, reached.engine, one, used)


async def _remove_image(pool: Pool, engine: Engine, one: pulled_images.PulledImage, used: Collection[str]) -> None:
    image = await images.inspect(engine, f"{one.reference.repository}@{one.reference.digest}")
    async with transaction(pool) as connection:
        if image is not None and image.image_id in used:
            await pulled_images.postpone_check(connection, one)
            return
        # It may have been requested meanwhile.
        if not await pulled_images.is_idle(connection, one):
            return
    await images.remove(engine, one.reference, tag=one.tag_is_free)
    async with transaction(pool) as connection:
        await pulled_images.delete_pulled(connection, one)
