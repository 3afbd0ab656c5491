"""group.*: applications that go out together, in waves."""

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, StringConstraints

from gateway.admin import groups as admin
from gateway.admin.context import Context
from gateway.admin.groups import LONGEST_SETTLE, GroupChange
from gateway.admin.inputs import Id, Input, Text
from gateway.api.procedures._pagination import Paged, paged
from gateway.api.procedures._response import Moment, Response
from gateway.api.rpc.procedure import Answer, KeyAccess, Procedures
from gateway.model.errors import Conflict, Forbidden, NotFound
from gateway.store import groups, resource_owners
from gateway.store.database import statement
from gateway.store.groups import Group

procedures = Procedures()

_Name = Annotated[str, StringConstraints(min_length=1, max_length=255)]
_Settle = Annotated[
    int | None,
    Field(
        ge=0,
        le=LONGEST_SETTLE,
        description="Seconds for which deployments of members are gathered: what comes within that time after the "
        "last one goes out as one release. 0: each goes out by itself.",
    ),
]


class MemberInput(Input):
    application_id: Id
    wave: Annotated[int, Field(ge=1, le=1000, description="A wave moves when the one before has succeeded.")] = 1


_Members = Annotated[list[MemberInput], Field(max_length=1000)]


class Create(Input):
    name: _Name
    description: Text = ""
    settle: _Settle = None
    members: _Members = Field(default_factory=list)


class Named(Input):
    group_id: Id


class Update(Named):
    name: _Name | None = None
    description: Text | None = None
    settle: _Settle = None
    members: Annotated[_Members | None, Field(description="All members. Null: they stay as they are.")] = None


class GroupMemberRow(Response):
    """A member of a group."""

    application_id: str
    wave: int


class GroupRow(Response):
    """A group of applications."""

    group_id: str
    name: str
    description: str
    settle: int | None
    members: list[GroupMemberRow]
    created_at: Moment

    @classmethod
    def from_group(cls, group: Group) -> Self:
        waves = sorted(group.waves.items(), key=lambda one: (one[1], one[0]))
        return cls.make(group, members=[GroupMemberRow.make(application_id=one, wave=wave) for one, wave in waves])


def _waves(members: Sequence[MemberInput]) -> dict[str, int]:
    return {one.application_id: one.wave for one in members}


@procedures.mutation("group.create", gives=GroupRow, raises=(Conflict, NotFound, Forbidden), access=KeyAccess.FILTERED)
async def create(context: Context, given: Create) -> Answer:
    """Create a group of applications that go out together.

    A restricted key must be for all of its members.
    """
    change = GroupChange(given.name, given.description, given.settle, _waves(given.members))
    return Answer(GroupRow.from_group(await admin.create_group(context.pool, change, context.caller.grants)))


@procedures.mutation("group.update", gives=GroupRow, raises=(Conflict, NotFound, Forbidden))
async def update(context: Context, given: Update) -> Answer:
    """Update a group, and return it.

    Absent fields stay unchanged. A release that has begun keeps its members.
    """
    waves = None if given.members is None else _waves(given.members)
    change = GroupChange(given.name, given.description, given.settle, waves)
    group = await admin.update_group(context.pool, given.group_id, change, context.caller.grants)
    return Answer(GroupRow.from_group(group), changed=True)


@procedures.mutation("group.remove", gives=GroupRow)
async def remove(context: Context, given: Named) -> Answer:
    """Remove a group, and return it as it was.

    Its applications stay, and a release that has begun is finished.
    """
    return Answer(GroupRow.from_group(await admin.remove_group(context.pool, given.group_id)), changed=True)


@procedures.query("group.one", gives=GroupRow)
async def select_one(context: Context, given: Named) -> Answer:
    """Return a group with its members."""
    async with statement(context.pool) as connection:
        return Answer(GroupRow.from_group(await groups.select_group(connection, given.group_id)))


@procedures.query("group.all", gives=list[GroupRow], access=KeyAccess.FILTERED)
async def select_all(context: Context, given: Paged) -> Answer:
    """List groups, newest first.

    A restricted key gets those whose members are all its own.
    """
    page, grants = given.page, context.caller.grants
    async with statement(context.pool) as connection:
        only = None if grants is None else await resource_owners.select_covered(connection, grants)
        found = await groups.select_groups(connection, page, only=only)
    return paged(found, page, groups.place, GroupRow.from_group)
