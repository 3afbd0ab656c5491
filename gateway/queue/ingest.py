"""What was told becomes a row of the inbox and what must therefore be deployed: in one transaction, once.

the delivery's key ─▶ followers, their queues held ─▶ the push each follows ─▶ joined or queued ─▶ the inbox
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from types import MappingProxyType
from uuid import uuid4

from gateway.model.applications import Desired
from gateway.model.deployments import Deployment
from gateway.model.endpoints import Endpoint
from gateway.model.events import Ignored, Notification, PushEvent
from gateway.model.matching import Candidate, Match, explain_unmatched, select_push
from gateway.model.reference import Reference
from gateway.queue import enqueue
from gateway.sources import decode_form, redact_body
from gateway.store import applications, deliveries, delivery_log, deployments, queue, subscriptions
from gateway.store.database import Connection, Pool, transaction

# A body has no id of its own: the same bytes again within this time are the same delivery. What a signature proves is
# known for as long as its delivery is kept: whoever has seen it could send it again.
_SAME_BODY = timedelta(minutes=10)

_MOST_IGNORED = 1000  # of one delivery that are told one by one
_USED = "this signed body was used before: sent again, it moves no application to another image"

#: the source of a delivery that nobody has told
POLLED = "reconcile"

# What cannot be understood is kept for people to look at, within bounds an endpoint.
_REJECTED = 1000  # deliveries
_REJECTED_BODY = 64 * 1024  # bytes


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


async def ingest_delivery(
    pool: Pool,
    endpoint: Endpoint,
    body: bytes,
    notification: Notification,
    *,
    headers: Mapping[str, str] = MappingProxyType({}),
    replay_of: str | None = None,
) -> Receipt:
    """Store a proven delivery and queue what it causes: all of it, or nothing and Unavailable."""
    # What is signed of a form is what it holds.
    key = notification.event_id or f"sha256:{hashlib.sha256(decode_form(body)).hexdigest()}"
    valid_for = None if notification.event_id or notification.signed_without_time else _SAME_BODY
    delivery_id = str(uuid4())
    async with transaction(pool) as connection:
        first = await deliveries.claim_delivery_key(
            connection, endpoint.endpoint_id, key, delivery_id, valid_for=valid_for
        )
        if first is not None and await _is_spent(connection, first, notification):
            receipt = Receipt(delivery_id, duplicate_of=first)
        else:
            used = first is not None and notification.signed_without_time and notification.may_repeat
            receipt = await _match(connection, delivery_id, notification, only=endpoint.application_id, used=used)
            if first is not None and receipt.deployments:
                # All that the first one started failed, or nobody had subscribed yet: this one counts.
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


async def _is_spent(connection: Connection, first: str, notification: Notification) -> bool:
    """Tell whether a repetition of this delivery starts nothing."""
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
    """Store a proven delivery that cannot be understood, the beginning of a large one; the oldest such make room."""
    receipt = Receipt(str(uuid4()), ignored=(Ignored("", why),))
    async with transaction(pool) as connection:
        await deliveries.insert_delivery(
            connection,
            receipt.delivery_id,
            endpoint_id=endpoint.endpoint_id,
            source=endpoint.source,
            body=redact_body(body)[:_REJECTED_BODY],
            headers=headers,
            verdict="rejected",
            ignored=receipt.ignored,
        )
        await delivery_log.delete_rejected_beyond(connection, endpoint.endpoint_id, _REJECTED)
    return receipt


async def ingest_polled(pool: Pool, events: Sequence[PushEvent]) -> Receipt:
    """Store what was found at its registry, and queue what it causes as if it had been told."""
    async with transaction(pool) as connection:
        receipt = await _match(connection, str(uuid4()), Notification(tuple(events)))
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
    connection: Connection, delivery_id: str, notification: Notification, *, only: str | None = None, used: bool = False
) -> Receipt:
    """Queue what the pushes cause; the queues of all followers are held before one is looked at.

    With `only`, of this application, and where no image is named what it is configured with. What was `used` before
    moves no application to another image.
    """
    if only is not None and notification.names_no_image:
        return await _configured(connection, delivery_id, only)
    events = notification.events
    followers = await subscriptions.lock_subscribed(connection, events, only=only) if events else []
    waiting, reached = await _lanes(connection, followers)
    ignored = list(notification.ignored)
    queued: list[Queued] = []
    fresh: dict[str, Match] = {}
    chosen: _Chosen = {}
    for follower in followers:
        waits = waiting.get(follower.application_id)
        choice, passed_over = await _choose(follower, waits, reached, chosen)
        ignored.extend(passed_over)
        if choice is None:
            continue
        if why := enqueue.ignore_reason(waits, choice.event.reference) or (
            _USED if used and choice.changes_image else ""
        ):
            ignored.append(Ignored(str(choice.event.reference), why))
            continue
        if waits is None:
            fresh[follower.application_id] = choice
        else:
            deployment_id = await enqueue.enqueue_push(connection, follower.application_id, waits, choice)
            queued.append(Queued(deployment_id, follower.application_id))
    if fresh:
        made = await queue.insert_pushed(connection, fresh)
        queued.extend(Queued(deployment_id, application_id) for application_id, deployment_id in made.items())
    unmatched = _unmatched(notification.events, followers)
    if unmatched and only is None:
        followed = await subscriptions.select_subscribed(connection, {event.repository for event in unmatched})
        ignored.extend(explain_unmatched(unmatched, followed))
    elif unmatched and only is not None:
        why = await _not_followed(connection, only)
        ignored.extend(Ignored(str(event.reference), why) for event in unmatched)
    return Receipt(delivery_id, deployments=tuple(queued), ignored=_bounded(ignored))


def _bounded(ignored: Sequence[Ignored]) -> tuple[Ignored, ...]:
    rest = len(ignored) - _MOST_IGNORED
    return (*ignored[:_MOST_IGNORED], Ignored("", f"{rest} more that deploy nothing")) if rest > 0 else tuple(ignored)


_Lanes = tuple[dict[str, Deployment], dict[str, list[Reference]]]


async def _lanes(connection: Connection, followers: Sequence[Candidate]) -> _Lanes:
    """Return what waits, held, and where it matters the images that run."""
    if not followers:
        return {}, {}
    waiting = await queue.select_all_queued(connection, [one.application_id for one in followers])
    rising = [one.application_id for one in followers if one.upgrades_only]
    return waiting, await deployments.select_current_references(connection, rising) if rising else {}


_Chosen = dict[tuple[int, Desired], tuple[Match | None, list[Ignored]]]


async def _choose(
    follower: Candidate, waits: Deployment | None, reached: dict[str, list[Reference]], chosen: _Chosen
) -> tuple[Match | None, list[Ignored]]:
    """Return the push to follow, and what was passed over; the same for all who take the same, whatever they run."""
    if follower.upgrades_only:
        await asyncio.sleep(0)  # others have their turn: there may be many followers of many pushes
        return select_push(follower, _above(follower, waits, reached))
    alike = (id(follower.matches), follower.desired)
    if alike not in chosen:
        chosen[alike] = select_push(follower, ())
    choice, passed_over = chosen[alike]
    return (None if choice is None else replace(choice, image=follower.image)), passed_over


def _above(follower: Candidate, waits: Deployment | None, reached: dict[str, list[Reference]]) -> list[Reference]:
    """Return what a rising version is measured by: what was never deployed is measured by its image."""
    served = reached.get(follower.application_id) or ([follower.image] if follower.image else [])
    return [*served, waits.reference] if waits is not None and waits.reference is not None else served


def _unmatched(events: Sequence[PushEvent], followers: Sequence[Candidate]) -> list[PushEvent]:
    distinct = {id(follower.matches): follower.matches for follower in followers}
    matched = {event for taken in distinct.values() for event, _ in taken}
    return [event for event in events if event not in matched]


async def _not_followed(connection: Connection, application_id: str) -> str:
    image = await applications.select_image(connection, application_id)
    return f"the application does not follow it: its image is {image}"


async def _configured(connection: Connection, delivery_id: str, application_id: str) -> Receipt:
    """Queue what the application is configured with, as a push of it would."""
    desired = await applications.lock_application(connection, application_id)
    image = (await applications.select_wanted_image(connection, application_id)).image
    if image is None:
        return Receipt(delivery_id, ignored=(Ignored("", "the application has no image yet: set dockerImage"),))
    reference = Reference.parse(image)
    waits = await queue.select_queued(connection, application_id)
    why = "stopped" if desired is Desired.STOPPED else enqueue.ignore_reason(waits, reference)
    if why:
        return Receipt(delivery_id, ignored=(Ignored(str(reference), why),))
    queued = await enqueue.enqueue_configured(connection, application_id, waits, reference)
    return Receipt(delivery_id, deployments=(Queued(queued, application_id),))
