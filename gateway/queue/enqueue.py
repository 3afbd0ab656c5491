"""Enqueue deployments for pushes and requests, in the caller's transaction. Nothing here calls Docker.

An application has at most one queued deployment. A new push or request

    joins it         if it is for the same image, or is a push while the application is about to start
    is ignored       if it is a push of another image than a person requested
    supersedes it    otherwise, and is forced if the superseded deployment was

A new deployment waits until the running one has ended.
"""

from collections.abc import Mapping

from gateway.model.applications import Application, Desired
from gateway.model.deployments import Deployment, Kind
from gateway.model.errors import Conflict, InvalidInput
from gateway.model.matching import Match
from gateway.model.reference import Digest, Reference, Tag, parse_tag, replace_tag
from gateway.store import application_images, applications, queue, versions
from gateway.store.database import Connection, Pool, transaction
from gateway.store.encryption import Vault
from gateway.store.queue import ImageChange

#: the rollback target of an adopted application before its first deployment
ADOPTED = "adopted"

_STARTING = frozenset({Kind.DEPLOY, Kind.REDEPLOY, Kind.START})


# -- pushes


def ignore_reason(queued: Deployment | None, reference: Reference) -> str:
    """Return why a push of this image must not change the queued deployment, or an empty string."""
    if queued is None:
        return ""
    if queued.forced and queued.reference not in {None, reference}:
        return "a person asked for another image"
    if queued.kind in _STARTING or queued.kind is Kind.ROLLBACK:
        return ""
    return f"a {queued.kind} is queued"


async def enqueue_push(connection: Connection, application_id: str, queued: Deployment | None, match: Match) -> str:
    """Join or enqueue a deployment for a push and return its id. The caller holds the queue's lock."""
    return await _enqueue(
        connection,
        application_id,
        queued,
        kind=Kind.DEPLOY,
        forced=False,
        reference=match.event.reference,
        expected_digest=match.event.digest,
        title=match.title,
        description=match.description,
        image_change=ImageChange(str(match.event.reference), match.changes_subscription),
    )


async def enqueue_configured(
    connection: Connection, application_id: str, queued: Deployment | None, reference: Reference
) -> str:
    """Join or enqueue a deployment of the configured image and return its id. The caller holds the queue's lock."""
    return await _enqueue(
        connection,
        application_id,
        queued,
        kind=Kind.DEPLOY,
        forced=False,
        reference=reference,
        title="Requested with the deploy token",
    )


async def enqueue_promoted(
    connection: Connection,
    application_id: str,
    queued: Deployment | None,
    reference: Reference,
    *,
    title: str,
    description: str,
    forced: bool,
) -> str:
    """Join or enqueue a deployment of an image by digest, which becomes the application's image once it serves.

    Its subscriptions stay. The caller holds the queue's lock.
    """
    deployment_id = await _enqueue(
        connection,
        application_id,
        queued,
        kind=Kind.DEPLOY,
        forced=forced,
        reference=reference,
        title=title,
        description=description,
        image_change=ImageChange(str(reference), moves_subscription=False),
    )
    await queue.notify(connection)
    return deployment_id


# -- requests


async def request_deployment(
    pool: Pool,
    application: Application,
    kind: Kind,
    *,
    title: str,
    description: str = "",
    image: str | None = None,
    tag: str | None = None,
    keep_image: bool = True,
    origin: Mapping[str, str] | None = None,
) -> str:
    """Enqueue a deploy or redeploy that a person requested, and return its id.

    `image`, or `tag` in the same repository, becomes the application's image once it serves; the subscription to the
    image's tag moves along, other subscriptions stay. Without `keep_image` it is deployed once and the configuration
    stays. When neither is given, the image that a queued deployment would set is deployed, else the configured one.
    `origin` says from which commit it was built.

    Raises InvalidInput when the application has no image or the image's name is invalid, NotFound when the
    application was deleted meanwhile.
    """
    async with transaction(pool) as connection:
        await applications.lock_application(connection, application.application_id)
        await applications.update_desired(connection, application.application_id, Desired.RUNNING)
        deployment_id = await enqueue_requested(
            connection,
            application.application_id,
            kind,
            title=title,
            description=description,
            image=image,
            tag=tag,
            keep_image=keep_image,
        )
        if origin is not None:
            await queue.update_origin(connection, deployment_id, origin)
        await queue.notify(connection)
    return deployment_id


