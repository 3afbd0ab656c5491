"""port.*: the published ports of an application. A change takes effect with the next deployment."""

from typing import Any

from gateway.admin.application_update import update_application
from gateway.admin.applications import Changes
from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input
from gateway.api.procedures._port_mount_rows import PortRow, part_errors
from gateway.api.rpc.procedure import Answer, Procedures
from gateway.model.applications import Application
from gateway.model.errors import NotFound
from gateway.model.ports import HostIp, Port, PortNumber, Protocol, PublishMode
from gateway.store import applications
from gateway.store.database import statement

procedures = Procedures()

_MISSING = "Port not found"


class Create(Input):
    application_id: Id
    published_port: PortNumber
    target_port: PortNumber
    protocol: Protocol = "tcp"
    publish_mode: PublishMode = "ingress"
    host_ip: HostIp | None = None


class Named(Input):
    port_id: Id


class Update(Named):
    published_port: PortNumber | None = None
    target_port: PortNumber | None = None
    protocol: Protocol | None = None
    publish_mode: PublishMode | None = None
    host_ip: HostIp | None = None


async def _select_application(context: Context, port_id: str) -> Application:
    async with statement(context.pool) as connection:
        return await applications.select_application_with_part(
            connection, context.vault, {"ports": [{"portId": port_id}]}, missing=_MISSING
        )


def _find_port(application: Application, port_id: str) -> Port:
    found = next((port for port in application.configuration.ports if port.port_id == port_id), None)
    if found is None:
        raise NotFound(_MISSING)
    return found


def _changes_with(application: Application, *more: dict[str, Any], without: str | None = None) -> Changes:
    kept = [port for port in application.configuration.ports if port.port_id != without]
    return Changes.model_validate({"ports": [*(port.model_dump(by_alias=True) for port in kept), *more]})


@procedures.mutation("port.create", gives=PortRow)
async def create(context: Context, given: Create) -> Answer:
    """Publish a port of the container on the host.

    The change takes effect with the next deployment.
    """
    new = given.model_dump(by_alias=True, exclude={"application_id"})
    with part_errors():
        changed = await update_application(context, given.application_id, lambda found: _changes_with(found, new))
    made = changed.application.configuration.ports[-1]
    return Answer(PortRow.from_port(given.application_id, made), headers=changed.headers)


@procedures.query("port.one", gives=PortRow)
async def select_one(context: Context, given: Named) -> Answer:
    """Return a published port."""
    application = await _select_application(context, given.port_id)
    return Answer(PortRow.from_port(application.application_id, _find_port(application, given.port_id)))


@procedures.mutation("port.update", gives=PortRow)
async def update(context: Context, given: Update) -> Answer:
    """Update a published port, and return it.

    Absent fields stay unchanged; null for `hostIp` means all addresses. The change takes effect with the next
    deployment.
    """
    sent = given.model_dump(by_alias=True, exclude_unset=True)
    chosen = {name: value for name, value in sent.items() if value is not None or name == "hostIp"}

    def changes_to(application: Application) -> Changes:
        before = _find_port(application, given.port_id).model_dump(by_alias=True)
        return _changes_with(application, before | chosen, without=given.port_id)

    application_id = (await _select_application(context, given.port_id)).application_id
    with part_errors():
        changed = await update_application(context, application_id, changes_to)
    return Answer(
        PortRow.from_port(application_id, _find_port(changed.application, given.port_id)), headers=changed.headers
    )


@procedures.mutation("port.delete", gives=PortRow)
async def delete(context: Context, given: Named) -> Answer:
    """Remove a published port, and return it as it was.

    The change takes effect with the next deployment.
    """
    application = await _select_application(context, given.port_id)
    removed = _find_port(application, given.port_id)

    def changes_to(found: Application) -> Changes:
        return _changes_with(found, without=_find_port(found, given.port_id).port_id)

    changed = await update_application(context, application.application_id, changes_to)
    return Answer(PortRow.from_port(application.application_id, removed), headers=changed.headers)
