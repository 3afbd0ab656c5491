"""`gateway deployments`."""

from typing import TYPE_CHECKING

import click

from gateway.cli._runner import (
    command,
    indented,
    json_option,
    keep,
    page_of,
    paged,
    say,
    show,
    show_fields,
    show_table,
    tell_more,
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
    """List deployments of one application or of all, newest first."""
    from gateway.api.procedures.deployment import DeploymentRow
    from gateway.store import applications, steps
    from gateway.store import deployments as store
    from gateway.store.database import transaction

    page = page_of(limit, cursor)
    async with keep() as kept, transaction(kept.pool) as connection:
        if app:
            application_id = await applications.select_application_id(connection, app)
            found = await store.select_deployments_of(connection, [application_id], page)
        else:
            found = await store.select_deployments(connection, page)
        records = await steps.select_steps(connection, [one.deployment_id for one in found])
    if as_json:
        show([DeploymentRow.from_deployment(one, records[one.deployment_id]) for one in found])
    else:
        rows = [
            (
                one.deployment_id,
                one.application_id,
                one.kind,
                one.status,
                one.created_at,
                one.reason and one.reason.code,
            )
            for one in found
        ]
        show_table(["ID", "APPLICATION", "KIND", "STATE", "CREATED", "REASON"], rows)
    tell_more(page.next(found, store.place))


@deployments.command("show")
@click.argument("deployment")
@json_option
@command
async def show_deployment(deployment: str, *, as_json: bool) -> None:
    """Show a deployment with its steps, its reason and the container's last log lines."""
    from gateway.api.procedures.deployment import QueuedDeployment
    from gateway.store import queue_position
    from gateway.store.database import transaction

    async with keep() as kept, transaction(kept.pool) as connection:
        found, records = await read(connection, deployment)
        wait = await queue_position.select_wait(connection, found)
    if as_json:
        show(QueuedDeployment.from_queue(found, records, wait, whole=True))
        return
    print_outcome(found, records)
    if wait is not None:
        show_fields({"position": wait.position, "waits for": wait.waits_for})


@deployments.command("cancel")
@click.argument("deployment")
@json_option
@command
async def cancel_deployment(deployment: str, *, as_json: bool) -> None:
    """Cancel a queued deployment; a running one puts back the version before it."""
    from gateway.queue import cancel

    async with keep() as kept:
        state = await cancel.cancel_deployment(kept.pool, deployment)
    if as_json:
        show({"deploymentId": deployment, "state": state})
    else:
        say("cancelled" if state == "cancelled" else "cancelling: the deployment puts back what it has changed")


async def read(connection: "Connection", deployment_id: str) -> "tuple[Deployment, list[StepRecord]]":
    from gateway.store import deployments as store
    from gateway.store import steps

    found = await store.select_deployment(connection, deployment_id)
    return found, (await steps.select_steps(connection, [deployment_id]))[deployment_id]


def document(found: "Deployment", records: "list[StepRecord]") -> "DeploymentRow":
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
        **({"asked by": found.asked_by} if found.asked_by else {}),
    }
    if found.reason is not None:
        fields |= {"reason": found.reason.message, "code": found.reason.code, "remedy": found.reason.remedy}
    show_fields(fields)
    for record in records:
        say(step_line(record))
    if found.log:
        say("last lines of the container:")
        say(indented(found.log))


def step_line(record: "StepRecord") -> str:
    took = f"{record.seconds * 1000:8.0f} ms" if record.finished_at else "        …   "
    return f"  {record.step:<9}{took}  {safe_line(record.detail)}".rstrip()
