"""Load what the rollout of a claimed deployment needs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from gateway.model.deployments import Deployment, Kind, Swap
from gateway.model.reference import Digest
from gateway.model.registries import ANONYMOUS, select_login
from gateway.rollout.attempt import RollbackTarget, Task
from gateway.store import (
    applications,
    deployments,
    environments,
    registries,
    release_deployments,
    swaps,
    versions,
)
from gateway.store.database import Pool, statement
from gateway.store.encryption import Vault

# A redeploy requested this soon after a rollout of the same image is satisfied by it: CI pushes, then calls redeploy.
_SATISFIED_WITHIN = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """A task, the swap that an earlier attempt left open, and the ids of the deliveries that caused the deployment."""

    task: Task
    left_open: Swap | None
    deliveries: Sequence[str]


async def load_task(pool: Pool, vault: Vault, deployment: Deployment) -> LoadedTask:
    """Load the deployment's task from the database."""
    async with statement(pool) as connection:
        ends = deployment.kind in {Kind.STOP, Kind.DELETE}
        application = await applications.select_application(
            connection, vault, deployment.application_id, without=applications.TO_RUN if ends else ()
        )
        around = await deployments.select_surroundings(connection, deployment)
        application = replace(application, recorded_containers=around.recorded)
        config_error = None
        if not ends:
            application, config_error = await environments.resolve_variables(connection, vault, application)
        left_open = await swaps.select_swap(connection, deployment.application_id) if around.has_open_swap else None
        begun = await versions.select_swap_version(connection, vault, application) if left_open else None
        target = None
        if deployment.rolls_back_to is not None:
            version = await versions.select_version(connection, vault, application, deployment.rolls_back_to)
            target = RollbackTarget(deployment.rolls_back_to, version.reference, version.application)
        elif deployment.kind is Kind.ROLLBACK and application.adopted_spec is not None:
            target = RollbackTarget(None, application.adopted_spec.reference, application.as_adopted())
        image = target.reference if target else deployment.reference or application.reference
        previous = await versions.select_serving(connection, vault, application)
        part = await release_deployments.select_part(connection, deployment)
        login = ANONYMOUS
        if image is not None and not ends:
            kept = (
                await registries.select_registries(connection, vault, image.repository.domain)
                if around.has_registries
                else []
            )
            login = select_login(image.repository, application.own_login, kept)

    async def satisfied_by(digest: Digest, spec_hash: str) -> str | None:
        async with statement(pool) as connection:
            return await deployments.select_satisfying_rollout(
                connection, deployment, digest, spec_hash, _SATISFIED_WITHIN
            )

    async def knows(digest: Digest) -> bool:
        async with statement(pool) as connection:
            return await deployments.is_known_digest(connection, deployment, digest)

    async def is_older_than(made_by: str) -> bool:
        async with statement(pool) as connection:
            return await deployments.is_older_than(connection, deployment, made_by)

    task = Task(
        deployment,
        application,
        login,
        satisfied_by,
        target,
        config_error,
        knows,
        is_older_than,
        previous,
        begun,
        in_release=part is not None,
        only_prepares=part is not None and not part.moves,
        prepared=None if part is None else part.digest,
        prepared_spec=None if part is None else part.spec_hash,
    )
    return LoadedTask(task, left_open, around.deliveries)
