"""Store a delivery in the inbox and enqueue the deployments that it causes: in one transaction, once.

claim the delivery's key ─▶ lock the queues of all candidates ─▶ match pushes ─▶ join or enqueue ─▶ store in the inbox

Like the statements that delete these rows, it locks a webhook before its delivery keys, and an application before its
deploy token. So they cannot deadlock.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from types import MappingProxyType
from typing import NamedTuple

from gateway.model.applications import Desired
from gateway.model.deployments import Deployment
from gateway.model.endpoints import Endpoint
from gateway.model.events import Ignored, Notification, PushEvent
from gateway.model.ids import new_id
from gateway.model.matching import Candidate, Match, explain_unmatched, select_push
from gateway.model.reference import Reference
from gateway.queue import enqueue
from gateway.sources import decode_form, redact_body
from gateway.store import application_images, applications, deliveries, delivery_log, deployments, queue, subscriptions
from gateway.store.database import Connection, Pool, transaction

# Without an event id, the same body within this time is a duplicate. A body signed without a time is a duplicate for as
# long as its delivery is kept, since anybody who has seen it could send it again.
_SAME_BODY_WINDOW = timedelta(minutes=10)

_MAX_IGNORED = 1000  # listed for one delivery
_BODY_USED = "this signed body was received before: a repetition cannot move an application to another image"

#: the source of a delivery that polling has created
POLLED = "reconcile"

# Deliveries that cannot be parsed are kept for inspection, so many for each endpoint.
_MAX_REJECTED = 1000  # deliveries
_MAX_REJECTED_BODY = 64 * 1024  # bytes


class QueuedDeployment(NamedTuple):
    """A deployment that was enqueued or joined."""

    deployment_id: str
    application_id: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a delivery caused."""

    delivery_id: str
    duplicate_of: str | None = None
    deployments: tuple[QueuedDeployment, ...] = ()
    ignored: tuple[Ignored, ...] = ()

    @property
    def verdict(self) -> str:
        if self.duplicate_of:
            return "duplicate"
        return "queued" if self.deployments else "ignored"


def delivery_key(notification: Notification, body: bytes) -> tuple[str, timedelta | None]:
    """Return the key that duplicates of a delivery share, and how long it is valid: None, as long as the delivery."""
    if notification.event_id:
        return notification.event_id, None
    # The signature of a form covers the JSON in it.
    digest = hashlib.sha256(decode_form(body)).hexdigest()
    return f"sha256:{digest}", None if notification.signed_without_time else _SAME_BODY_WINDOW


async def ingest_delivery(
    pool: Pool,
    endpoint: Endpoint,
    body: bytes,
    notification: Notification,
    *,
    headers: Mapping[str, str] = MappingProxyType({}),
    replay_of: str | None = None,
) -> Receipt:
    """Store an authenticated delivery and enqueue all that it causes. Raises Unavailable, and stores nothing then."""
    key, valid_for = delivery_key(notification, body)
    delivery_id = new_id()
    async with transaction(pool) as connection:
        if endpoint.application_id is not None:  # the endpoint is the application's deploy token
            await applications.lock_row(connection, endpoint.application_id)
        first = await deliveries.claim_delivery_key(
            connection, endpoint.endpoint_id, key, delivery_id, valid_for=valid_for
        )
        if first is not None and await _is_duplicate(connection, first, notification):
            receipt = Receipt(delivery_id, duplicate_of=first)
        else:
            body_used = first is not None and notification.signed_without_time and notification.may_repeat
            receipt = await _match(
                connection, delivery_id, notification, only_application=endpoint.application_id, body_used=body_used
            )
            if first is not None and receipt.deployments:
                # All deployments of the first delivery failed, or nothing was subscribed then: this delivery counts.
                await deliveries.reassign_delivery_key(connection, endpoint.endpoint_id, key, delivery_id)
            elif first is not None:
                receipt = Receipt(delivery_id, duplicate_of=first, ignored=receipt.ignored)
        await deliveries.insert_delivery(
            connection,
            receipt.delivery_id,
            endpoint_id=endpoint.endpoint_id,
            source=endpoint.source,
            body=redact_body(body),
            headers=headers,
            verdict=receipt.verdict,
            ignored=receipt.ignored,
            duplicate_of=receipt.duplicate_of,
            replay_of=replay_of,
            deployments=[queued.deployment_id for queued in receipt.deployments],
        )
    return receipt


