"""What was pushed, or asked for, becomes what must be deployed: in one transaction, with no Docker in sight.

An application has at most one deployment waiting. What comes while one waits

    joins it         the same image, or a push for what waits to start anyway
    supersedes it    anything else, and inherits its force
    is ignored       a push for another image than the one a person asked for

and what comes while one runs waits behind it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from uuid import uuid4

from gateway.applications import Application, Desired
from gateway.deployments import Deployment, Kind
from gateway.endpoints import Endpoint
from gateway.errors import Conflict, InvalidInput
from gateway.events import Ignored, Notification, PushEvent
from gateway.following import Choice, Follower, choose
from gateway.reference import Digest, Reference
from gateway.store import applications, deliveries, deployments, inbox, subscriptions, versions
from gateway.store.database import Connection, Pool, transaction
from gateway.store.vault import Vault

# A body has no id of its own: the same bytes again within this time are the same delivery.
_SAME_BODY = timedelta(minutes=10)

#: the source of a delivery that nobody has told
FOUND = "reconcile"

# What cannot be understood is kept for people to look at, within bounds an endpoint.
_REJECTED = 1000  # deliveries
_REJECTED_BODY = 64 * 1024  # bytes

#: what to go back to where that is what an application was adopted with
ADOPTED = "adopted"

_STARTING = frozenset({Kind.DEPLOY, Kind.REDEPLOY, Kind.START})


@dataclass(frozen=True, slots=True)
class Queued:
    """A deployment that was queued or joined."""

    deployment_id: str
    application_id: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a delivery caused."""

    delivery_id: str
    duplicate_of: str | None = None
    deployments: tuple[Queued, ...] = ()
    ignored: tuple[Ignored, ...] = ()

    @property
    def verdict(self) -> str:
        if self.duplicate_of:
            return "duplicate"
        return "queued" if self.deployments else "ignored"


# -- pushes


async def deliver(
    pool: Pool,
    endpoint: Endpoint,
    body: bytes,
    notification: Notification,
    *,
    headers: Mapping[str, str] = MappingProxyType({}),
    replay_of: str | None = None,
) -> Receipt:
    """Store a proven delivery and queue what it causes: all of it, or nothing and Unavailable."""
    key = notification.event_id or f"sha256:{hashlib.sha256(body).hexdigest()}"
    valid_for = None if notification.event_id else _SAME_BODY
    delivery_id = str(uuid4())
    async with transaction(pool) as connection:
        first = await deliveries.claim_delivery_key(
            connection, endpoint.endpoint_id, key, delivery_id, valid_for=valid_for
        )
        if first is not None and await deliveries.select_spent(connection, first, waiting=notification.timeless):
            receipt = Receipt(delivery_id, duplicate_of=first)
        else:
            receipt = await _match(connection, delivery_id, notification)
            if first is not None and receipt.deployments:
                # All that the first one started failed, or nobody had subscribed yet: this one counts.
                await deliveries.take_delivery_key(connection, endpoint.endpoint_id, key, delivery_id)
            elif first is not None:
                receipt = Receipt(delivery_id, duplicate_of=first, ignored=receipt.ignored)
        await deliveries.insert_delivery(
            connection,
            receipt.delivery_id,
            endpoint_id=endpoint.endpoint_id,
            source=endpoint.source,
            body=body,
            headers=headers,
            verdict=receipt.verdict,
            ignored=receipt.ignored,
            duplicate_of=receipt.duplicate_of,
            replay_of=replay_of,
            deployments=[queued.deployment_id for queued in receipt.deployments],
        )
    return receipt


async def reject(pool: Pool, endpoint: Endpoint, body: bytes, why: str, *, headers: Mapping[str, str]) -> Receipt:
    """Store a proven delivery that cannot be understood, the beginning of a large one; the oldest such make room."""
    receipt = Receipt(str(uuid4()), ignored=(Ignored("", why),))
    async with transaction(pool) as connection:
        await deliveries.insert_delivery(
            connection,
            receipt.delivery_id,
            endpoint_id=endpoint.endpoint_id,
            source=endpoint.source,
            body=body[:_REJECTED_BODY],
            headers=headers,
            verdict="rejected",
            ignored=receipt.ignored,
        )
        await inbox.delete_rejected_beyond(connection, endpoint.endpoint_id, _REJECTED)
    return receipt


