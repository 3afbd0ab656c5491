"""Promote what a followed application has proven, in the caller's transaction. Nothing here calls Docker or a registry.

A promotion and its deployment are written in one transaction, so each digest is queued only once, however often a
gateway is killed. The caller holds the lock of the follower's queue, so that gateways take turns.
"""

from dataclasses import dataclass
from datetime import datetime

from gateway.model.applications import Desired
from gateway.model.deployments import Deployment, Status
from gateway.model.errors import Code, Conflict, NotFound, Reason
from gateway.model.promotions import OPEN, Following, Promotion, PromotionState, pause_after
from gateway.model.reference import Digest, Reference
from gateway.model.soaks import Followed
from gateway.queue import enqueue
from gateway.store import applications, cancellations, deployments, promotions, queue, soaks, swaps
from gateway.store.database import Connection

_DONE = frozenset({Status.SUCCEEDED, Status.UNCHANGED})


@dataclass(frozen=True, slots=True)
class Change:
    """A promotion after a change. `notifies`: people are to be notified."""

    promotion: Promotion
    notifies: bool


# -- what is open


async def review_open(
    connection: Connection, application_id: str, following: Following | None, now: datetime
) -> Change | None:
    """Update the open promotion of a follower. Withdraw it if the image is no longer proven for the follower.

    `following` is None if the application no longer follows another one. A running deployment goes on.
    """
    one = await promotions.select_open(connection, application_id)
    if one is None:
        return None
    gone = await _why_gone(connection, one, following, now)
    if one.state is PromotionState.QUEUED:
        return await _review_queued(connection, one, gone, now)
    if gone:
        return await _update(connection, one, PromotionState.WITHDRAWN, gone, now)
    if one.state is PromotionState.WAITING and following is not None and now - one.proven_at > following.wait:
        return await _update(connection, one, PromotionState.FAILED, f"gave up: {one.reason}", now, notifies=True)
    return None


async def _why_gone(connection: Connection, one: Promotion, following: Following | None, now: datetime) -> str:
    """Return why the image is no longer proven for the follower, or ""."""
    if following is None or following.follows != one.follows:
        return "the application no longer follows the one that proved it"
    followed = await soaks.select_followed(connection, one.follows, one.digest, now)
    if followed is None:
        return f"application {one.follows} was deleted"
    if left := followed.has_left(one.digest):
        return left
    if not followed.is_proven(following.soak):
        failure = followed.soak.failure if followed.soak else ""
        return failure or f"{followed.name} has not run it for long enough any more"
    return ""


async def _review_queued(connection: Connection, one: Promotion, gone: str, now: datetime) -> Change | None:
    try:
        found = await deployments.select_deployment(connection, one.deployment_id or "")
    except NotFound:
        return await _update(connection, one, PromotionState.DECLINED, "its deployment was deleted", now)
    match found.status:
        case Status.QUEUED | Status.RUNNING:
            return await _review_unfinished(connection, one, found, gone, now)
        case Status.SUPERSEDED | Status.CANCELLED:
            return await _update(connection, one, *await _set_aside(connection, found), now)
        case _:
            return await _update(connection, one, *_ended(found), now)


async def _review_unfinished(
    connection: Connection, one: Promotion, found: Deployment, gone: str, now: datetime
) -> Change | None:
    """Cancel a deployment that has not begun, unless a person requested it. Otherwise notify people that it goes on."""
    if not gone:
        return None
    has_begun = found.status is Status.RUNNING or await swaps.select_swap(connection, one.application_id) is not None
    if not has_begun and not found.forced:
        reason = Reason(Code.CANCELLED, f"the promotion was withdrawn: {gone}")
        await cancellations.cancel_queued(connection, found.deployment_id, reason)
        return await _update(connection, one, PromotionState.WITHDRAWN, gone, now)
    if gone == one.reason:
        return None  # people were notified already
    return await _update(connection, one, PromotionState.QUEUED, gone, now, notifies=True)


def _ended(found: Deployment) -> tuple[PromotionState, str]:
    if found.status in _DONE:
        return PromotionState.PROMOTED, ""
    if found.reason is not None and found.reason.code is Code.NOT_PROVEN:
        return PromotionState.WITHDRAWN, found.reason.message
    return PromotionState.FAILED, found.reason.message if found.reason else str(found.status)


async def _set_aside(connection: Connection, found: Deployment) -> tuple[PromotionState, str]:
    """Return what a superseded or cancelled deployment means: a person decided, or a push came between."""
    if found.superseded_by is not None:
        successor = await deployments.select_deployment(connection, found.superseded_by)
        if not successor.forced:
            return PromotionState.WITHDRAWN, f"deployment {successor.deployment_id} took its place"
        return PromotionState.DECLINED, f"a person asked for deployment {successor.deployment_id} instead"
    return PromotionState.DECLINED, f"deployment {found.deployment_id} was cancelled"


async def _update(
    connection: Connection, one: Promotion, state: PromotionState, reason: str, now: datetime, *, notifies: bool = False
) -> Change:
    await promotions.update_state(connection, one, state, reason, now)
    return await _changed(connection, one.application_id, one.digest, notifies=notifies)


async def _changed(connection: Connection, application_id: str, digest: Digest, *, notifies: bool) -> Change:
    one = await promotions.select_promotion(connection, application_id, digest)
    if one is None:
        raise NotFound("Promotion not found")
    return Change(one, notifies)


# -- what is due


async def select_due(connection: Connection, following: Following, now: datetime) -> Followed | None:
    """Return the followed application if the digest that it runs is to be promoted now by the gateway itself."""
    followed = await soaks.select_followed(connection, following.follows, None, now)
    if followed is None or followed.serving is None or not followed.is_due(followed.serving, following.soak, now):
        return None
    one = await promotions.select_promotion(connection, following.application_id, followed.serving)
    if one is not None and not one.may_begin(following, now):
        return None
    other = await promotions.select_open(connection, following.application_id)
    return followed if other is None or other.digest == followed.serving else None


