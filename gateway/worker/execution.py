"""The transactions of one deployment's way through the queue: taken, concluded, or put back for later."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from gateway.model.configuration import Order
from gateway.model.deployments import Deployment, Kind, Outcome, Status, Swap
from gateway.model.errors import Code, Postponed, Reason
from gateway.model.events import Ignored
from gateway.model.reference import Digest, Reference
from gateway.model.registries import ANONYMOUS, select_login
from gateway.rollout.attempt import Target, Task
from gateway.rollout.swap import MOST_DEFECTS, MOST_SETTLINGS
from gateway.store import (
    applications,
    cancellations,
    deliveries,
    deployments,
    environments,
    leases,
    migrate,
    pulled_images,
    registries,
    subscriptions,
    swaps,
    versions,
    watches,
)
from gateway.store.database import Connection, Pool, transaction
from gateway.store.encryption import Vault
from gateway.store.rollout_journal import PostgresJournal

_LONGEST_DELAY = 300.0  # seconds between attempts
_LONGEST_UNSERVED = 8.0  # of those of an application that may serve nothing
_LONGEST_ASKED = 21_600.0  # seconds, of those a registry may ask for
_MOST_DOUBLINGS = 16
# Attempts that left a swap open for what is no matter of the swap are not counted as such.
_AWAY = frozenset({Code.ENGINE_UNREACHABLE, Code.GATEWAY_STOPPED, Code.DATABASE_UNAVAILABLE})
_LAST_LOOKS = 3  # attempts at looking at what serves, before a swap that cannot be settled is closed without
# A redeploy asked for this soon after a rollout of the same image is satisfied by it: CI pushes, then calls.
_SATISFIED_WITHIN = timedelta(seconds=60)


async def claim(
    pool: Pool, *, owner: str, engine_id: str, server_ids: Sequence[str | None], held: Sequence[str], lease: float
) -> Deployment | None:
    """Take the next deployment, its application bound to the engine from now on; none where the schema is too new."""
    async with transaction(pool) as connection:
        if await migrate.select_newer(connection) is not None:
            return None
        deployment = await leases.claim_deployment(
            connection,
            owner=owner,
            engine_id=engine_id,
            server_ids=server_ids,
            held=held,
            lease=timedelta(seconds=lease),
        )
        if deployment is not None:
            await applications.bind_engine(connection, deployment.application_id, engine_id)
        return deployment


async def prepare(pool: Pool, vault: Vault, deployment: Deployment) -> tuple[Task, Swap | None, Sequence[str]]:
    """Return what is to be done, the swap an earlier attempt left open, and the deliveries that caused it."""
    async with transaction(pool) as connection:
        ends = deployment.kind in {Kind.STOP, Kind.DELETE}
        application = await applications.select_application(
            connection, vault, deployment.application_id, without=applications.TO_RUN if ends else ()
        )
        flaw = None
        if not ends:
            application, flaw = await environments.resolve_variables(connection, vault, application)
        left_open = await swaps.select_swap(connection, deployment.application_id)
        caused_by = await deployments.select_deliveries_of(connection, deployment.deployment_id)
        target = None
        if deployment.rolls_back_to is not None:
            found = await versions.select_version(connection, vault, application, deployment.rolls_back_to)
            target = Target(deployment.rolls_back_to, found.reference, found.application)
        elif deployment.kind is Kind.ROLLBACK and application.base is not None:
            target = Target(None, application.base.reference, application.as_found())
        image = target.reference if target else deployment.reference or application.reference
        former = await versions.select_serving(connection, vault, application)
        login = ANONYMOUS
        if image is not None and not ends:
            kept = await registries.select_registries(connection, vault, image.repository.domain)
            login = select_login(image.repository, application.own_login, kept)

    async def satisfied_by(digest: Digest, spec_hash: str) -> str | None:
        async with transaction(pool) as connection:
            return await deployments.select_satisfying(connection, deployment, digest, spec_hash, _SATISFIED_WITHIN)

    async def knows(digest: Digest) -> bool:
        async with transaction(pool) as connection:
            return await deployments.select_knows(connection, deployment, digest)

    return Task(deployment, application, login, satisfied_by, target, flaw, knows, former), left_open, caused_by


async def swap_is_open(pool: Pool, deployment: Deployment) -> bool:
    """Tell whether the application is between two versions."""
    async with transaction(pool) as connection:
        return await swaps.select_swap(connection, deployment.application_id) is not None


async def conclude(
    pool: Pool,
    vault: Vault,
    deployment: Deployment,
    journal: PostgresJournal,
    outcome: Outcome,
    *,
    ran: Task | None,
    window: float,
    settled: bool = True,
) -> bool:
    """Write down how it ended, with what it ran, and that no swap is open; False where it is no longer ours.

    Unless it is `settled`, a swap stays open, for the application's next deployment.

    What it brought to serve is watched from then on, for the application's window or else this one, in seconds.
    """
    journal.end()
    async with transaction(pool) as connection:
        await applications.lock_row(connection, deployment.application_id)
        await journal.flush(connection)
        if settled:
            await swaps.delete_swap(connection, deployment.application_id, deployment.deployment_id, deployment.epoch)
        else:
            # It may be what its gateways died of: the next deployment tries once more, the one after that only looks.
            await swaps.count_settling(connection, deployment.application_id, settlings=0, defects=MOST_DEFECTS - 1)
        ours = await leases.finish_deployment(connection, deployment, outcome)
        await pulled_images.look_soon(connection, deployment.application_id)
        if ours and outcome.status is not Status.UNCHANGED:
            await watches.delete_watch(connection, deployment.application_id)
        if ours and outcome.status is Status.UNCHANGED and outcome.reason and outcome.reason.code is Code.NO_IMAGE:
            ignored = Ignored(str(deployment.reference or ""), outcome.reason.message)
            await deliveries.ignore_deliveries(connection, deployment.deployment_id, ignored)
        if ours and outcome.serves:
            await _take_image(connection, deployment)
        if ours and outcome.replaced and ran is not None:
            application = ran.target.application if ran.target else ran.application
            await versions.update_version(connection, vault, deployment.deployment_id, application)
            await _watch(connection, deployment, outcome, application.configuration.watch, window)
        if ours and outcome.status is Status.CANCELLED:
            await cancellations.restore_desired(connection, deployment.application_id)
        if ours and deployment.kind is Kind.DELETE and outcome.status is Status.SUCCEEDED:
            await pulled_images.insert_all_pulled(connection, deployment.application_id)
            await applications.delete_application(connection, deployment.application_id)
        return ours


async def _take_image(connection: Connection, deployment: Deployment) -> None:
    """Let the image that was asked for, and serves now, be the application's; what it follows moves along."""
    becoming = await deployments.select_becoming(connection, deployment.deployment_id)
    if becoming is None:
        return
    before = await applications.select_image(connection, deployment.application_id)
    reference = Reference.parse(becoming.image)
    if before is not None and Reference.parse(before) == reference:
        return
    await applications.update_image(connection, deployment.application_id, becoming.image)
    if becoming.moves_subscription:
        await subscriptions.replace_subscription(connection, deployment.application_id, reference)


