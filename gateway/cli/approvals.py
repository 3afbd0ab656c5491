"""`gateway approvals`."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from gateway.cli._runner import (
    command,
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

if TYPE_CHECKING:
    from gateway.admin.approvals import Given
    from gateway.api.procedures.approval import ApprovalRow
    from gateway.model.approvals import Approval
    from gateway.store.database import Connection

_digest = click.option("--digest", help="The digest that you mean: an error if the approval is for another one.")


@click.group()
def approvals() -> None:
    """Show what waits for an approval, and answer it as the user of this host."""


@approvals.command("list")
@click.argument("app", required=False)
@paged(100)
@json_option
@command
async def list_approvals(app: str | None, *, limit: int, cursor: str | None, as_json: bool) -> None:
    """List what waits for an approval, newest first."""
    from gateway.store import applications
    from gateway.store import approvals as store
    from gateway.store.database import transaction

    page = parse_page(limit, cursor)
    async with open_storage() as storage, transaction(storage.pool) as connection:
        application_id = await applications.select_application_id(connection, app) if app else None
        found = await store.select_waiting(connection, page, application_id)
        rows = [await _row(connection, one) for one in found]
        names = await applications.select_names(connection, {one.application_id for one in found})
    if as_json:
        print_json(rows)
    else:
        print_table(
            ["ID", "APPLICATION", "GATE", "IMAGE", "APPROVALS", "STATE", "UNTIL"],
            [
                (
                    one.approval_id,
                    names.get(one.application_id, one.application_id),
                    one.gate_name,
                    one.image,
                    f"{one.approvals} of {one.count}",
                    one.standing,
                    one.deadline_at,
                )
                for one in rows
            ],
        )
    print_next_cursor(page.next(found, lambda one: (one.created_at, one.approval_id)))


@approvals.command("show")
@click.argument("approval")
@json_option
@command
async def show_approval(approval: str, *, as_json: bool) -> None:
    """Show what an approval is for, what changes, and who has answered."""
    from gateway.store import approvals as store
    from gateway.store.database import transaction

    async with open_storage() as storage, transaction(storage.pool) as connection:
        row = await _row(connection, await store.select_approval(connection, approval))
    _print(row, as_json=as_json)


@approvals.command("approve")
@click.argument("approval")
@_digest
@click.option("--reason", default="", help="Why, for the audit.")
@json_option
@command
async def approve(approval: str, *, digest: str | None, reason: str, as_json: bool) -> None:
    """Approve that this digest goes out with this configuration. A user of the host counts once."""
    from gateway.admin.approvals import Given
    from gateway.model.approvals import AnswerKind

    await _answer(approval, Given(AnswerKind.APPROVE, reason, digest=digest), as_json=as_json)


@approvals.command("reject")
@click.argument("approval")
@_digest
@click.option("--reason", required=True, help="Why: the deployment fails with it.")
@json_option
@command
async def reject(approval: str, *, digest: str | None, reason: str, as_json: bool) -> None:
    """Reject it: the deployment fails."""
    from gateway.admin.approvals import Given
    from gateway.model.approvals import AnswerKind

    await _answer(approval, Given(AnswerKind.REJECT, reason, digest=digest), as_json=as_json)


@approvals.command("defer")
@click.argument("approval")
@_digest
@click.option("--until", required=True, help="A duration, for example 2h, or a time, for example 2027-01-01T08:00.")
@click.option("--reason", default="", help="Why, for the audit.")
@json_option
@command
async def defer(approval: str, *, digest: str | None, until: str, reason: str, as_json: bool) -> None:
    """Let it wait until a time (in UTC, unless it says otherwise). It is no approval."""
    from gateway.admin.approvals import Given
    from gateway.model.api_keys import parse_expiry
    from gateway.model.approvals import AnswerKind

    at = parse_expiry(until, datetime.now(UTC))
    await _answer(approval, Given(AnswerKind.DEFER, reason, at, digest), as_json=as_json)


async def _answer(approval_id: str, given: "Given", *, as_json: bool) -> None:
    from gateway.admin import approvals as admin
    from gateway.model.approvals import Approver
    from gateway.model.audit import CURRENT_ACTOR
    from gateway.store.database import transaction

    async with open_storage() as storage:
        actor = CURRENT_ACTOR.get()
        approver = Approver.of_command_line(actor.who if actor else "")
        answered = await admin.answer(storage.pool, approval_id, approver, given)
        async with transaction(storage.pool) as connection:
            row = await _row(connection, answered)
    _print(row, as_json=as_json)


async def _row(connection: "Connection", approval: "Approval") -> "ApprovalRow":
    from gateway.api.procedures.approval import ApprovalRow
    from gateway.store import approvals as store

    return ApprovalRow.from_approval(approval, await store.select_time(connection))


def _print(row: "ApprovalRow", *, as_json: bool) -> None:
    if as_json:
        print_json(row)
        return
    print_fields(
        {
            "approval": row.approval_id,
            "state": row.standing,
            "approvals": f"{row.approvals} of {row.count}",
            "who may": row.approvers,
            "until": row.deadline_at,
            **({"deferred until": row.deferred_until} if row.deferred_until else {}),
            "image": row.image,
            "serving": row.serving,
            "deployment": row.deployment_id,
        }
    )
    for change in row.changes:
        print_text(f"  changes {change.field}: {change.runs or '-'} -> {change.wanted or '-'}")
    for answer in row.answers:
        print_text(f"  {answer.name}: {answer.answer}{f' ({answer.reason})' if answer.reason else ''}")
