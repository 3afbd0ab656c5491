"""What was pushed, or asked for, becomes what must be deployed: in one transaction, with no Docker in sight.

An application has at most one deployment waiting. What comes while one waits

    joins it         the same image, or a push for what waits to start anyway
    supersedes it    anything else, and inherits its force
    is ignored       a push for another image than the one a person asked for

and what comes while one runs waits behind it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from gateway.applications import Application, Desired
from gateway.deployments import Deployment, Kind
from gateway.errors import InvalidInput
from gateway.events import Ignored, Notification, PushEvent
from gateway.reference import Digest, Reference
from gateway.store import applications, deliveries, deployments, subscriptions
from gateway.store.database import Connection, Pool, transaction
from gateway.store.endpoints import Endpoint
from gateway.store.subscriptions import Subscriber

# A body has no id of its own: the same bytes again within this time are the same delivery.
_SAME_BODY = timedelta(minutes=10)

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


async def deliver(pool: Pool, endpoint: Endpoint, body: bytes, notification: Notification) -> Receipt:
    """Store a proven delivery and queue what it causes: all of it, or nothing and Unavailable."""
    key = notification.event_id or f"sha256:{hashlib.sha256(body).hexdigest()}"
    valid_for = None if notification.event_id else _SAME_BODY
    async with transaction(pool) as connection:
        delivery_id = await deliveries.insert_delivery(connection, endpoint.endpoint_id, endpoint.source, body)
        first = await deliveries.claim_delivery_key(
            connection, endpoint.endpoint_id, key, delivery_id, valid_for=valid_for
        )
        if first is not None and await deliveries.select_spent(connection, first):
            receipt = Receipt(delivery_id, duplicate_of=first)
        else:
            receipt = await _match(connection, delivery_id, notification)
            if first is not None and receipt.deployments:
                # All that the first one started failed, or nobody had subscribed yet: this one counts.
                await deliveries.take_delivery_key(connection, endpoint.endpoint_id, key, delivery_id)
            elif first is not None:
                receipt = Receipt(delivery_id, duplicate_of=first, ignored=receipt.ignored)
        await deliveries.finish_delivery(
            connection,
            delivery_id,
            receipt.verdict,
            ignored=receipt.ignored,
            duplicate_of=receipt.duplicate_of,
        )
    return receipt


async def reject(pool: Pool, endpoint: Endpoint, body: bytes, why: str) -> Receipt:
    """Store a proven delivery that cannot be understood."""
    ignored = (Ignored("", why),)
    async with transaction(pool) as connection:
        delivery_id = await deliveries.insert_delivery(connection, endpoint.endpoint_id, endpoint.source, body)
        await deliveries.finish_delivery(connection, delivery_id, "rejected", ignored=ignored)
    return Receipt(delivery_id, ignored=ignored)


async def _match(connection: Connection, delivery_id: str, notification: Notification) -> Receipt:
    queued: list[Queued] = []
    ignored = list(notification.ignored)
    subscribers = await subscriptions.lock_subscribers(connection, notification.events)
    for subscriber in subscribers:
        deployment_id, why = await _push(connection, subscriber)
        if deployment_id is None:
            ignored.append(Ignored(str(subscriber.event.reference), why))
            continue
        await deliveries.link_delivery(connection, delivery_id, deployment_id)
        queued.append(Queued(deployment_id, subscriber.application_id))
    ignored.extend(_unmatched(notification.events, subscribers))
    return Receipt(delivery_id, deployments=tuple(queued), ignored=tuple(ignored))


def _unmatched(events: Sequence[PushEvent], subscribers: Sequence[Subscriber]) -> list[Ignored]:
    matched = {subscriber.event for subscriber in subscribers}
    return [Ignored(str(event.reference), "no subscription") for event in events if event not in matched]


async def _push(connection: Connection, subscriber: Subscriber) -> tuple[str | None, str]:
    """Return the deployment that answers this push, or why there is none."""
    if subscriber.desired is Desired.STOPPED:
        return None, "stopped"
    event = subscriber.event
    waiting = await deployments.select_queued(connection, subscriber.application_id)
    if waiting is not None and waiting.forced and waiting.reference not in {None, event.reference}:
        return None, "a person asked for another image"
    if waiting is not None and waiting.kind not in _STARTING:
        return None, f"a {waiting.kind} is queued"
    queued = await _queue(
        connection,
        subscriber.application_id,
        waiting,
        kind=Kind.DEPLOY,
        forced=False,
        reference=event.reference,
        expected_digest=event.digest,
        title=f"{event.reference} pushed",
    )
    return queued, ""


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
