"""Decide what becomes of a deployment whose attempt did not finish: retry it later, or end it.

The delay doubles with each attempt, up to a limit, unless the error says how long to wait (`retry_after`).
"""

from dataclasses import dataclass
from datetime import timedelta

from gateway.model.alerts import EventKind, of_deployment, of_outcome
from gateway.model.configuration import Order
from gateway.model.deployments import Deployment, Kind, Outcome, Status, Swap
from gateway.model.errors import AtGate, Code, Postponed, Prepared, Reason
from gateway.rollout.swap import MAX_SWAP_DEFECTS, MAX_SWAP_RESUMPTIONS
from gateway.store import (
    applications,
    cancellations,
    deployments,
    gate_verdicts,
    leases,
    outbox,
    pulled_images,
    queue,
    release_deployments,
    releases,
    swaps,
)
from gateway.store.database import Connection, Pool, transaction
from gateway.store.rollout_journal import PostgresJournal

_MAX_DELAY = 300.0  # seconds between attempts
_MAX_DELAY_UNSERVED = 8.0  # seconds, while a swap is open: the application may serve nothing
_MAX_RETRY_AFTER = 21_600.0  # seconds; a registry may not ask for more
_MAX_DOUBLINGS = 16
# An attempt at settling a swap does not count when it ends with one of these: they say nothing about the swap.
_UNRELATED_TO_SWAP = frozenset({Code.ENGINE_UNREACHABLE, Code.GATEWAY_STOPPED, Code.DATABASE_UNAVAILABLE})
_LONG_WAIT = 60.0  # seconds at a gate after which people are notified
_MAX_FINAL_LOOKS = 3  # attempts at observing what serves, before a swap that cannot be settled is closed without it


@dataclass(frozen=True, slots=True)
class Postponement:
    """The new status of a deployment that was to be postponed, and why.

    `unserved` is True when the application may serve nothing, the first time that this is seen.
    """

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
) -> Postponement:
    """Schedule the next attempt, or end the deployment: cancelled, superseded, or older than `deadline` seconds.

    An open swap stays open for the next attempt. While one is open there is no deadline and only a short delay, since
    the application is between two containers and may serve nothing. A swap that could not be settled too often is
    closed, and the deployment fails.

    A deployment whose release has begun to move makes way for nobody: newer ones wait until the release has ended.
    """
    journal.end()
    async with transaction(pool) as connection:
        await journal.flush(connection)
        await applications.lock_row(connection, deployment.application_id)
        part = await release_deployments.select_part(connection, deployment)
        if part is not None:
            await releases.notify(connection)
        if isinstance(error, Prepared):
            return await _wait_for_release(connection, deployment, error)
        parked = part is not None and part.moves
        successor = None if parked else await queue.select_queued(connection, deployment.application_id)
        swap = await swaps.select_swap(connection, deployment.application_id)
        exhausted = swap is not None and await _is_exhausted(connection, deployment, swap, error, defect=defect)
        swap_open = swap is not None and not exhausted
        current = await deployments.select_deployment(connection, deployment.deployment_id)
        if current.cancelled_at is not None and (successor is not None or not swap_open):
            return await _cancel(connection, deployment, error)
        if successor is not None:
            await _yield_to(connection, deployment, successor)
            return Postponement(Status.SUPERSEDED, error.reason, unserved=await _unserved(connection, swap, error))
        if isinstance(error, AtGate) and not swap_open and not exhausted:
            return await _wait_at_gate(connection, deployment, error)
        since_request = await deployments.select_seconds_since_request(connection, deployment.deployment_id)
        seconds = part.moving_for if part is not None and parked and part.forward else since_request
        if exhausted or (seconds > deadline and not swap_open):
            return await _fail(connection, deployment, error, exhausted=exhausted)
        return await _reschedule(connection, deployment, swap, error, defect=defect, parked=parked)


async def _wait_for_release(connection: Connection, deployment: Deployment, error: Prepared) -> Postponement:
    """Return a prepared deployment to the queue until its release lets it swap, or the release is put back."""
    current = await deployments.select_deployment(connection, deployment.deployment_id)
    delay = None if current.cancelled_at is None else timedelta(0)
    if await release_deployments.park_deployment(connection, deployment, error.reason, delay, counted=False):
        await release_deployments.record_prepared(connection, deployment, error.spec_hash)
    return Postponement(Status.QUEUED, error.reason)


async def swap_is_open(pool: Pool, deployment: Deployment) -> bool:
    """Tell whether the deployment's application is between two containers."""
    async with transaction(pool) as connection:
        return await swaps.select_swap(connection, deployment.application_id) is not None


async def _cancel(connection: Connection, deployment: Deployment, error: Postponed) -> Postponement:
    reason = Reason(Code.CANCELLED, f"cancelled before the next attempt; the last one ended with: {error}")
    if await _end(connection, deployment, Outcome(Status.CANCELLED, reason)):
        await cancellations.restore_desired(connection, deployment.application_id)
    return Postponement(Status.CANCELLED, reason)