async def _is_duplicate(connection: Connection, first: str, notification: Notification) -> bool:
    """Tell whether a repetition of the `first` delivery starts nothing."""
    if await deliveries.has_taken_effect(connection, first, waiting=notification.may_repeat):
        return True
    return (
        notification.signed_without_time
        and not notification.may_repeat
        and await deliveries.is_outdated(connection, first)
    )


async def ingest_rejected(
    pool: Pool, endpoint: Endpoint, body: bytes, why: str, *, headers: Mapping[str, str]
) -> Receipt:
    """Store the first 64 kB of an authenticated delivery that cannot be parsed. The oldest such deliveries go."""
    receipt = Receipt(new_id(), ignored=(Ignored("", why),))
    async with transaction(pool) as connection:
        await deliveries.insert_delivery(
            connection,
            receipt.delivery_id,
            endpoint_id=endpoint.endpoint_id,
            source=endpoint.source,
            body=redact_body(body)[:_MAX_REJECTED_BODY],
            headers=headers,
            verdict="rejected",
            ignored=receipt.ignored,
        )
        await delivery_log.delete_rejected_beyond(connection, endpoint.endpoint_id, _MAX_REJECTED)
    return receipt


async def ingest_polled(pool: Pool, events: Sequence[PushEvent]) -> Receipt:
    """Store pushes that polling has found, and enqueue what they cause, as for a webhook's delivery."""
    async with transaction(pool) as connection:
        receipt = await _match(connection, new_id(), Notification(tuple(events)))
        await deliveries.insert_delivery(
            connection,
            receipt.delivery_id,
            endpoint_id=None,
            source=POLLED,
            body=b"",
            headers={},
            verdict=receipt.verdict,
            ignored=receipt.ignored,
            deployments=[queued.deployment_id for queued in receipt.deployments],
        )
        await queue.notify(connection)
    return receipt


async def _match(
    connection: Connection,
    delivery_id: str,
    notification: Notification,
    *,
    only_application: str | None = None,
    body_used: bool = False,
) -> Receipt:
    """Enqueue what the pushes cause. The queues of all candidates are locked first.

    With `only_application`, only this application is matched; a delivery that names no image deploys its configured
    one. With `body_used`, no application moves to another image.
    """
    if only_application is not None and notification.names_no_image:
        return await _enqueue_configured(connection, delivery_id, only_application)
    events = notification.events
    candidates = await subscriptions.lock_subscribed(connection, events, only=only_application) if events else []
    queued_rows, deployed = await _load_queues(connection, candidates)
    ignored = list(notification.ignored)
    queued: list[QueuedDeployment] = []
    new: dict[str, Match] = {}
    matches: _Matches = {}
    for candidate in candidates:
        queued_deployment = queued_rows.get(candidate.application_id)
        match, passed = await _select_match(candidate, queued_deployment, deployed, matches)
        ignored.extend(passed)
        if match is None:
            continue
        if why := enqueue.ignore_reason(queued_deployment, match.event.reference) or (
            _BODY_USED if body_used and match.changes_image else ""
        ):
            ignored.append(Ignored(str(match.event.reference), why))
            continue
        if queued_deployment is None:
            new[candidate.application_id] = match
        else:
            deployment_id = await enqueue.enqueue_push(connection, candidate.application_id, queued_deployment, match)
            queued.append(QueuedDeployment(deployment_id, candidate.application_id))
    if new:
        inserted = await queue.insert_pushed(connection, new)
        queued.extend(
            QueuedDeployment(deployment_id, application_id) for application_id, deployment_id in inserted.items()
        )
    unmatched = _unmatched(notification.events, candidates)
    if unmatched and only_application is None:
        followed = await subscriptions.select_subscribed(connection, {event.repository for event in unmatched})
        ignored.extend(explain_unmatched(unmatched, followed))
    elif unmatched and only_application is not None:
        why = await _unmatched_reason(connection, only_application)
        ignored.extend(Ignored(str(event.reference), why) for event in unmatched)
    return Receipt(delivery_id, deployments=tuple(queued), ignored=_limit(ignored))


