"""Begin a release, cancel it, and bring it one step further. Nothing here calls Docker.

The release's row is the truth: `advance` may be called by any gateway, at any time, as often as it likes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from gateway.model.applications import Desired
from gateway.model.deployments import FINISHED, Kind
from gateway.model.errors import Code, Conflict, NotFound, Reason
from gateway.model.releases import Plan, ReleaseState, plan
from gateway.queue import cancel, enqueue
from gateway.store import (
    application_images,
    applications,
    cancellations,
    deployments,
    groups,
    queue,
    release_deployments,
    releases,
    soaks,
    watches,
)
from gateway.store.database import Connection, Pool, statement, transaction
from gateway.store.releases import Release, ReleaseMember

#: members of one release
MOST_MEMBERS = 200


@dataclass(frozen=True, slots=True)
class Wish:
    """What a release deploys to one member: an image, another tag of the member's image, or its configured image."""

    image: str | None = None
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class Requested:
    """A new release, and the applications that are not part of it, each with the reason."""

    release_id: str
    left_out: Mapping[str, str]


# -- to begin


async def request_release(
    pool: Pool,
    *,
    name: str,
    waves: Mapping[str, int],
    group_id: str | None = None,
    environment_id: str | None = None,
    wishes: Mapping[str, Wish] | None = None,
    title: str = "",
    redeploy: bool = False,
    keep_image: bool = True,
) -> Requested:
    """Begin a release of these applications, with their waves.

    An application that is stopped, being deleted or without an image is left out. A release that only waits for the
    monitor windows of its members ends. Raises Conflict when none is left, or another release of one of them has not
    ended; InvalidInput when a wish names no image.
    """
    wishes = wishes or {}
    await _end_proving(pool, waves)
    async with transaction(pool) as connection:
        desired = await applications.lock_all(connection, waves)
        left_out = await _left_out(connection, waves, desired)
        going = {one: wave for one, wave in sorted(waves.items()) if one not in left_out}
        if not going:
            raise Conflict(f"Nothing of {name} can be released: {_describe(left_out)}")
        await _refuse_busy(connection, going)
        release_id = await releases.insert_release(
            connection, name=name, title=title, waves=going, group_id=group_id, environment_id=environment_id
        )
        queued = []
        for application_id in going:
            wish = wishes.get(application_id, Wish())
            queued.append(
                await enqueue.enqueue_requested(
                    connection,
                    application_id,
                    Kind.REDEPLOY if redeploy else Kind.DEPLOY,
                    title=title or f"Release of {name}",
                    image=wish.image,
                    tag=wish.tag,
                    keep_image=keep_image,
                )
            )
        await _begin(connection, release_id, queued)
    return Requested(release_id, left_out)


async def gather(pool: Pool, group_id: str) -> str | None:
    """Begin a release of the deployments that were gathered for a group's members; None where there are none."""
    async with transaction(pool) as connection:
        try:
            group = await groups.select_group(connection, group_id)
        except NotFound:
            return None
        await applications.lock_all(connection, group.waves)
        gathered = await groups.select_gathered(connection, group_id)
        if not gathered:
            return None
        release_id = await releases.insert_release(
            connection,
            name=group.name,
            title="Gathered pushes",
            waves={one: group.waves[one] for one in gathered},
            group_id=group_id,
        )
        await _begin(connection, release_id, list(gathered.values()))
    return release_id


async def _end_proving(pool: Pool, waves: Mapping[str, int]) -> None:
    async with statement(pool) as connection:
        proving = await releases.select_open_of(connection, waves, state=ReleaseState.PROVING)
    for release_id in sorted(set(proving.values())):
        async with transaction(pool) as connection:
            found = await releases.lock_release(connection, release_id)
            if found.state is ReleaseState.PROVING:
                await _advance_locked(connection, found, await soaks.current_time(connection), overtaken=True)


async def _begin(connection: Connection, release_id: str, deployment_ids: Sequence[str]) -> None:
    await release_deployments.attach(connection, release_id, deployment_ids)
    await queue.notify(connection)
    await releases.notify(connection)


async def _left_out(connection: Connection, waves: Mapping[str, int], desired: Mapping[str, Desired]) -> dict[str, str]:
    left_out: dict[str, str] = {}
    for application_id in sorted(waves):
        if desired.get(application_id, Desired.DELETED) is Desired.DELETED:
            left_out[application_id] = "it is being deleted"
        elif desired[application_id] is Desired.STOPPED:
            left_out[application_id] = "it is stopped"
        elif (await application_images.select_wanted_image(connection, application_id)).image is None:
            left_out[application_id] = "it has no image yet"
    return left_out