async def _watch(
    connection: Connection, deployment: Deployment, outcome: Outcome, chosen: float | None, window: float
) -> None:
    seconds = window if chosen is None else chosen
    if seconds and outcome.object_id is not None:
        await watches.insert_watch(
            connection, deployment, outcome.object_id, outcome.restarts, timedelta(seconds=seconds)
        )


@dataclass(frozen=True, slots=True)
class Later:
    """What a deployment is that was to be postponed, and why; `unserved` where nothing serves, the first time."""

    status: Status
    reason: Reason
    unserved: bool = False


async def postpone(
    pool: Pool,
    deployment: Deployment,
    journal: PostgresJournal,
    error: Postponed,
    *,
    deadline: float,
    defect: bool = False,
) -> Later:
    """Put it back for later, or end it: where a newer one waits already, or it has waited too long.

    A swap it left open stays open, for whoever is claimed next; while one is, there is no deadline, and no long wait,
    since the application is left between two containers, and may serve nothing. One that was tried to settle more
    often than that, and could not even be looked at, is closed.
    """
    journal.end()
    async with transaction(pool) as connection:
        await journal.flush(connection)
        await applications.lock_row(connection, deployment.application_id)
        successor = await deployments.select_queued(connection, deployment.application_id)
        swap = await swaps.select_swap(connection, deployment.application_id)
        spent = swap is not None and await _is_spent(connection, deployment, swap, error, defect=defect)
        between = swap is not None and not spent
        found = await deployments.select_deployment(connection, deployment.deployment_id)
        if found.cancelled_at is not None and (successor is not None or not between):
            reason = Reason(Code.CANCELLED, f"cancelled; it was to wait: {error}")
            if await leases.finish_deployment(connection, deployment, Outcome(Status.CANCELLED, reason)):
                await cancellations.restore_desired(connection, deployment.application_id)
            return Later(Status.CANCELLED, reason)
        if successor is not None:
            await leases.yield_to_successor(connection, deployment, successor.deployment_id)
            await pulled_images.look_soon(connection, deployment.application_id)
            if deployment.forced:
                await leases.inherit_force(
                    connection, successor.deployment_id, replaces=deployment.kind is Kind.REDEPLOY
                )
            return Later(Status.SUPERSEDED, error.reason, unserved=await _unserved(connection, swap, error))
        late = await deployments.select_age(connection, deployment.deployment_id) > deadline
        if spent or (late and not between):
            what = "its swap is closed without being settled, and nobody knows what serves" if spent else "it ends"
            reason = Reason(Code.TOO_MANY_ATTEMPTS, f"{what} after {deployment.attempts} attempts; the last: {error}")
            await leases.finish_deployment(connection, deployment, Outcome(Status.FAILED, reason))
            return Later(Status.FAILED, reason)
        stopped = error.reason.code is Code.GATEWAY_STOPPED
        seconds = 0.0 if stopped else _delay(deployment.attempts, error.retry_after)
        reason = error.reason
        if swap is not None:
            seconds = min(seconds, _LONGEST_UNSERVED)
            reason = _of_unserved(swap, reason)
        delay = timedelta(seconds=seconds)
        await leases.postpone_deployment(connection, deployment, reason, delay, counted=not stopped, defect=defect)
        return Later(Status.QUEUED, reason, unserved=await _unserved(connection, swap, error))