async def promote_due(
    connection: Connection,
    following: Following,
    digest: Digest,
    *,
    reference: Reference | None,
    obstacle: str,
    now: datetime,
) -> Change | None:
    """Queue the deployment of a digest, or propose it, or let it wait because of the `obstacle`.

    `reference` is the follower's image by this digest. Returns None if the promotion is no longer due.
    """
    desired = await applications.lock_application(connection, following.application_id)
    followed = await select_due(connection, following, now)
    if followed is None or followed.serving != digest:
        return None
    if await _serves_already(connection, following.application_id, digest):
        return await _store(connection, following, digest, PromotionState.PROMOTED, now, reason="it ran already")
    if following.proposes:
        return await _store(connection, following, digest, PromotionState.PROPOSED, now)
    if desired is not Desired.RUNNING:
        obstacle = f"the application is {desired}"
    if obstacle or reference is None:
        return await _store(connection, following, digest, PromotionState.WAITING, now, reason=obstacle)
    queued = await queue.select_queued(connection, following.application_id)
    if enqueue.ignore_reason(queued, reference):
        return None  # a person's request goes first
    deployment_id = await _enqueue(connection, following, followed, queued, reference, forced=False)
    return await _store(connection, following, digest, PromotionState.QUEUED, now, deployment_id=deployment_id)


async def _serves_already(connection: Connection, application_id: str, digest: Digest) -> bool:
    return await applications.is_idle(connection, application_id) and digest == await soaks.select_serving(
        connection, application_id
    )


async def _enqueue(
    connection: Connection,
    following: Following,
    followed: Followed,
    queued: Deployment | None,
    reference: Reference,
    *,
    forced: bool,
) -> str:
    return await enqueue.enqueue_promoted(
        connection,
        following.application_id,
        queued,
        reference,
        title=f"Promoted from {followed.name}",
        description=f"{followed.name} ({followed.application_id}) has run {reference.digest} well",
        forced=forced,
    )


async def _store(
    connection: Connection,
    following: Following,
    digest: Digest,
    state: PromotionState,
    now: datetime,
    *,
    reason: str = "",
    deployment_id: str | None = None,
) -> Change:
    before = await promotions.select_promotion(connection, following.application_id, digest)
    waited = now - before.proven_at if before is not None and before.state in OPEN else now - now
    await promotions.upsert_promotion(
        connection,
        application_id=following.application_id,
        digest=digest,
        follows=following.follows,
        state=state,
        now=now,
        reason=reason,
        deployment_id=deployment_id,
        next_look_at=now + pause_after(waited) if state is PromotionState.WAITING else None,
    )
    waits = state in {PromotionState.PROPOSED, PromotionState.WAITING}
    is_new = before is None or (before.state, before.reason) != (state, reason)
    return await _changed(connection, following.application_id, digest, notifies=waits and is_new)


# -- what a person asks for


async def promote(
    connection: Connection, following: Following, digest: Digest, reference: Reference, now: datetime
) -> Promotion:
    """Queue the deployment of a proven digest for a person, and return its promotion.

    Raises Conflict when the followed application has not proven it, NotFound when the application was deleted.
    """
    await applications.lock_application(connection, following.application_id)
    followed = await soaks.select_followed(connection, following.follows, digest, now)
    if followed is None:
        raise Conflict(f"It follows application {following.follows}, which does not exist")
    if not followed.is_proven(following.soak):
        raise not_proven(following, followed, digest)
    other = await promotions.select_open(connection, following.application_id)
    if other is not None and other.digest != digest:
        if other.state is PromotionState.QUEUED:
            raise Conflict(
                f"The promotion of {other.digest} is queued as deployment {other.deployment_id}. Withdraw it first: "
                f"gateway promotions withdraw {following.application_id}"
            )
        await promotions.update_state(connection, other, PromotionState.DECLINED, f"{digest} was promoted instead", now)
    await applications.update_desired(connection, following.application_id, Desired.RUNNING)
    queued = await queue.select_queued(connection, following.application_id)
    deployment_id = await _enqueue(connection, following, followed, queued, reference, forced=True)
    changed = await _store(connection, following, digest, PromotionState.QUEUED, now, deployment_id=deployment_id)
    return changed.promotion


def not_proven(following: Following, followed: Followed, digest: Digest) -> Conflict:
    return Conflict(
        f"{followed.name} has not proven {digest}. See what it runs, and since when: "
        f"gateway promotions list {following.application_id}"
    )


async def withdraw(connection: Connection, application_id: str, now: datetime) -> Promotion:
    """Decline the open promotion of a follower, and cancel its deployment if that is queued.

    Raises NotFound when there is none, and Conflict when its deployment runs.
    """
    await applications.lock_row(connection, application_id)
    one = await promotions.select_open(connection, application_id)
    if one is None:
        raise NotFound("Promotion not found: none of this application waits or is queued")
    if one.deployment_id is not None:
        found = await deployments.select_deployment(connection, one.deployment_id)
        if found.status is Status.RUNNING or await swaps.select_swap(connection, application_id) is not None:
            raise Conflict(
                f"Deployment {found.deployment_id} has begun. Cancel it: gateway deployments cancel "
                f"{found.deployment_id}"
            )
        reason = Reason(Code.CANCELLED, "the promotion was withdrawn")
        await cancellations.cancel_queued(connection, found.deployment_id, reason)
        await cancellations.restore_desired(connection, application_id)
    return (await _update(connection, one, PromotionState.DECLINED, "withdrawn", now)).promotion