async def found(pool: Pool, events: Sequence[PushEvent]) -> Receipt:
    """Store what was found at its registry, and queue what it causes as if it had been told."""
    async with transaction(pool) as connection:
        receipt = await _match(connection, str(uuid4()), Notification(tuple(events)))
        await deliveries.insert_delivery(
            connection,
            receipt.delivery_id,
            endpoint_id=None,
            source=FOUND,
            body=b"",
            headers={},
            verdict=receipt.verdict,
            ignored=receipt.ignored,
            deployments=[queued.deployment_id for queued in receipt.deployments],
        )
        await deployments.notify(connection)
    return receipt


async def _match(connection: Connection, delivery_id: str, notification: Notification) -> Receipt:
    """Queue what the pushes cause; the queues of all followers are held before one is looked at."""
    followers = await subscriptions.lock_followers(connection, notification.events) if notification.events else []
    waiting, reached = await _lanes(connection, followers)
    ignored = list(notification.ignored)
    queued: list[Queued] = []
    fresh: dict[str, Choice] = {}
    for follower in followers:
        waits = waiting.get(follower.application_id)
        choice, passed_over = choose(follower, _above(follower, waits, reached))
        ignored.extend(passed_over)
        if choice is None:
            continue
        if why := _forbidden(waits, choice.event):
            ignored.append(Ignored(str(choice.event.reference), why))
            continue
        await _move_image(connection, follower.application_id, choice)
        if waits is None:
            fresh[follower.application_id] = choice
        else:
            deployment_id = await _push(connection, follower.application_id, waits, choice)
            queued.append(Queued(deployment_id, follower.application_id))
    if fresh:
        made = await deployments.insert_pushed(connection, fresh)
        queued.extend(Queued(deployment_id, application_id) for application_id, deployment_id in made.items())
    ignored.extend(_unmatched(notification.events, followers))
    return Receipt(delivery_id, deployments=tuple(queued), ignored=tuple(ignored))


_Lanes = tuple[dict[str, Deployment], dict[str, list[Reference]]]


async def _lanes(connection: Connection, followers: Sequence[Follower]) -> _Lanes:
    """Return what waits, held, and where it matters the images that run."""
    if not followers:
        return {}, {}
    waiting = await deployments.select_all_queued(connection, [one.application_id for one in followers])
    rising = [one.application_id for one in followers if one.rises]
    return waiting, await deployments.select_reached(connection, rising) if rising else {}


def _above(follower: Follower, waits: Deployment | None, reached: dict[str, list[Reference]]) -> list[Reference]:
    """Return what a rising version is measured by: what was never deployed is measured by its image."""
    served = reached.get(follower.application_id) or ([follower.image] if follower.image else [])
    return [*served, waits.reference] if waits is not None and waits.reference is not None else served


def _unmatched(events: Sequence[PushEvent], followers: Sequence[Follower]) -> list[Ignored]:
    matched = {event for follower in followers for event, _ in follower.taken}
    return [Ignored(str(event.reference), "no subscription") for event in events if event not in matched]


def _forbidden(waits: Deployment | None, event: PushEvent) -> str:
    """Return why a push may not touch what waits."""
    if waits is None:
        return ""
    if waits.forced and waits.reference not in {None, event.reference}:
        return "a person asked for another image"
    if waits.kind in _STARTING or waits.kind is Kind.ROLLBACK:
        return ""
    return f"a {waits.kind} is queued"


async def _move_image(connection: Connection, application_id: str, choice: Choice) -> None:
    if choice.moves_image:
        await applications.update_image(connection, application_id, choice.event.reference)
    if choice.moves_subscription:
        await subscriptions.replace_subscription(connection, application_id, choice.event.reference)


async def _push(connection: Connection, application_id: str, waits: Deployment, choice: Choice) -> str:
    """Return the deployment that answers this push where one waits."""
    return await _queue(
        connection,
        application_id,
        waits,
        kind=Kind.DEPLOY,
        forced=False,
        reference=choice.event.reference,
        expected_digest=choice.event.digest,
        title=choice.title,
        description=choice.description,
    )


# -- requests


async def request_deployment(
    pool: Pool, application: Application, kind: Kind, *, title: str, description: str = ""
) -> str:
    """Queue a deploy or redeploy that a person asked for, and return its id.

    Raises InvalidInput where there is no image yet, NotFound where the application went meanwhile.
    """
    reference = application.reference
    if reference is None:
        raise InvalidInput(
            "The application has no image yet: set dockerImage with application.saveDockerProvider",
            field="dockerImage",
        )
    async with transaction(pool) as connection:
        await applications.lock_application(connection, application.application_id)
        await applications.update_desired(connection, application.application_id, Desired.RUNNING)
        waiting = await deployments.select_queued(connection, application.application_id)
        deployment_id = await _queue(
            connection,
            application.application_id,
            waiting,
            kind=kind,
            forced=True,
            reference=reference,
            title=title,
            description=description,
        )
        await deployments.notify(connection)
    return deployment_id


