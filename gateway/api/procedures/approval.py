"""approval.*: what waits for people to approve it, and their answers.

An approval is for one digest with one configuration. An answer to anything else is a conflict (409): where another
image or configuration is asked about now, where the deployment has ended, and after the deadline.
"""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import AwareDatetime, Field

from gateway.admin import approvals as admin
from gateway.admin.approvals import Given
from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input
from gateway.api.procedures._pagination import Paged, headers
from gateway.api.procedures._response import Moment, Response
from gateway.api.rpc.procedure import Answer, KeyAccess, Procedures
from gateway.model.api_keys import Caller, Permission
from gateway.model.approvals import AnswerKind, Approval, Approver, Standing
from gateway.model.errors import Conflict
from gateway.store import approvals, resource_owners
from gateway.store.database import statement

procedures = Procedures()

_Digest = Annotated[
    str | None,
    Field(max_length=200, description="Digest that the answer is about. A conflict if the approval is for another."),
]
_Reason = Annotated[str, Field(max_length=admin.MAX_REASON)]


class Waiting(Paged):
    """A page of the approvals, of one application or all."""

    application_id: Id | None = None


class Named(Input):
    approval_id: Id


class Approving(Named):
    digest: _Digest = None
    reason: _Reason = ""


class Rejecting(Named):
    digest: _Digest = None
    reason: Annotated[str, Field(min_length=1, max_length=admin.MAX_REASON)]


class Deferring(Named):
    digest: _Digest = None
    until: Annotated[AwareDatetime, Field(description="Before the deadline. Until then, nothing is deployed.")]
    reason: _Reason = ""


class AnswerRow(Response):
    """What an approver answered last. `counts` says whether it is one of the approvals that are needed."""

    approver: Annotated[str, Field(description="key:ID, cli:USER or link.")]
    name: str
    answer: AnswerKind
    reason: str
    until: Moment | None
    answered_at: Moment
    counts: bool


class ConfigurationChange(Response):
    """A field that differs from the version that served when it was asked. No value is a secret."""

    field: str
    runs: str | None
    wanted: str | None


class ApprovalRow(Response):
    """What people are asked: whether this digest may go out with this configuration."""

    approval_id: str
    application_id: str
    deployment_id: str
    gate_id: str
    gate_name: str
    image: str
    digest: str
    serving: Annotated[str | None, Field(description="Digest that served when it was asked.")]
    spec_hash: Annotated[str, Field(description="Identifies the configuration.")]
    changes: list[ConfigurationChange]
    standing: Standing
    count: Annotated[int, Field(description="Number of approvals that are needed.")]
    approvals: Annotated[int, Field(description="Number of approvals that count.")]
    approvers: Annotated[str, Field(description="Who may answer, in words.")]
    deferred_until: Moment | None
    answers: list[AnswerRow]
    created_at: Moment
    deadline_at: Moment

    @classmethod
    def from_approval(cls, approval: Approval, now: datetime) -> Self:
        terms = admin.rule_of(approval).terms
        counting = approval.approvals(terms)
        deferral = approval.deferral(terms, now)
        return cls.make(
            approval,
            changes=[ConfigurationChange.make(**_change(one)) for one in approval.changes],
            standing=approval.standing(terms, now),
            count=terms.count,
            approvals=len(counting),
            approvers=terms.describe_approvers(),
            deferred_until=deferral.until if deferral else None,
            answers=[
                AnswerRow.make(
                    one,
                    approver=one.approver.identity,
                    name=one.approver.name,
                    answer=one.kind,
                    counts=one in counting,
                )
                for one in approval.answers
            ],
        )


def _change(change: Any) -> dict[str, Any]:
    return {name: change.get(name) for name in ("field", "runs", "wanted")}


@procedures.query("approval.all", gives=list[ApprovalRow], access=KeyAccess.FILTERED)
async def select_all(context: Context, given: Waiting) -> Answer:
    """List what deployments wait for, newest first."""
    page, grants = given.page, context.caller.grants
    async with statement(context.pool) as connection:
        only = None if grants is None else await resource_owners.select_covered(connection, grants)
        found = await approvals.select_waiting(connection, page, given.application_id, only=only)
        now = await approvals.select_time(connection)
    following = page.next(found, lambda one: (one.created_at, one.approval_id))
    return Answer([ApprovalRow.from_approval(one, now) for one in found], headers=headers(following))


@procedures.query("approval.one", gives=ApprovalRow)
async def select_one(context: Context, given: Named) -> Answer:
    """Return an approval with its answers."""
    async with statement(context.pool) as connection:
        found = await approvals.select_approval(connection, given.approval_id)
        now = await approvals.select_time(connection)
    return Answer(ApprovalRow.from_approval(found, now))


@procedures.mutation("approval.approve", gives=ApprovalRow, raises=(Conflict,), needs=Permission.DEPLOY)
async def approve(context: Context, given: Approving) -> Answer:
    """Approve that this digest goes out with this configuration.

    The gate's rule says who may; by default, it is not who asked for the deployment. A key counts once.
    """
    return await _answer(context, given, Given(AnswerKind.APPROVE, given.reason, digest=given.digest))


@procedures.mutation("approval.reject", gives=ApprovalRow, raises=(Conflict,), needs=Permission.DEPLOY)
async def reject(context: Context, given: Rejecting) -> Answer:
    """Reject the deployment with a reason.

    It fails with the code `approval_rejected`. This is final.
    """
    return await _answer(context, given, Given(AnswerKind.REJECT, given.reason, digest=given.digest))


@procedures.mutation("approval.defer", gives=ApprovalRow, raises=(Conflict,), needs=Permission.DEPLOY)
async def defer(context: Context, given: Deferring) -> Answer:
    """Defer the deployment to a later time.

    Until then, it does not go out. It is no approval, and others may approve it meanwhile.
    """
    return await _answer(context, given, Given(AnswerKind.DEFER, given.reason, given.until, given.digest))


async def _answer(context: Context, named: Named, given: Given) -> Answer:
    answered = await admin.answer(context.pool, named.approval_id, approver_of(context.caller), given)
    async with statement(context.pool) as connection:
        now = await approvals.select_time(connection)
    return Answer(ApprovalRow.from_approval(answered, now), changed=True)


def approver_of(caller: Caller) -> Approver:
    if caller.local_user is not None:
        return Approver.of_command_line(caller.local_user)
    return Approver.of_key(caller.key_id, caller.name, caller.permission)