def _limit(ignored: Sequence[Ignored]) -> tuple[Ignored, ...]:
    hidden = len(ignored) - _MAX_IGNORED
    return (*ignored[:_MAX_IGNORED], Ignored("", f"{hidden} more are ignored")) if hidden > 0 else tuple(ignored)


_Queues = tuple[dict[str, Deployment], dict[str, list[Reference]]]


async def _load_queues(connection: Connection, candidates: Sequence[Candidate]) -> _Queues:
    """Return the locked queued deployments, and the images in service of those that follow a version policy."""
    if not candidates:
        return {}, {}
    queued_rows = await queue.select_all_queued(connection, [one.application_id for one in candidates])
    version_followers = [one.application_id for one in candidates if one.upgrades_only]
    return queued_rows, await deployments.select_current_references(
        connection, version_followers
    ) if version_followers else {}


_Matches = dict[tuple[int, Desired], tuple[Match | None, list[Ignored]]]


async def _select_match(
    candidate: Candidate, queued_deployment: Deployment | None, deployed: dict[str, list[Reference]], matches: _Matches
) -> tuple[Match | None, list[Ignored]]:
    """Return the push to deploy and those ignored. Candidates with equal subscriptions share one result."""
    if candidate.upgrades_only:
        await asyncio.sleep(0)  # let other tasks run: there may be many candidates and pushes
        return select_push(candidate, _versions_to_exceed(candidate, queued_deployment, deployed))
    key = (id(candidate.matches), candidate.desired)
    if key not in matches:
        matches[key] = select_push(candidate, ())
    match, passed = matches[key]
    return (None if match is None else replace(match, image=candidate.image)), passed


def _versions_to_exceed(
    candidate: Candidate, queued_deployment: Deployment | None, deployed: dict[str, list[Reference]]
) -> list[Reference]:
    """Return the versions that a push must exceed: in service and queued, else the configured image."""
    served = deployed.get(candidate.application_id) or ([candidate.image] if candidate.image else [])
    return (
        [*served, queued_deployment.reference]
        if queued_deployment is not None and queued_deployment.reference is not None
        else served
    )


def _unmatched(events: Sequence[PushEvent], candidates: Sequence[Candidate]) -> list[PushEvent]:
    distinct = {id(candidate.matches): candidate.matches for candidate in candidates}
    matched = {event for taken in distinct.values() for event, _ in taken}
    return [event for event in events if event not in matched]


async def _unmatched_reason(connection: Connection, application_id: str) -> str:
    image = await application_images.select_image(connection, application_id)
    return f"the application does not subscribe to it: its image is {image}"


async def _enqueue_configured(connection: Connection, delivery_id: str, application_id: str) -> Receipt:
    """Enqueue the configured image of the application, as a push of it would."""
    desired = await applications.lock_application(connection, application_id)
    image = (await application_images.select_wanted_image(connection, application_id)).image
    if image is None:
        return Receipt(delivery_id, ignored=(Ignored("", "the application has no image yet: set dockerImage"),))
    reference = Reference.parse(image)
    queued_deployment = await queue.select_queued(connection, application_id)
    why = "stopped" if desired is Desired.STOPPED else enqueue.ignore_reason(queued_deployment, reference)
    if why:
        return Receipt(delivery_id, ignored=(Ignored(str(reference), why),))
    queued = await enqueue.enqueue_configured(connection, application_id, queued_deployment, reference)
    return Receipt(delivery_id, deployments=(QueuedDeployment(queued, application_id),))