def _describe(left_out: Mapping[str, str]) -> str:
    return "; ".join(f"{one}: {why}" for one, why in left_out.items()) or "it has no applications"


async def _refuse_busy(connection: Connection, waves: Mapping[str, int]) -> None:
    for application_id, release_id in (await releases.select_open_of(connection, waves)).items():
        raise Conflict(
            f"Application {application_id} is in release {release_id}, which has not ended: wait for its end, "
            f"or cancel it (gateway releases cancel {release_id})"
        )


# -- to cancel


async def cancel_release(pool: Pool, release_id: str, *, abandon: bool = False) -> ReleaseState:
    """Have a release put back, and return its state. With `abandon`, end a release that cannot be put back, as it is.

    Raises NotFound, and Conflict when the release has ended, or is to be abandoned and is not being put back.
    """
    async with transaction(pool) as connection:
        release = await releases.lock_release(connection, release_id)
        if release.ended:
            raise Conflict(f"Release {release_id} has already ended: {release.state}")
        if abandon and release.state is not ReleaseState.PUTTING_BACK:
            raise Conflict(f"Release {release_id} is {release.state}: only one that is being put back is abandoned")
        await releases.request_cancel(connection, release_id, abandon=abandon)
        await releases.notify(connection)
    return release.state


# -- to go on


@dataclass(frozen=True, slots=True)
class Advanced:
    """A release before and after a step, and its members before it."""

    before: Release
    after: ReleaseState
    reason: Reason | None
    members: Sequence[ReleaseMember]

    @property
    def changed(self) -> bool:
        return self.after is not self.before.state


async def advance(pool: Pool, release_id: str, *, now: datetime | None = None) -> Advanced | None:
    """Advance a release as far as possible now. Return None if it has ended, or another gateway advances it.

    Unless `now` is given, it is the database's time: the clock of a gateway may differ from the times of the members.
    """
    async with transaction(pool) as connection:
        release = await releases.lock_if_open(connection, release_id)
        if release is None:
            return None
        return await _advance_locked(connection, release, now or await soaks.current_time(connection))


async def _advance_locked(
    connection: Connection, release: Release, now: datetime, *, overtaken: bool = False
) -> Advanced:
    await applications.lock_all(connection, await releases.select_member_ids(connection, release.release_id))
    members = await releases.select_members(connection, release.release_id)
    decided = plan(replace(release.progress(members), overtaken=overtaken), now)
    await _carry_out(connection, release, members, decided)
    return Advanced(release, decided.state, decided.reason, members)


async def _carry_out(connection: Connection, release: Release, members: Sequence[ReleaseMember], decided: Plan) -> None:
    by_id = {one.application_id: one for one in members}
    release_id = release.release_id
    if decided.move:
        await release_deployments.let_move(connection, release_id, decided.move)
    if decided.prepare_again:
        await release_deployments.prepare_again(connection, release_id, decided.prepare_again)
    for application_id in decided.replace:
        await _replace(connection, by_id[application_id])
    why = Reason(Code.RELEASE_FAILED, decided.reason.message if decided.reason else "the release is put back")
    for application_id in decided.cancel:
        await _cancel(connection, by_id[application_id], why)
    goes_back = decided.state in _GOES_BACK and decided.state is not release.state
    if goes_back or decided.cancel:  # a person may have cancelled some of them before
        await release_deployments.wake_cancelled(connection, release_id)
    for application_id in decided.put_back:
        await release_deployments.insert_put_back(
            connection, release_id, application_id, f"Release of {release.name} put back: {why.message}"
        )
    if decided.state is ReleaseState.SUCCEEDED:
        # A person may have ended them by going on.
        await watches.delete_watches_of(connection, [one.deployment_id for one in members if one.deployment_id])
    if decided.state is not release.state or decided.reason != release.reason:
        await releases.update_state(connection, release_id, decided.state, decided.reason)
    if decided.state is not release.state or decided != Plan(decided.state, decided.reason):
        await queue.notify(connection)


_GOES_BACK = frozenset({ReleaseState.PUTTING_BACK, ReleaseState.PUT_BACK, ReleaseState.FAILED})


async def _replace(connection: Connection, member: ReleaseMember) -> None:
    if member.deployment_id is not None and member.successor_id is not None:
        await release_deployments.supersede_waiting(connection, member.deployment_id, member.successor_id)


async def _cancel(connection: Connection, member: ReleaseMember, why: Reason) -> None:
    deployment_id = member.back_id or member.deployment_id
    if deployment_id is None:
        return
    found = await deployments.select_deployment(connection, deployment_id)
    if found.status in FINISHED:
        return
    if found.kind is Kind.STOP:
        await cancellations.request_cancel(connection, deployment_id)
    else:
        await cancel.cancel_locked(connection, found, why)
