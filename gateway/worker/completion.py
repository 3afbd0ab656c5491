"""Record the outcome of a deployment, and everything that follows from it, in one transaction."""

from dataclasses import replace
from datetime import timedelta

from gateway.model.alerts import of_outcome
from gateway.model.deployments import Deployment, Kind, Outcome, Status
from gateway.model.errors import Code, NotFound, Reason
from gateway.model.events import Ignored
from gateway.model.reference import Reference
from gateway.rollout.swap import MAX_SWAP_DEFECTS
from gateway.store import (
    application_images,
    applications,
    cancellations,
    deliveries,
    leases,
    outbox,
    pulled_images,
    queue,
    releases,
    soaks,
    subscriptions,
    swaps,
    versions,
    watches,
)
from gateway.store.database import Connection, Pool, transaction
from gateway.store.encryption import Vault
from gateway.store.rollout_journal import PostgresJournal

_ROLLOUTS = frozenset({Kind.DEPLOY, Kind.REDEPLOY, Kind.ROLLBACK})


async def complete(
    pool: Pool,
    vault: Vault,
    deployment: Deployment,
    journal: PostgresJournal,
    outcome: Outcome,
    *,
    monitor_window: float,
    swap_settled: bool = True,
) -> bool:
    """Record the outcome and what ran, and close the swap. Returns False if another gateway owns it now.

    A new version is monitored from now on, for the window of the application, else for `monitor_window` seconds.
    Unless `swap_settled`, the swap stays open for the application's next deployment.
    """
    journal.end()
    application_id = deployment.application_id
    async with transaction(pool) as connection:
        await applications.lock_row(connection, application_id)
        await journal.flush(connection)
        if deployment.release_id is not None:
            outcome = await _as_of_release(connection, deployment, deployment.release_id, outcome)
        if swap_settled:
            await swaps.delete_swap(connection, application_id, deployment.deployment_id, deployment.epoch)
        else:
            # The swap may be what killed its gateways: the next deployment tries once more, the one after only looks.
            await swaps.count_settling(connection, application_id, settlings=0, defects=MAX_SWAP_DEFECTS - 1)
        owned = await leases.finish_deployment(connection, deployment, outcome)
        await pulled_images.schedule_check(connection, application_id)
        if owned:
            await _apply(connection, vault, deployment, outcome, monitor_window=monitor_window)
        return owned


async def _as_of_release(connection: Connection, deployment: Deployment, release_id: str, outcome: Outcome) -> Outcome:
    """Wake whoever advances the release. A member that was cancelled with it says why the release is put back."""
    await releases.notify(connection)
    if outcome.status is not Status.CANCELLED or deployment.kind is Kind.ROLLBACK:
        return outcome
    try:
        why = (await releases.select_release(connection, release_id)).reason
    except NotFound:
        return outcome
    return outcome if why is None else replace(outcome, reason=Reason(Code.RELEASE_FAILED, why.message))


async def _apply(
    connection: Connection,
    vault: Vault,
    deployment: Deployment,
    outcome: Outcome,
    *,
    monitor_window: float,
) -> None:
    """Bring the rest of the database in line with the outcome."""
    application_id = deployment.application_id
    if (occurrence := of_outcome(deployment, outcome)) is not None:
        await outbox.write_event(connection, occurrence)
    if outcome.status is not Status.UNCHANGED and await _touched(connection, deployment, outcome):
        await watches.delete_watch(connection, application_id)
    elif outcome.reason and outcome.reason.code is Code.NO_IMAGE:
        ignored = Ignored(str(deployment.reference or ""), outcome.reason.message)
        await deliveries.ignore_deliveries(connection, deployment.deployment_id, ignored)
    if outcome.serves:
        await _update_image(connection, deployment)
    if outcome.ran is not None:
        if deployment.kind is Kind.ROLLBACK:
            await soaks.fail_replaced(connection, application_id, deployment.deployment_id)
        await versions.update_version(connection, vault, deployment.deployment_id, outcome.ran)
        own_window = outcome.ran.configuration.watch
        await _open_monitor_window(
            connection, deployment, outcome, monitor_window if own_window is None else own_window
        )
    if (
        deployment.kind is Kind.ROLLBACK
        and not deployment.forced
        and await queue.requeue_waiting(connection, deployment.deployment_id)
    ):
        # The gateway's own rollback took its place: the push is not lost.
        await queue.notify(connection)
    if outcome.status is Status.CANCELLED:
        await cancellations.restore_desired(connection, application_id)
    if deployment.kind is Kind.DELETE and outcome.status is Status.SUCCEEDED:
        await pulled_images.insert_all_pulled(connection, application_id)
        await applications.delete_application(connection, application_id)


async def _touched(connection: Connection, deployment: Deployment, outcome: Outcome) -> bool:
    """Tell whether the deployment may have changed what serves. A rollout that ends before its swap has not."""
    if outcome.status not in {Status.FAILED, Status.CANCELLED} or deployment.kind not in _ROLLOUTS:
        return True
    return await swaps.has_opened(connection, deployment.deployment_id)


async def _update_image(connection: Connection, deployment: Deployment) -> None:
    """Make the requested image, which serves now, the application's own, and move its subscription along."""
    image_change = await queue.select_image_change(connection, deployment.deployment_id)
    if image_change is None:
        return
    before = await application_images.select_image(connection, deployment.application_id)
    reference = Reference.parse(image_change.image)
    if before is not None and Reference.parse(before) == reference:
        return
    await application_images.update_image(connection, deployment.application_id, image_change.image)
    if image_change.moves_subscription:
        await subscriptions.replace_subscription(connection, deployment.application_id, reference)


async def _open_monitor_window(
    connection: Connection, deployment: Deployment, outcome: Outcome, seconds: float
) -> None:
    if seconds and outcome.object_id is not None:
        await watches.insert_watch(
            connection, deployment, outcome.object_id, outcome.restarts, timedelta(seconds=seconds)
        )