async def enqueue_requested(
    connection: Connection,
    application_id: str,
    kind: Kind,
    *,
    title: str,
    description: str = "",
    image: str | None = None,
    tag: str | None = None,
    keep_image: bool = True,
) -> str:
    """Do the same as request_deployment in a transaction that holds the lock of a running application's queue."""
    image_change = await _image_to_deploy(connection, application_id, image, tag)
    return await _enqueue(
        connection,
        application_id,
        await queue.select_queued(connection, application_id),
        kind=kind,
        forced=True,
        reference=Reference.parse(image_change.image),
        title=title,
        description=description,
        image_change=image_change if keep_image or (image is None and tag is None) else None,
    )


async def enqueue_again(connection: Connection, ended: Deployment, *, title: str) -> str:
    """Enqueue what an ended deployment was to do, as a person's request. The caller holds the lock of the queue."""
    await applications.update_desired(connection, ended.application_id, Desired.RUNNING)
    deployment_id = await _enqueue(
        connection,
        ended.application_id,
        await queue.select_queued(connection, ended.application_id),
        kind=ended.kind,
        forced=True,
        reference=ended.reference,
        title=title,
        rolls_back_to=ended.rolls_back_to,
        image_change=await queue.select_image_change(connection, ended.deployment_id),
    )
    await queue.notify(connection)
    return deployment_id


async def _image_to_deploy(
    connection: Connection, application_id: str, image: str | None, tag: str | None
) -> ImageChange:
    """Return the requested image, else the one that a queued deployment would set, else the configured one."""
    wanted = await application_images.select_wanted_image(connection, application_id)
    named = _parse_image(wanted.image, image, tag)
    moves = True if image is not None or tag is not None else bool(wanted.moves_subscription)
    return ImageChange(named, moves)


def _parse_image(configured: str | None, image: str | None, tag: str | None) -> str:
    """Check the image's name and return it as written, with `tag` if one is given."""
    wanted = configured if image is None else image
    if wanted is None:
        raise InvalidInput(
            "The application has no image yet: set dockerImage with application.saveDockerProvider",
            field="dockerImage",
        )
    for field, value, parse in (("dockerImage", wanted, Reference.parse), ("tag", tag, parse_tag)):
        try:
            if value is not None:
                parse(value)
        except InvalidInput as error:
            raise InvalidInput(str(error), field=field) from error
    return wanted if tag is None else replace_tag(wanted, Tag(tag))


async def request_rollback(
    pool: Pool, vault: Vault, application: Application, *, to: str | None, title: str, forced: bool = True
) -> str:
    """Enqueue a rollback to the version of deployment `to`, or to the previous version, and return its id.

    `to` may be ADOPTED: what the application was adopted with.
    Raises NotFound when there is no such deployment, Conflict when it never served or there is no previous version.
    """
    async with transaction(pool) as connection:
        await applications.lock_application(connection, application.application_id)
        queued = await enqueue_rollback(connection, vault, application, to=to, title=title, forced=forced)
        await applications.update_desired(connection, application.application_id, Desired.RUNNING)
    return queued