async def request_rollback(
    pool: Pool, vault: Vault, application: Application, *, to: str | None, title: str, forced: bool = True
) -> str:
    """Queue the way back to what the deployment `to` ran, or to what served before, and return the new one's id.

    Before all deployments of an application that was adopted served what it was adopted with: ADOPTED.
    Raises NotFound where there is no such deployment, Conflict where it never came to serve or nothing did before.
    """
    async with transaction(pool) as connection:
        await applications.lock_application(connection, application.application_id)
        queued = await queue_rollback(connection, vault, application, to=to, title=title, forced=forced)
        await applications.update_desired(connection, application.application_id, Desired.RUNNING)
    return queued


async def queue_rollback(
    connection: Connection,
    vault: Vault,
    application: Application,
    *,
    to: str | None = None,
    title: str,
    description: str = "",
    forced: bool,
) -> str:
    """Do what request_rollback does, within a transaction that holds the application's queue."""
    target = to or await versions.select_previous(connection, application.application_id) or ADOPTED
    if target != ADOPTED:
        reference = (await versions.select_version(connection, vault, application, target)).reference
    elif application.base is not None:
        reference = application.base.reference
    else:
        raise Conflict(f"{application.name} ran no other version before: there is nothing to go back to")
    deployment_id = await _queue(
        connection,
        application.application_id,
        await deployments.select_queued(connection, application.application_id),
        kind=Kind.ROLLBACK,
        forced=forced,
        reference=reference,
        title=title,
        description=description,
        rolls_back_to=None if target == ADOPTED else target,
    )
    await deployments.notify(connection)
    return deployment_id


_DESIRED = {Kind.START: Desired.RUNNING, Kind.STOP: Desired.STOPPED, Kind.DELETE: Desired.DELETED}


async def request_state(pool: Pool, application: Application, kind: Kind, *, title: str) -> str | None:
    """Queue a start, stop or delete, in the lane of the rollouts so that nothing races one; return its id.

    From now on pushes see the new state. None where an application that was never deployed is deleted:
    there is nothing to wait for.
    """
    async with transaction(pool) as connection:
        await applications.lock_application(connection, application.application_id)
        current = await applications.select_engine_id(connection, application.application_id)
        if kind is Kind.DELETE and current is None:
            await applications.delete_application(connection, application.application_id)
            return None
        await applications.update_desired(connection, application.application_id, _DESIRED[kind])
        waiting = await deployments.select_queued(connection, application.application_id)
        deployment_id = await _queue(
            connection,
            application.application_id,
            waiting,
            kind=kind,
            forced=True,
            reference=application.reference if kind is Kind.START else None,
            title=title,
        )
        await deployments.notify(connection)
    return deployment_id


# -- the lane


async def _queue(
    connection: Connection,
    application_id: str,
    waiting: Deployment | None,
    *,
    kind: Kind,
    forced: bool,
    reference: Reference | None,
    title: str,
    description: str = "",
    expected_digest: Digest | None = None,
    rolls_back_to: str | None = None,
) -> str:
    """Join what waits, or take its place. The caller holds the application's queue."""
    if waiting is not None and reference is not None and _joins(waiting, kind, reference):
        await deployments.join_deployment(
            connection,
            waiting.deployment_id,
            kind=_stronger(waiting.kind, kind),
            forced=waiting.forced or forced,
            reference=reference,
            expected_digest=expected_digest,
        )
        return waiting.deployment_id
    if waiting is not None:
        await deployments.supersede_deployment(connection, waiting.deployment_id)
    inherits = waiting is not None and waiting.forced and kind in _STARTING
    deployment_id = await deployments.insert_deployment(
        connection,
        application_id=application_id,
        kind=kind,
        forced=forced or inherits,
        title=title,
        description=description,
        reference=reference,
        expected_digest=expected_digest,
        rolls_back_to=rolls_back_to,
    )
    if waiting is not None:
        await deployments.link_successor(connection, waiting.deployment_id, deployment_id)
    return deployment_id


def _joins(waiting: Deployment, kind: Kind, reference: Reference) -> bool:
    """Tell whether one rollout answers both.

    A titled request of a person keeps a row of its own unless it only strengthens a push that waits.
    """
    return waiting.kind in _STARTING and kind is Kind.DEPLOY and waiting.reference in {None, reference}


_STRENGTH = (Kind.START, Kind.DEPLOY, Kind.REDEPLOY)


def _stronger(one: Kind, other: Kind) -> Kind:
    return max(one, other, key=_STRENGTH.index)
