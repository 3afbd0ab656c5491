"""audit.*: who changed what, from where, and who was refused. Rows are added and expire; nothing changes one."""

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
        int | None, Field(ge=1, le=_LAST, description="nextCursor of the page before: rows that are older.")
    ] = None


class AuditRow(Response):
    """What one call or command changed of one thing; or that it was refused, or failed."""

    number: Annotated[int, Field(description="Grows.")]
    at: Moment
    call_id: Annotated[str, Field(description="The same for all that one call changed.")]
    via: Via
    who: Annotated[str, Field(description="The key's name, or the user on the command line.")]
    key_id: str | None
    address: Annotated[str | None, Field(description="Where it was asked from.")]
    action: Annotated[str, Field(description="The procedure, or the command.")]
    noun: str | None
    target: Annotated[str | None, Field(description="The id of what was changed.")]
    application_id: str | None
    before: Annotated[dict[str, Any] | None, Field(description="What was changed; of a secret that there was one.")]
    after: dict[str, Any] | None
    outcome: Outcome
    detail: Annotated[str, Field(description="Why it was refused, or failed.")]
    times: Annotated[int, Field(description="How many that are alike the row stands for.")]


class AuditPage(Response):
    """Rows, the newest first; nextCursor leads to those before, null where there are none."""

    items: list[AuditRow]
    next_cursor: int | None


@procedures.query("audit.list", gives=AuditPage, needs=Permission.ADMIN)
async def list_entries(context: Context, given: Filter) -> Answer:
    """Return a page of the audit, the newest first."""
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