async def enqueue_rollback(
    connection: Connection,
    vault: Vault,
    application: Application,
    *,
    to: str | None = None,
    title: str,
    description: str = "",
    forced: bool,
) -> str:
    """Do the same as request_rollback in a transaction that holds the lock of the application's queue."""
    target = to or await versions.select_previous(connection, application.application_id) or ADOPTED
    if target != ADOPTED:
        reference = (await versions.select_version(connection, vault, application, target)).reference
    elif to is None and (
        application.adopted_spec is None or await versions.serves_adopted(connection, application.application_id)
    ):
        raise Conflict(
            f"{application.name} has no earlier version to roll back to. "
            f"Choose one with --to: gateway deployments list {application.application_id}"
        )
    elif application.adopted_spec is None:
        raise Conflict(f"{application.name} was not adopted: `--to adopted` names no version")
    else:
        reference = application.adopted_spec.reference
    deployment_id = await _enqueue(
        connection,
        application.application_id,
        await queue.select_queued(connection, application.application_id),
        kind=Kind.ROLLBACK,
        forced=forced,
        reference=reference,
        title=title,
        description=description,
        rolls_back_to=None if target == ADOPTED else target,
    )
    await queue.notify(connection)
    return deployment_id


_DESIRED = {Kind.START: Desired.RUNNING, Kind.STOP: Desired.STOPPED, Kind.DELETE: Desired.DELETED}


async def request_state(pool: Pool, application: Application, kind: Kind, *, title: str) -> str | None:
    """Enqueue a start, stop or delete and return its id. It waits in the same queue as rollouts, so none can race it.

    Pushes see the new desired state at once. An application that was never deployed is deleted at once: returns None.
    """
    async with transaction(pool) as connection:
        await applications.lock_application(connection, application.application_id)
        current = await applications.select_engine_id(connection, application.application_id)
        if kind is Kind.DELETE and current is None:
            await applications.delete_application(connection, application.application_id)
            return None
        await applications.update_desired(connection, application.application_id, _DESIRED[kind])
        queued = await queue.select_queued(connection, application.application_id)
        deployment_id = await _enqueue(
            connection,
            application.application_id,
            queued,
            kind=kind,
            forced=True,
            reference=application.reference if kind is Kind.START else None,
            title=title,
        )
        await queue.notify(connection)
    return deployment_id


# -- the queue


async def _enqueue(
    connection: Connection,
    application_id: str,
    queued: Deployment | None,
    *,
    kind: Kind,
    forced: bool,
    reference: Reference | None,
    title: str,
    description: str = "",
    expected_digest: Digest | None = None,
    rolls_back_to: str | None = None,
    image_change: ImageChange | None = None,
) -> str:
    """Join the queued deployment or supersede it. The caller holds the lock of the application's queue."""
    if queued is not None and reference is not None and _can_join(queued, kind, reference):
        await queue.join_deployment(
            connection,
            queued.deployment_id,
            kind=_stronger(queued.kind, kind),
            forced=queued.forced or forced,
            reference=reference,
            expected_digest=expected_digest,
            image_change=image_change,
        )
        return queued.deployment_id
    if queued is not None:
        await queue.supersede_deployment(connection, queued.deployment_id)
    inherits = queued is not None and queued.forced and kind in _STARTING
    deployment_id = await queue.insert_deployment(
        connection,
        application_id=application_id,
        kind=kind,
        forced=forced or inherits,
        title=title,
        description=description,
        reference=reference,
        expected_digest=expected_digest,
        rolls_back_to=rolls_back_to,
        image_change=image_change,
    )
    if queued is not None:
        await queue.link_successor(connection, queued.deployment_id, deployment_id)
    return deployment_id


def _can_join(queued: Deployment, kind: Kind, reference: Reference) -> bool:
    """Tell whether one rollout satisfies both: the queued deployment and a new push or deploy."""
    return queued.kind in _STARTING and kind is Kind.DEPLOY and queued.reference in {None, reference}


_STRENGTH = (Kind.START, Kind.DEPLOY, Kind.REDEPLOY)


def _stronger(one: Kind, other: Kind) -> Kind:
    return max(one, other, key=_STRENGTH.index)
