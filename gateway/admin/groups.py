"""Groups of applications, and releases of a group or an environment, for the API and the command line."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gateway.model.api_keys import Grants
from gateway.model.errors import Forbidden, InvalidInput
from gateway.queue import release
from gateway.queue.release import MOST_MEMBERS, Requested, Wish
from gateway.store import application_summaries, environments, groups, releases, resource_owners
from gateway.store.database import Connection, Pool, statement, transaction
from gateway.store.encryption import Vault
from gateway.store.groups import Group

LONGEST_SETTLE = 3600  # seconds


@dataclass(frozen=True, slots=True)
class GroupChange:
    """The new values of a group; None leaves one as it is."""

    name: str | None = None
    description: str | None = None
    #: seconds for which deployments of members are gathered; 0: they are not
    settle: int | None = None
    #: the waves of all members, by application
    waves: Mapping[str, int] | None = None


async def require_covered(connection: Connection, grants: Grants | None, application_ids: Collection[str]) -> None:
    """Raises Forbidden unless a key with these grants is for all of these applications."""
    if grants is None:
        return
    if set(application_ids) - await resource_owners.select_covered(connection, grants):
        raise Forbidden(
            f"The key may use only {grants}: every member of a group or a release must belong to it. "
            "Use a key that covers all of them"
        )


def _check_waves(waves: Mapping[str, int]) -> None:
    if len(waves) > MOST_MEMBERS:
        raise InvalidInput(f"A group has at most {MOST_MEMBERS} applications: make several groups", field="members")


async def create_group(pool: Pool, change: GroupChange, grants: Grants | None = None) -> Group:
    """Create a group. Raises Conflict, NotFound, InvalidInput, and Forbidden, as `require_covered` does."""
    waves = change.waves or {}
    _check_waves(waves)
    async with transaction(pool) as connection:
        await require_covered(connection, grants, waves)
        group_id = await groups.insert_group(
            connection, name=change.name or "", description=change.description or "", settle=change.settle or None
        )
        await groups.replace_members(connection, group_id, waves)
        await releases.notify(connection)  # its pushes may be gathered from now on
        return await groups.select_group(connection, group_id)


async def update_group(pool: Pool, group_id: str, change: GroupChange, grants: Grants | None = None) -> Group:
    """Change a group, and return it. A release that has begun keeps its members. Raises as `create_group` does."""
    async with transaction(pool) as connection:
        await groups.lock_group(connection, group_id)
        before = await groups.select_group(connection, group_id)
        waves = before.waves if change.waves is None else change.waves
        _check_waves(waves)
        await require_covered(connection, grants, waves)
        await groups.update_group(
            connection,
            group_id,
            name=before.name if change.name is None else change.name,
            description=before.description if change.description is None else change.description,
            settle=before.settle if change.settle is None else change.settle or None,
        )
        await groups.replace_members(connection, group_id, waves)
        await releases.notify(connection)  # its pushes may be gathered from now on
        return await groups.select_group(connection, group_id)


async def remove_group(pool: Pool, group_id: str) -> Group:
    """Remove a group, and return it as it was. Its applications stay, and a release of it goes on. Raises NotFound."""
    async with transaction(pool) as connection:
        await groups.lock_group(connection, group_id)
        group = await groups.select_group(connection, group_id)
        await groups.delete_group(connection, group_id)
        return group


@dataclass(frozen=True, slots=True)
class Order:
    """What a person wants released: a group or an environment, and what differs for some of its members."""

    group_id: str | None = None
    environment_id: str | None = None
    wishes: Mapping[str, Wish] | None = None
    title: str = ""
    redeploy: bool = False
    #: whether an image of `wishes` becomes the application's own once it serves
    keep_image: bool = True


async def begin_release(pool: Pool, vault: Vault, order: Order, grants: Grants | None = None) -> Requested:
    """Begin a release. Raises InvalidInput, NotFound, Conflict, and Forbidden, as `require_covered` does."""
    if (order.group_id is None) == (order.environment_id is None):
        raise InvalidInput("Name either a group (groupId) or an environment (environmentId)", field="groupId")
    async with statement(pool) as connection:
        if order.group_id is not None:
            group = await groups.select_group(connection, order.group_id)
            name, waves = group.name, dict(group.waves)
        else:
            environment = await environments.select_environment(connection, vault, order.environment_id or "")
            name = environment.name
            inside = await application_summaries.select_summaries(connection, [environment.environment_id])
            waves = {one.application_id: 1 for one in inside}
        _check_waves(waves)
        await require_covered(connection, grants, waves)
    if strangers := sorted((order.wishes or {}).keys() - waves.keys()):
        raise InvalidInput(f"{', '.join(strangers)}: not a member of {name}", field="members")
    return await release.request_release(
        pool,
        name=name,
        waves=waves,
        group_id=order.group_id,
        environment_id=order.environment_id,
        wishes=order.wishes,
        title=order.title,
        redeploy=order.redeploy,
        keep_image=order.keep_image,
    )
