"""What was pushed, or asked for, becomes what must be deployed: in one transaction, with no Docker in sight.

An application has at most one deployment waiting. What comes while one waits

    joins it         the same image, or a push for what waits to start anyway
    supersedes it    anything else, and inherits its force
    is ignored       a push for another image than the one a person asked for

and what comes while one runs waits behind it.
"""

from gateway.model.applications import Application, Desired
from gateway.model.deployments import Deployment, Kind
from gateway.model.errors import Conflict, InvalidInput
from gateway.model.matching import Match
from gateway.model.reference import Digest, Reference, Tag, parse_tag, replace_tag
from gateway.store import applications, queue, versions
from gateway.store.database import Connection, Pool, transaction
from gateway.store.encryption import Vault
from gateway.store.queue import ImageChange

#: what to go back to where that is what an application was adopted with
ADOPTED = "adopted"

_STARTING = frozenset({Kind.DEPLOY, Kind.REDEPLOY, Kind.START})


# -- pushes


def ignore_reason(queued: Deployment | None, reference: Reference) -> str:
    """Return why a push of this image may not touch what waits."""
    if queued is None:
        return ""
    if queued.forced and queued.reference not in {None, reference}:
        return "a person asked for another image"
    if queued.kind in _STARTING or queued.kind is Kind.ROLLBACK:
        return ""
    return f"a {queued.kind} is queued"


async def enqueue_push(connection: Connection, application_id: str, queued: Deployment | None, choice: Match) -> str:
    """Return the deployment that answers this push, joined or queued. The caller holds the application's queue."""
    return await _enqueue(
        connection,
        application_id,
        queued,
        kind=Kind.DEPLOY,
        forced=False,
        reference=choice.event.reference,
        expected_digest=choice.event.digest,
        title=choice.title,
        description=choice.description,
        image_change=ImageChange(str(choice.event.reference), choice.changes_subscription),
    )


async def enqueue_configured(
    connection: Connection, application_id: str, queued: Deployment | None, reference: Reference
) -> str:
    """Return the deployment that answers whoever asked for what is configured. The caller holds the queue."""
    return await _enqueue(
        connection,
        application_id,
        queued,
        kind=Kind.DEPLOY,
        forced=False,
        reference=reference,
        title="Asked for at its own address",
    )


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
    stays: bool = True,
) -> str:
    """Queue a deploy or redeploy that a person asked for, and return its id.

    With `image`, or `tag` of the same repository, that becomes the application's image once it serves, and the
    subscription to the image's tag moves along; what else it follows stays. Without, what is to become its image is
    meant where there is such. Unless it `stays`, what was named is deployed once, and nothing configured changes.

    Raises InvalidInput where there is no image yet or none can be called so, NotFound where the application went
    meanwhile.
    """
    async with transaction(pool) as connection:
        await applications.lock_application(connection, application.application_id)
        image_change = await _image_to_deploy(connection, application.application_id, image, tag)
        await applications.update_desired(connection, application.application_id, Desired.RUNNING)
        queued = await queue.select_queued(connection, application.application_id)
        deployment_id = await _enqueue(
            connection,
            application.application_id,
            queued,
            kind=kind,
            forced=True,
            reference=Reference.parse(image_change.image),
            title=title,
            description=description,
            image_change=image_change if stays or (image is None and tag is None) else None,
        )
        await queue.notify(connection)
    return deployment_id


async def _image_to_deploy(
    connection: Connection, application_id: str, image: str | None, tag: str | None
) -> ImageChange:
    """Return the image that was named, else the one that is to be the application's, else the one that is."""
    wanted = await applications.select_wanted_image(connection, application_id)
    named = _wanted_image(wanted.image, image, tag)
    moves = True if image is not None or tag is not None else bool(wanted.moves_subscription)
    return ImageChange(named, moves)


def _wanted_image(configured: str | None, image: str | None, tag: str | None) -> str:
    """Return the image's name that is meant, as it was written."""
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
    """Queue the way back to what the deployment `to` ran, or to what served before, and return the new one's id.

    Before all deployments of an application that was adopted served what it was adopted with: ADOPTED.
    Raises NotFound where there is no such deployment, Conflict where it never came to serve or nothing did before.
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
    """Do what request_rollback does, within a transaction that holds the application's queue."""
    target = to or await versions.select_previous(connection, application.application_id) or ADOPTED
    if target != ADOPTED:
        reference = (await versions.select_version(connection, vault, application, target)).reference
    elif application.adopted_spec is not None:
        reference = application.adopted_spec.reference
    else:
        raise Conflict(f"{application.name} ran no other version before: there is nothing to go back to")
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


# -- the lane


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
    """Join what waits, or take its place. The caller holds the application's queue."""
    if queued is not None and reference is not None and _joins(queued, kind, reference):
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


def _joins(queued: Deployment, kind: Kind, reference: Reference) -> bool:
    """Tell whether one rollout answers both.

    A titled request of a person keeps a row of its own unless it only strengthens a push that waits.
    """
    return queued.kind in _STARTING and kind is Kind.DEPLOY and queued.reference in {None, reference}


_STRENGTH = (Kind.START, Kind.DEPLOY, Kind.REDEPLOY)


def _stronger(one: Kind, other: Kind) -> Kind:
    return max(one, other, key=_STRENGTH.index)
