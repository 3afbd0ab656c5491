"""mounts.*: the volumes, directories and files of an application. A change takes effect with the next deployment."""

from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.admin.application_update import update_application
from gateway.admin.applications import Changes
from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input
from gateway.api.procedures._port_mount_rows import MountRow, part_errors
from gateway.api.rpc.procedure import Answer, Procedures
from gateway.model.applications import Application
from gateway.model.errors import InvalidInput, NotFound
from gateway.model.mounts import SOURCE_FIELDS, Mount, MountType
from gateway.store import applications
from gateway.store.database import statement, transaction

procedures = Procedures()

_MISSING = "Mount not found"
_Path = Annotated[str, Field(max_length=4096)]


class _Sent(Input):
    host_path: _Path | None = None
    volume_name: _Path | None = None
    file_path: _Path | None = None
    content: Annotated[str, Field(max_length=1_000_000)] | None = None
    read_only: bool | None = None
    #: only applications are here
    service_type: Literal["application"] | None = None


class Create(_Sent):
    type: MountType
    mount_path: Annotated[str, Field(min_length=1, max_length=4096)]
    service_id: Id


class Named(Input):
    mount_id: Id


class Update(_Sent, Named):
    type: MountType | None = None
    mount_path: Annotated[str, Field(min_length=1, max_length=4096)] | None = None


class OfApplication(Input):
    application_id: Id


class OfService(Input):
    service_id: Id
    service_type: Literal["application"] | None = None


_MOUNT_FIELDS = {"type", "mount_path", "host_path", "volume_name", "file_path", "content", "read_only"}


async def _select_application(context: Context, mount_id: str) -> Application:
    async with statement(context.pool) as connection:
        return await applications.select_application_with_part(
            connection, context.vault, {"mounts": [{"mountId": mount_id}]}, missing=_MISSING
        )


def _find_mount(application: Application, mount_id: str) -> Mount:
    found = next((mount for mount in application.configuration.mounts if mount.mount_id == mount_id), None)
    if found is None:
        raise NotFound(_MISSING)
    return found


def _row(context: Context, application: Application, mount: Mount) -> MountRow:
    return MountRow.from_mount(application.application_id, mount, secrets=context.caller.sees_secrets)


def _changes_with(application: Application, *more: dict[str, Any], without: str | None = None) -> Changes:
    kept = [mount for mount in application.configuration.mounts if mount.mount_id != without]
    return Changes.model_validate({"mounts": [*(mount.model_dump(by_alias=True) for mount in kept), *more]})


def _require_source(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row that names its source, as its type has it; raises InvalidInput."""
    if row["type"] != "file" and not row.get(source := SOURCE_FIELDS[row["type"]]):
        raise InvalidInput(f"a mount of type {row['type']} needs {source}", field=source)
    return row


@procedures.mutation("mounts.create", gives=MountRow)
async def create(context: Context, given: Create) -> Answer:
    """Mount a volume, a directory of the host or a file into the container.

    The change takes effect with the next deployment.
    """
    new = _require_source(given.model_dump(by_alias=True, include=_MOUNT_FIELDS))
    with part_errors():
        changed = await update_application(context, given.service_id, lambda found: _changes_with(found, new))
    made = changed.application.configuration.mounts[-1]
    return Answer(_row(context, changed.application, made), headers=changed.headers)


@procedures.query("mounts.one", gives=MountRow)
async def select_one(context: Context, given: Named) -> Answer:
    """Return a mount."""
    application = await _select_application(context, given.mount_id)
    return Answer(_row(context, application, _find_mount(application, given.mount_id)))


@procedures.mutation("mounts.update", gives=MountRow)
async def update(context: Context, given: Update) -> Answer:
    """Update a mount, and return it.

    Absent fields stay unchanged. The change takes effect with the next deployment.
    """
    sent = given.model_dump(by_alias=True, include=_MOUNT_FIELDS, exclude_unset=True)
    chosen = {name: value for name, value in sent.items() if value is not None or name == "content"}

    def changes_to(application: Application) -> Changes:
        before = _find_mount(application, given.mount_id)
        row: dict[str, Any] = {
            "filePath": before.known_as,
            "mountId": before.mount_id,
            "type": before.type,
            SOURCE_FIELDS[before.type]: before.source,
            "mountPath": before.target,
            "readOnly": before.read_only,
        }
        if before.type == "file" and chosen.get("type", "file") == "file":
            row["content"] = before.content
        return _changes_with(application, _require_source(row | chosen), without=given.mount_id)

    application_id = (await _select_application(context, given.mount_id)).application_id
    with part_errors():
        changed = await update_application(context, application_id, changes_to)
    return Answer(
        _row(context, changed.application, _find_mount(changed.application, given.mount_id)), headers=changed.headers
    )


@procedures.mutation("mounts.remove", gives=MountRow)
async def remove(context: Context, given: Named) -> Answer:
    """Remove a mount, and return it as it was.

    The change takes effect with the next deployment. A volume stays on its engine.
    """
    application = await _select_application(context, given.mount_id)
    removed = _find_mount(application, given.mount_id)

    def changes_to(found: Application) -> Changes:
        return _changes_with(found, without=_find_mount(found, given.mount_id).mount_id)

    changed = await update_application(context, application.application_id, changes_to)
    return Answer(_row(context, application, removed), headers=changed.headers)


@procedures.query("mounts.listByServiceId", gives=list[MountRow])
async def list_by_service(context: Context, given: OfService) -> Answer:
    """List the mounts of an application.

    `serviceId` is the id of the application.
    """
    async with transaction(context.pool) as connection:
        await applications.require_live(connection, given.service_id)
        found = await applications.select_application(connection, context.vault, given.service_id)
    return Answer([_row(context, found, mount) for mount in found.configuration.mounts])


@procedures.query("mounts.allNamedByApplicationId", gives=list[MountRow])
async def list_volumes(context: Context, given: OfApplication) -> Answer:
    """List the volumes that an application mounts."""
    async with transaction(context.pool) as connection:
        await applications.require_live(connection, given.application_id)
        found = await applications.select_application(connection, context.vault, given.application_id)
    return Answer([_row(context, found, mount) for mount in found.configuration.mounts if mount.type == "volume"])