async def _yield_to(connection: Connection, deployment: Deployment, successor: Deployment) -> None:
    """Let the newer deployment supersede this one. If a person requested this one, the newer one is forced too."""
    if await leases.yield_to_successor(connection, deployment, successor.deployment_id):
        await outbox.write_event(connection, of_deployment(deployment, EventKind.CANCELLED, None))
    await pulled_images.schedule_check(connection, deployment.application_id)
    if deployment.forced:
        await leases.inherit_force(connection, successor.deployment_id, replaces=deployment.kind is Kind.REDEPLOY)


async def _fail(connection: Connection, deployment: Deployment, error: Postponed, *, exhausted: bool) -> Postponement:
    what = "its swap was closed without being settled; what serves is unknown" if exhausted else "gave up"
    reason = Reason(Code.TOO_MANY_ATTEMPTS, f"{what} after {deployment.attempts} attempts; the last error: {error}")
    await _end(connection, deployment, Outcome(Status.FAILED, reason))
    return Postponement(Status.FAILED, reason)


async def _end(connection: Connection, deployment: Deployment, outcome: Outcome) -> bool:
    """Record the outcome, and write its event to the outbox if there is one. Return False for a stale owner."""
    owned = await leases.finish_deployment(connection, deployment, outcome, None, closes_swap=False, closes_watch=False)
    if owned and (occurrence := of_outcome(deployment, outcome)) is not None:
        await outbox.write_event(connection, occurrence)
    return owned is not None


async def _reschedule(
    connection: Connection, deployment: Deployment, swap: Swap | None, error: Postponed, *, defect: bool, parked: bool
) -> Postponement:
    stopped = error.reason.code is Code.GATEWAY_STOPPED
    seconds = 0.0 if stopped else _delay(deployment.attempts, error.retry_after)
    reason = error.reason
    if swap is not None:
        seconds = min(seconds, _MAX_DELAY_UNSERVED)
        reason = _reason_with_impact(swap, reason)
    delay = timedelta(seconds=seconds)
    put_off = release_deployments.park_deployment if parked else leases.postpone_deployment
    await put_off(connection, deployment, reason, delay, counted=not stopped, defect=defect)
    return Postponement(Status.QUEUED, reason, unserved=await _unserved(connection, swap, error))


async def _wait_at_gate(connection: Connection, deployment: Deployment, error: AtGate) -> Postponement:
    """Let the deployment wait at a gate. The attempt does not count, and only the gate's own deadline applies."""
    await gate_verdicts.delete_steps_of_waits(connection, deployment)
    woken = await gate_verdicts.was_woken(connection, deployment, error.wakes)
    seconds = 0.0 if woken else min(error.retry_after or 0.0, _MAX_RETRY_AFTER)
    delay = timedelta(seconds=seconds)
    waits = await leases.postpone_deployment(connection, deployment, error.reason, delay, counted=False)
    if waits and seconds >= _LONG_WAIT:
        event = of_deployment(deployment, EventKind.WAITING, error.reason, once=f":{error.reason.code}")
        await outbox.write_event(connection, event)
    return Postponement(Status.QUEUED, error.reason)


async def _is_exhausted(
    connection: Connection, deployment: Deployment, swap: Swap, error: Postponed, *, defect: bool
) -> bool:
    """Count the attempt that left the swap open; close the swap and return True when there were too many."""
    if error.reason.code in _UNRELATED_TO_SWAP:
        return False
    settlings, defects = (0, 1) if defect else (1, 0)
    await swaps.count_settling(connection, swap.application_id, settlings=settlings, defects=defects)
    beyond = max(swap.failed_resumptions + settlings - MAX_SWAP_RESUMPTIONS, swap.defects + defects - MAX_SWAP_DEFECTS)
    if beyond < _MAX_FINAL_LOOKS:
        return False
    await swaps.delete_swap(connection, swap.application_id, deployment.deployment_id, deployment.epoch)
    return True


def _may_serve_nothing(swap: Swap, code: Code) -> bool:
    """Tell whether the application may serve nothing: stop-first stops the old container before the new one starts.

    A gateway that stops puts the old container back.
    """
    return swap.order is not Order.START_FIRST and code is not Code.GATEWAY_STOPPED


def _reason_with_impact(swap: Swap, reason: Reason) -> Reason:
    """Prefix the reason with what an open swap means for the application's users."""
    if not _may_serve_nothing(swap, reason.code):
        return reason
    return Reason(reason.code, f"{swap.serving_name} may serve nothing until the next attempt: {reason.message}")


async def _unserved(connection: Connection, swap: Swap | None, error: Postponed) -> bool:
    """Tell whether the application may serve nothing and no alert was sent about it yet; mark it as sent."""
    if swap is None or not _may_serve_nothing(swap, error.reason.code):
        return False
    return await swaps.mark_notified(connection, swap.application_id)


def _delay(attempts: int, retry_after: float | None) -> float:
    """Return the seconds until the next attempt."""
    if retry_after:
        return min(retry_after, _MAX_RETRY_AFTER)
    return min(2.0 ** min(attempts - 1, _MAX_DOUBLINGS), _MAX_DELAY)