async def _is_spent(
    connection: Connection, deployment: Deployment, swap: Swap, error: Postponed, *, defect: bool
) -> bool:
    """Count the attempt that left the swap open; where there were too many, close it and return True."""
    if error.reason.code in _AWAY:
        return False
    settlings, defects = (0, 1) if defect else (1, 0)
    await swaps.count_settling(connection, swap.application_id, settlings=settlings, defects=defects)
    if max(swap.settlings + settlings - MOST_SETTLINGS, swap.defects + defects - MOST_DEFECTS) < _LAST_LOOKS:
        return False
    await swaps.delete_swap(connection, swap.application_id, deployment.deployment_id, deployment.epoch)
    return True


def _of_unserved(swap: Swap, reason: Reason) -> Reason:
    """Return the reason with what it means for who uses the application."""
    if swap.order is Order.START_FIRST or reason.code is Code.GATEWAY_STOPPED:
        return reason
    return Reason(reason.code, f"{swap.serving_name} may serve nothing until this is done: {reason.message}")


async def _unserved(connection: Connection, swap: Swap | None, error: Postponed) -> bool:
    """Tell whether the application serves nothing and nobody was told of it yet."""
    if swap is None or swap.order is Order.START_FIRST or error.reason.code is Code.GATEWAY_STOPPED:
        return False
    return await swaps.mark_told(connection, swap.application_id)


def _delay(attempts: int, asked: float | None) -> float:
    """Return the seconds until the next attempt: those that were asked for, else twice as many each time."""
    if asked:
        return min(asked, _LONGEST_ASKED)
    return min(2.0 ** min(attempts - 1, _MOST_DOUBLINGS), _LONGEST_DELAY)
