"""audit.*: the list of who changed what, from where, and who was denied. Rows are added and expire; no row changes."""

from typing import Annotated, Any

from pydantic import Field

from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input
from gateway.api.procedures._response import Moment, Response
from gateway.api.rpc.procedure import Answer, Procedures
from gateway.model.api_keys import Permission
from gateway.model.audit import Outcome, Via
from gateway.store import audit
from gateway.store.database import statement

procedures = Procedures()

_LAST = 2**63 - 1


class Filter(Input):
    application_id: Id | None = None
    key_id: Id | None = None
    action: Annotated[str, Field(max_length=128)] | None = None
    outcome: Outcome | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    cursor: Annotated[
        int | None, Field(ge=1, le=_LAST, description="`nextCursor` of the previous page. Returns older rows.")
    ] = None


class AuditRow(Response):
    """One object that a call or command changed; or a call that was denied or failed."""

    number: Annotated[int, Field(description="Increases from row to row.")]
    at: Moment
    call_id: Annotated[str, Field(description="The same in all rows of one call.")]
    via: Via
    who: Annotated[str, Field(description="Name of the API key, or the user on the command line.")]
    key_id: str | None
    address: Annotated[str | None, Field(description="Network address of the caller.")]
    action: Annotated[str, Field(description="Procedure or command.")]
    noun: str | None
    target: Annotated[str | None, Field(description="Id of the changed object.")]
    target_name: Annotated[
        str | None,
        Field(
            description="What the changed object was called then; of what has no name, such as a deployment, its "
            "application. Null also for rows that an older version wrote."
        ),
    ]
    application_id: str | None
    before: Annotated[
        dict[str, Any] | None,
        Field(description="Changed fields before the change. Of a secret, only whether there was one."),
    ]
    after: dict[str, Any] | None
    outcome: Outcome
    detail: Annotated[str, Field(description="Why the call was denied or failed.")]
    times: Annotated[int, Field(description="Number of identical entries that this row stands for.")]


class AuditPage(Response):
    """A page of audit rows, newest first. `nextCursor` leads to older rows. Null: there are none."""

    items: list[AuditRow]
    next_cursor: int | None


@procedures.query("audit.list", gives=AuditPage, needs=Permission.ADMIN)
async def list_entries(context: Context, given: Filter) -> Answer:
    """List audit rows, newest first."""
    async with statement(context.pool) as connection:
        found = await audit.select_entries(
            connection,
            below=given.cursor,
            application_id=given.application_id,
            key_id=given.key_id,
            action=given.action,
            outcome=given.outcome,
            limit=given.limit + 1,
        )
    page = found[: given.limit]
    return Answer(
        AuditPage.make(
            items=[AuditRow.make(one) for one in page],
            next_cursor=page[-1].number if len(found) > given.limit else None,
        )
    )
