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
from gateway.store.leases import Finished
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
        if not swap_settled:
            # The swap may be what killed its gateways: the next deployment tries once more, the one after only looks.
            await swaps.count_settling(connection, application_id, settlings=0, defects=MAX_SWAP_DEFECTS - 1)
        ran = None if outcome.ran is None else versions.encrypt_version(vault, deployment.deployment_id, outcome.ran)
        finished = await leases.finish_deployment(
            connection,
            deployment,
            outcome,
            ran,
            closes_swap=swap_settled,
            closes_watch=_replaces(deployment, outcome),
        )
        if finished is None:
            return False
        await _apply(connection, deployment, outcome, finished, monitor_window=monitor_window)
        return True


async def _as_of_release(connection: Connection, deployment: Deployment, release_id: str, outcome: Outcome) -> Outcome:
    """Notify the release coordinators, and return the outcome. A cancelled member gets the reason of its release."""
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
    deployment: Deployment,
    outcome: Outcome,
    finished: Finished,
    *,
    monitor_window: float,
) -> None:
    """Write what follows from the outcome: events, the image, the monitor window, the queue, the deletion."""
    application_id = deployment.application_id
    if finished.has_alerts and (occurrence := of_outcome(deployment, outcome)) is not None:
        await outbox.write_event(connection, occurrence)
    replaces = _replaces(deployment, outcome)
    touched = finished.opened_swap if replaces is None else replaces
    if not touched and outcome.reason and outcome.reason.code is Code.NO_IMAGE:
        ignored = Ignored(str(deployment.reference or ""), outcome.reason.message)
        await deliveries.ignore_deliveries(connection, deployment.deployment_id, ignored)
    if outcome.serves:
        await _update_image(connection, deployment, finished)
    if outcome.ran is not None:
        if deployment.kind is Kind.ROLLBACK:
            await soaks.fail_replaced(connection, application_id, deployment.deployment_id)
        own_window = outcome.ran.configuration.watch
        await _open_monitor_window(
            connection, deployment, outcome, monitor_window if own_window is None else own_window
        )
    if (
        deployment.kind is Kind.ROLLBACK
        and not deployment.forced
        and await queue.requeue_waiting(connection, deployment.deployment_id)
    ):
        # This rollback took the place of a push in the queue: queue the push again, so that it is not lost.
        await queue.notify(connection)
    if outcome.status is Status.CANCELLED:
        await cancellations.restore_desired(connection, application_id)
    if deployment.kind is Kind.DELETE and outcome.status is Status.SUCCEEDED:
        await pulled_images.insert_all_pulled(connection, application_id)
        await applications.delete_application(connection, application_id)


def _replaces(deployment: Deployment, outcome: Outcome) -> bool | None:
    """Tell whether the deployment may have changed what serves. None: only if it has opened a swap."""
    if outcome.status is Status.UNCHANGED:
        return False
    ended_early = outcome.status in {Status.FAILED, Status.CANCELLED} and deployment.kind in _ROLLOUTS
    return None if ended_early else True


async def _update_image(connection: Connection, deployment: Deployment, finished: Finished) -> None:
    """Make the image that serves now the application's image. If so requested, move the subscription to its tag."""
    if finished.image is None:
        return
    reference = Reference.parse(finished.image)
    if finished.present_image is not None and Reference.parse(finished.present_image) == reference:
        return
    await application_images.update_image(connection, deployment.application_id, finished.image)
    if finished.moves_subscription:
        await subscriptions.replace_subscription(connection, deployment.application_id, reference)


async def _open_monitor_window(
    connection: Connection, deployment: Deployment, outcome: Outcome, seconds: float
) -> None:
    if seconds and outcome.object_id is not None:
        await watches.insert_watch(
            connection, deployment, outcome.object_id, outcome.restarts, timedelta(seconds=seconds)
        )
