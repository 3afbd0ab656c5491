"""`gateway deployments`."""

from typing import TYPE_CHECKING

import click

from gateway.cli._runner import (
    command,
    format_time,
    indent,
    json_option,
    open_storage,
    paged,
    parse_page,
    print_fields,
    print_json,
    print_next_cursor,
    print_table,
    print_text,
)
from gateway.model.sanitize import safe_line

if TYPE_CHECKING:
    from gateway.api.procedures.deployment import DeploymentRow
    from gateway.model.deployments import Deployment, StepRecord
    from gateway.store.database import Connection


@click.group()
def deployments() -> None:
    """Show and cancel deployments."""


@deployments.command("list")
@click.argument("app", required=False)
@paged(100)
@json_option
@command
async def list_deployments(app: str | None, *, limit: int, cursor: str | None, as_json: bool) -> None:
    """List deployments of one application or all, newest first."""
    from gateway.api.procedures.deployment import DeploymentRow
    from gateway.store import applications, steps
    from gateway.store import deployments as store
    from gateway.store.database import transaction

    page = parse_page(limit, cursor)
    async with open_storage() as storage, transaction(storage.pool) as connection:
        if app:
            application_id = await applications.select_application_id(connection, app)
            found = await store.select_deployments_of(connection, [application_id], page)
        else:
            found = await store.select_deployments(connection, page)
        records = await steps.select_steps(connection, [one.deployment_id for one in found])
        names = await applications.select_names(connection, {one.application_id for one in found})
    if as_json:
        print_json([DeploymentRow.from_deployment(one, records[one.deployment_id]) for one in found])
    else:
        rows = [
            (
                one.deployment_id,
                names.get(one.application_id, one.application_id),
                one.kind,
                one.status,
                one.created_at,
                one.reason and one.reason.code,
            )
            for one in found
        ]
        print_table(["ID", "APPLICATION", "KIND", "STATE", "CREATED", "REASON"], rows)
    print_next_cursor(page.next(found, store.place))


@deployments.command("show")
@click.argument("deployment")
@json_option
@command
async def show_deployment(deployment: str, *, as_json: bool) -> None:
    """Show a deployment: steps, reason, what its gates answered, last log lines."""
    from gateway.api.procedures.deployment import GatedDeployment, select_verdict_rows
    from gateway.store import queue_position
    from gateway.store.database import transaction

    async with open_storage() as storage, transaction(storage.pool) as connection:
        found, records = await load_deployment(connection, deployment)
        wait = await queue_position.select_wait(connection, found)
        gates = await select_verdict_rows(connection, deployment)
    if as_json:
        print_json(GatedDeployment.from_queue(found, records, wait, whole=True, gates=gates))
        return
    print_outcome(found, records)
    for gate in gates:
        asked = format_time(gate.asked_at)
        print_text(f"  gate {gate.name}: {gate.verdict} at {asked}, {safe_line(gate.message)}")
    if wait is not None:
        print_fields({"position": wait.position, "waits for": wait.waits_for})


@deployments.command("cancel")
@click.argument("deployment")
@json_option
@command
async def cancel_deployment(deployment: str, *, as_json: bool) -> None:
    """Cancel a deployment. A running one puts the old version back."""
    from gateway.queue import cancel

    async with open_storage() as storage:
        state = await cancel.cancel_deployment(storage.pool, deployment)
    if as_json:
        print_json({"deploymentId": deployment, "state": state})
    else:
        print_text("cancelled" if state == "cancelled" else "cancelling: the deployment puts back what it has changed")


async def load_deployment(connection: "Connection", deployment_id: str) -> "tuple[Deployment, list[StepRecord]]":
    from gateway.store import deployments as store
    from gateway.store import steps

    found = await store.select_deployment(connection, deployment_id)
    return found, (await steps.select_steps(connection, [deployment_id]))[deployment_id]


def deployment_row(found: "Deployment", records: "list[StepRecord]") -> "DeploymentRow":
    from gateway.api.procedures.deployment import DeploymentRow

    return DeploymentRow.from_deployment(found, records, whole=True)


def print_outcome(found: "Deployment", records: "list[StepRecord]") -> None:
    fields = {
        "deployment": found.deployment_id,
        "state": found.state,
        "kind": found.kind,
        "title": found.title or None,
        **({"because": found.description} if found.description else {}),
        "image": found.reference,
        "digest": found.digest,
        **({"requested by": found.asked_by} if found.asked_by else {}),
        **({"release": found.release_id} if found.release_id else {}),
    }
    if found.reason is not None:
        fields |= {"reason": found.reason.message, "code": found.reason.code, "remedy": found.reason.remedy}
    print_fields(fields)
    for record in records:
        print_text(step_line(record))
    if found.log:
        print_text("last lines of the container:")
        print_text(indent(found.log))


def step_line(record: "StepRecord") -> str:
    took = f"{record.seconds * 1000:8.0f} ms" if record.finished_at else "        …   "
    return f"  {record.step:<9}{took}  {safe_line(record.detail)}".rstrip()
