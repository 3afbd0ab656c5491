"""Update an application, and compare it with what runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway.admin.applications import Changes, apply_changes
from gateway.admin.context import Context
from gateway.admin.privileges import KeyLimits, limits_for
from gateway.admin.probe_reachability import validate_probe
from gateway.docker.container import spec as container_spec
from gateway.docker.swarm import spec as swarm_spec
from gateway.model.applications import Application
from gateway.model.configuration_diff import Change, pending_changes
from gateway.store import applications, environments, versions
from gateway.store.database import Connection, statement, transaction
from gateway.store.encryption import Vault

PENDING_HEADER = "X-Pending-Changes"


@dataclass(frozen=True, slots=True)
class Updated:
    """The application as it is stored now, and what its next deployment changes."""

    application: Application
    pending: list[Change]

    @property
    def headers(self) -> Mapping[str, str]:
        return {PENDING_HEADER: ", ".join(one.field for one in self.pending)} if self.pending else {}


async def update_application(
    context: Context, application_id: str, changes_to: Callable[[Application], Changes], *, must_change: bool = False
) -> Updated:
    """Apply the changes that `changes_to` makes of the current application, all or none.

    Raises NotFound, InvalidInput naming the field that is wrong, or Forbidden.
    """
    async with statement(context.pool) as connection:
        await applications.require_live(connection, application_id)
        before = await applications.select_application(
            connection, context.vault, application_id, without=applications.SET_WHOLE
        )
    await validate_probe(context, before, changes_to(before))
    async with transaction(context.pool) as connection:
        return await apply_and_diff(
            connection, context.vault, application_id, changes_to, limits=limits_for(context), must_change=must_change
        )


async def apply_and_diff(
    connection: Connection,
    vault: Vault,
    application_id: str,
    changes_to: Callable[[Application], Changes],
    *,
    limits: KeyLimits | None,
    must_change: bool = False,
) -> Updated:
    """Apply the changes without checking that a probe can reach its port."""
    await applications.lock_application(connection, application_id)
    current = await applications.select_application(connection, vault, application_id, without=applications.SET_WHOLE)
    await apply_changes(connection, vault, application_id, changes_to(current), limits=limits, must_change=must_change)
    stored = await applications.select_application(connection, vault, application_id)
    return Updated(stored, await select_pending_changes(connection, vault, stored))


async def select_pending_changes(connection: Connection, vault: Vault, application: Application) -> list[Change]:
    """Return how the next deployment differs from the version that serves."""
    application, _ = await environments.resolve_variables(connection, vault, application)
    serving = await versions.select_serving(connection, vault, application)
    found = pending_changes(application, serving)
    same_image = all(one.field != "dockerImage" for one in found)
    hashes = [spec_hash(application) for spec_hash in _spec_hashes(application)]
    if same_image and serving is not None and serving.spec_hash in hashes:
        return []  # the difference does not change what the engine runs
    return found


def _spec_hashes(application: Application) -> list[Callable[[Application], str]]:
    """Return the hash functions of the kinds it may run as. An adopted application keeps its kind."""
    if application.adopted_spec is None:
        return [container_spec.spec_hash, swarm_spec.spec_hash]
    return [swarm_spec.spec_hash if application.adopted_spec.is_service else container_spec.spec_hash]
