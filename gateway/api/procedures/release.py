"""release.*: applications go out together: all of them run the new version at the end, or none does."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import Field

from gateway.admin import groups as admin
from gateway.admin.context import Context
from gateway.admin.groups import Order
from gateway.admin.inputs import Id, Input, Text
from gateway.api.procedures._pagination import ShortPaged, headers
from gateway.api.procedures._reason_rows import ReasonRow, select_names
from gateway.api.procedures._response import Moment, Response
from gateway.api.rpc.procedure import Answer, KeyAccess, Procedures
from gateway.model.api_keys import Permission
from gateway.model.errors import Conflict, Forbidden, NotFound, Reason
from gateway.model.releases import MemberState, ReleaseState
from gateway.queue import release
from gateway.queue.release import Wish
from gateway.store import releases, resource_owners
from gateway.store.database import Connection, statement
from gateway.store.releases import Release, ReleaseMember

procedures = Procedures()


class WishInput(Input):
    application_id: Id
    docker_image: Annotated[Text | None, Field(description="Image to release. It needs scope admin.")] = None
    tag: Annotated[Text | None, Field(description="Tag to release, in the repository of its image.")] = None


class Create(Input):
    group_id: Id | None = None
    environment_id: Annotated[
        Id | None, Field(description="Release all applications of this environment, in one wave.")
    ] = None
    title: Text | None = None
    members: Annotated[
        list[WishInput], Field(max_length=1000, description="What differs: members that get another image or tag.")
    ] = Field(default_factory=list)
    redeploy: Annotated[bool, Field(description="Replace each container, even if it runs the newest image.")] = False


class Named(Input):
    release_id: Id


class Cancel(Named):
    abandon: Annotated[
        bool, Field(description="End a release that cannot be put back, as it is: some members may stay new.")
    ] = False


class OfGroup(ShortPaged):
    group_id: Id | None = None


def _reason(found: ReleaseMember) -> Reason | None:
    return found.member.trouble or found.member.reason


async def _names(
    connection: Connection, context: Context, found: Release, members: Sequence[ReleaseMember]
) -> Mapping[str, str]:
    return await select_names(connection, context.caller, [found.reason, *map(_reason, members)])


class ReleaseMemberRow(Response):
    """A member of a release."""

    application_id: str
    name: str
    wave: int
    state: MemberState
    deployment_id: str | None
    digest: str | None
    put_back_by: Annotated[str | None, Field(description="The deployment that puts it back.")]
    reason: ReasonRow | None

    @classmethod
    def from_member(cls, found: ReleaseMember, names: Mapping[str, str]) -> Self:
        member = found.member
        reason = _reason(found)
        return cls.make(
            member,
            deployment_id=found.deployment_id,
            digest=found.digest,
            put_back_by=found.back_id,
            reason=ReasonRow.from_reason(reason, names) if reason else None,
        )


class ReleaseRow(Response):
    """A release."""

    release_id: str
    group_id: str | None
    environment_id: str | None
    name: Annotated[str, Field(description="Name of the group or environment when the release began.")]
    title: str
    state: ReleaseState
    reason: Annotated[ReasonRow | None, Field(description="Why it is put back.")]
    requested_by: str | None
    requested_by_key_id: str | None
    created_at: Moment
    finished_at: Moment | None

    @classmethod
    def from_release(cls, found: Release, names: Mapping[str, str], **more: Any) -> Self:
        return cls.make(
            found,
            reason=ReasonRow.from_reason(found.reason, names) if found.reason else None,
            requested_by=found.asked_by,
            requested_by_key_id=found.asked_key,
            **more,
        )


class WholeRelease(ReleaseRow):
    """A release with its members."""

    members: list[ReleaseMemberRow]

    @classmethod
    def from_members(
        cls, found: Release, members: Sequence[ReleaseMember], names: Mapping[str, str], **more: Any
    ) -> Self:
        rows = [ReleaseMemberRow.from_member(one, names) for one in members]
        return cls.from_release(found, names, members=rows, **more)


class LeftOut(Response):
    """An application that is not part of the release, and why."""

    application_id: str
    reason: str


class BegunRelease(WholeRelease):
    """A new release, and what is not part of it."""

    left_out: list[LeftOut]


class CancelledRelease(Response):
    """A release that is being put back."""

    release_id: str
    state: ReleaseState


def _wishes(context: Context, members: Sequence[WishInput]) -> dict[str, Wish]:
    if context.caller.permission is not Permission.ADMIN and any(one.docker_image is not None for one in members):
        raise Forbidden("An image of its own for a member takes a key of scope admin; a tag takes scope deploy")
    return {one.application_id: Wish(one.docker_image, one.tag) for one in members}


@procedures.mutation(
    "release.create",
    gives=BegunRelease,
    raises=(Conflict, NotFound, Forbidden),
    needs=Permission.DEPLOY,
    access=KeyAccess.FILTERED,
)
async def create(context: Context, given: Create) -> Answer:
    """Queue a release of a group, or of all applications of an environment.

    Each member is pulled, verified and created before any is touched. If one fails, all are put back.
    """
    order = Order(
        given.group_id,
        given.environment_id,
        _wishes(context, given.members),
        given.title or "",
        given.redeploy,
        keep_image=context.caller.permission is Permission.ADMIN,
    )
    begun = await admin.begin_release(context.pool, context.vault, order, context.caller.grants)
    async with statement(context.pool) as connection:
        found = await releases.select_release(connection, begun.release_id)
        members = await releases.select_members(connection, begun.release_id)
        names = await _names(connection, context, found, members)
    left_out = [LeftOut.make(application_id=one, reason=why) for one, why in begun.left_out.items()]
    return Answer(BegunRelease.from_members(found, members, names, left_out=left_out), changed=True)


@procedures.query("release.one", gives=WholeRelease)
async def select_one(context: Context, given: Named) -> Answer:
    """Return a release with its members as they are now."""
    async with statement(context.pool) as connection:
        found = await releases.select_release(connection, given.release_id)
        members = await releases.select_members(connection, given.release_id)
        names = await _names(connection, context, found, members)
    return Answer(WholeRelease.from_members(found, members, names))


@procedures.query("release.all", gives=list[ReleaseRow], access=KeyAccess.FILTERED)
async def select_all(context: Context, given: OfGroup) -> Answer:
    """List releases, newest first: all, or those of one group.

    A restricted key gets those whose members are all its own.
    """
    page, grants = given.page, context.caller.grants
    async with statement(context.pool) as connection:
        only = None if grants is None else await resource_owners.select_covered(connection, grants)
        found = await releases.select_releases(connection, page, group_id=given.group_id, only=only)
        names = await select_names(connection, context.caller, [one.reason for one in found])
    return Answer(
        [ReleaseRow.from_release(one, names) for one in found], headers=headers(page.next(found, releases.place))
    )


@procedures.mutation("release.cancel", gives=CancelledRelease, raises=(Conflict,), needs=Permission.DEPLOY)
async def cancel(context: Context, given: Cancel) -> Answer:
    """Cancel a release: what has moved is put back.

    The answer has the state of the release before that.
    """
    state = await release.cancel_release(context.pool, given.release_id, abandon=given.abandon)
    return Answer(CancelledRelease.make(release_id=given.release_id, state=state), changed=True)
