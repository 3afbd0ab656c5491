"""Answer approvals: approve, reject, defer. For the API, the command line and the link in an alert alike.

An answer counts for what was asked, and for nothing else: where the deployment has gone on to another digest or
configuration, or has ended, it is a Conflict that says so.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import ValidationError

from gateway.gates.approval import Rule, asker, hash_token
from gateway.model.approvals import AnswerKind, Approval, ApprovalAnswer, Approver, Standing
from gateway.model.deployments import Status
from gateway.model.errors import Conflict, Forbidden, InvalidInput, NotFound, storable_text
from gateway.store import approvals, gate_verdicts
from gateway.store.approvals import Situation
from gateway.store.database import transaction

if TYPE_CHECKING:
    from gateway.store.database import Connection, Pool

MAX_REASON = 1000  # characters
NO_LINK = "this link is not valid: it was used, it has expired, or it never was one"


class _ConfigurationChanged(Conflict):
    """The deployment is to ask again."""

    code = "Conflict"

    def __init__(self, message: str, deployment_id: str) -> None:
        super().__init__(message)
        self.deployment_id = deployment_id


@dataclass(frozen=True, slots=True)
class Given:
    """What a person answers. `digest` is what they mean to answer about, None if they do not say."""

    kind: AnswerKind
    reason: str = ""
    until: datetime | None = None
    digest: str | None = None


def rule_of(approval: Approval) -> Rule:
    """Return the rule that applied when it was asked last. Raises Conflict if it cannot be read any more."""
    try:
        return Rule.model_validate(approval.rule)
    except ValidationError as error:
        raise Conflict(f"the rule of gate {approval.gate_name} is not valid any more: set it again") from error


async def answer(pool: "Pool", approval_id: str, approver: Approver, given: Given) -> Approval:
    """Record the answer, wake the deployment, and return the approval as it stands then.

    Raises NotFound, Forbidden, InvalidInput, and Conflict where the answer would not be about what is asked.
    """
    async with _waking(pool), transaction(pool) as connection:
        return await _answer(connection, approval_id, approver, given)


async def answer_by_link(pool: "Pool", token: str, given: Given) -> Approval:
    """Do so for whoever holds a link, and use the link up. Raises NotFound for a link that is not valid."""
    hashed = hash_token(token)
    async with _waking(pool), transaction(pool) as connection:
        found = await approvals.select_link(connection, hashed)
        if found is None:
            raise NotFound(NO_LINK)
        approval_id, _ = found
        await _lock(connection, approval_id)
        again = await approvals.select_link(connection, hashed, lock=True)
        if again is None or not again[1]:
            raise NotFound(NO_LINK)
        answered = await _answer(connection, approval_id, Approver.of_link(), given)
        await approvals.use_link(connection, hashed)
        return answered


@asynccontextmanager
async def _waking(pool: "Pool") -> AsyncIterator[None]:
    """Wake the deployment also where its configuration has changed, so that people are asked about the new one."""
    try:
        yield
    except _ConfigurationChanged as error:
        async with transaction(pool) as connection:
            await gate_verdicts.wake(connection, [error.deployment_id])
        raise


async def select_by_link(connection: "Connection", token: str) -> Approval:
    """Return what a link is for. Raises NotFound for a link that is not valid."""
    found = await approvals.select_link(connection, hash_token(token))
    if found is None or not found[1]:
        raise NotFound(NO_LINK)
    return await approvals.select_approval(connection, found[0])


async def _lock(connection: "Connection", approval_id: str) -> Approval:
    """Lock the deployment, then the approval, and return it."""
    approval = await approvals.select_approval(connection, approval_id)
    await approvals.lock_deployment(connection, approval.deployment_id)
    locked = await approvals.select_approval(connection, approval_id, lock=True)
    if locked.deployment_id != approval.deployment_id:
        raise Conflict("another deployment has just asked for this approval: answer again")
    return locked


async def _answer(connection: "Connection", approval_id: str, approver: Approver, given: Given) -> Approval:
    approval = await _lock(connection, approval_id)
    approver = await approvals.select_holder(connection, approver)
    approver = replace(approver, chose_name=await approvals.chose_name(connection, approver))
    situation = await approvals.select_situation(connection, approval)
    rule = rule_of(approval)
    _check_right(approval, situation, rule, approver, given)
    _check_still_asked(approval, situation, given)
    _check_standing(approval, situation, rule, given)
    recorded = ApprovalAnswer(approver, given.kind, _reason(given), _until(approval, situation, given), situation.now)
    await approvals.upsert_answer(connection, approval, recorded)
    await gate_verdicts.wake(connection, [approval.deployment_id])
    return await approvals.select_approval(connection, approval_id)


def _check_right(approval: Approval, situation: Situation, rule: Rule, approver: Approver, given: Given) -> None:
    terms = rule.terms
    if not terms.lets_answer(approver):
        who = terms.describe_approvers() + (", and the links in alerts" if terms.link else "")
        raise Forbidden(f"{approver.name} may not answer for gate {approval.gate_name}: {who} may")
    if given.kind is not AnswerKind.APPROVE:
        return
    askers = approval.askers | ({asked} if (asked := asker(situation.asked_by, situation.asked_key)) else set())
    if not terms.lets_approve(approver, askers):
        raise Forbidden(
            f"{approver.name} asked for this deployment: another one must approve it. "
            "The gate's rule can allow it: askerMayApprove"
        )


def _check_still_asked(approval: Approval, situation: Situation, given: Given) -> None:
    asked = f"{approval.digest} with configuration {approval.spec_hash}"
    if given.digest is not None and given.digest != approval.digest:
        raise Conflict(f"approval {approval.approval_id} is for {approval.digest}, and not for {given.digest}")
    if situation.status not in {Status.QUEUED, Status.RUNNING}:
        raise Conflict(f"deployment {approval.deployment_id}, which asked for {asked}, has ended: {situation.status}")
    if approval.closed_at is not None:
        now = f"the gate asks about {situation.asked_now} now" if situation.asked_now else "the gate asks nothing now"
        raise Conflict(f"the approval was for {asked}; {now}: see gateway approvals list")
    if not situation.configured_alike:
        raise _ConfigurationChanged(
            f"the configuration has changed since the approval was asked for {asked}; the deployment asks again, "
            "with the new one: see gateway approvals list",
            approval.deployment_id,
        )


def _check_standing(approval: Approval, situation: Situation, rule: Rule, given: Given) -> None:
    standing = approval.standing(rule.terms, situation.now)
    if standing is Standing.REJECTED and (rejection := approval.rejection()) is not None:
        raise Conflict(f"{rejection.approver.name} rejected it: {rejection.reason}")
    if standing is Standing.EXPIRED:
        raise Conflict(f"the deadline has passed: {approval.deadline_at:%Y-%m-%d %H:%M} UTC; deploy again")
    going = approval.passed_at is not None and situation.status is Status.RUNNING
    if going and given.kind is not AnswerKind.APPROVE:
        raise Conflict(
            "the gate has let the deployment pass, which is going out now: cancel it with "
            f"gateway deployments cancel {approval.deployment_id}"
        )


def _reason(given: Given) -> str:
    reason = storable_text(given.reason).strip()
    if given.kind is AnswerKind.REJECT and not reason:
        raise InvalidInput("say why it is rejected", field="reason")
    if len(reason) > MAX_REASON:
        raise InvalidInput(f"a reason has at most {MAX_REASON} characters", field="reason")
    return reason


def _until(approval: Approval, situation: Situation, given: Given) -> datetime | None:
    if given.kind is not AnswerKind.DEFER:
        return None
    if given.until is None or not timedelta() < given.until - situation.now:
        raise InvalidInput("say until when it is deferred: a time to come", field="until")
    if given.until >= approval.deadline_at:
        raise InvalidInput(
            f"it can be deferred until its deadline, {approval.deadline_at:%Y-%m-%d %H:%M} UTC; to end it, reject it",
            field="until",
        )
    return given.until
