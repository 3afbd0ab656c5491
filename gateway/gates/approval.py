"""The gate `approval`: people approve a digest with a configuration, before a deadline.

What is approved is what is deployed: an approval is for the digest and the hash of the configuration that the rollout
has at hand when it asks, and any other is asked anew. Who asked for the deployment is not among those who approve it,
unless the rule says so. Of an approval that was given before, three things are looked at again each time: whether the
key was revoked since, whether the rule still lets it approve, and whether it has asked for the deployment since.
"""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, model_validator

from gateway.gates._duration import Duration
from gateway.gates.gate import Gate, GateRule, Sources
from gateway.model.api_keys import Permission
from gateway.model.approvals import Approval, Approver, Standing, Terms
from gateway.model.configuration_diff import Change, pending_changes
from gateway.model.errors import Code, truncate
from gateway.model.gates import Candidate, Decision, GateSetting, passed, refused, unknown
from gateway.store import approvals, versions
from gateway.store.approvals import Question
from gateway.store.database import statement, transaction

# Its deadline ends the wait, for each digest and configuration; this is only for what nobody was ever asked.
_LONGEST_WAIT = timedelta(days=800)
_MAX_CHANGES = 50
_MAX_VALUE = 200  # characters of a changed value
_TOKEN_BYTES = 32


class Rule(GateRule):
    """`count` of the `approvers`, by name or id of their keys, or of all keys with `scope`, must approve.

    `link` sends a link in the alert: whoever has it may answer once, and is one of the approvers.
    """

    count: Annotated[int, Field(ge=1, le=20)] = 1
    approvers: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] | None, Field(min_length=1, max_length=100)
    ] = None
    scope: Literal["deploy", "admin"] | None = None
    asker_may_approve: bool = False
    link: bool = False
    deadline: Duration = timedelta(days=3)

    @model_validator(mode="after")
    def _check_approvers(self) -> "Rule":
        if self.approvers is None:
            return self
        if self.scope is not None:
            raise ValueError("give approvers or scope, not both: who is named may approve with any scope")
        if len(set(self.approvers)) + self.link < self.count:
            raise ValueError(f"{len(set(self.approvers))} approvers can never give {self.count} approvals: name more")
        return self

    @property
    def wait(self) -> float:
        return _LONGEST_WAIT.total_seconds()

    @property
    def terms(self) -> Terms:
        permission = Permission.DEPLOY if self.scope == "deploy" else Permission.ADMIN
        named = None if self.approvers is None else frozenset(self.approvers)
        return Terms(self.count, named, permission, self.asker_may_approve, self.link, self.deadline)


@dataclass(frozen=True, slots=True)
class Facts:
    """What people were asked and have answered, None if nobody was asked; and the time of the database."""

    approval: Approval | None
    now: datetime


def asker(asked_by: str | None, asked_key: str | None) -> str | None:
    """Return who asked, as an approver."""
    if asked_key is not None:
        return Approver.of_key(asked_key, "", None).identity
    return None if asked_by is None else Approver.of_command_line(asked_by).identity


async def gather(sources: Sources, setting: GateSetting, rule: Rule, candidate: Candidate) -> Facts:
    """Ask people, unless they are asked about the same already, and return their answers.

    Where no deployment runs, as when gates are only checked, nothing is asked.
    """
    async with transaction(sources.pool) as connection:
        if not await approvals.owns_deployment(connection, candidate):
            found = await approvals.select_open(connection, candidate, setting.gate_id)
            return Facts(found, await approvals.select_time(connection))
        asked = await approvals.select_askers(connection, candidate.deployment.deployment_id)
        askers = frozenset(filter(None, (asker(*one) for one in asked)))
        question = Question(setting.gate_id, setting.name, setting.rule, rule.deadline, askers)
        approval_id, former = await approvals.reuse_open(connection, candidate, question)
        if approval_id is None:
            running = await versions.select_serving(connection, sources.vault, candidate.application)
            changes = _shown(pending_changes(candidate.application, running))
            question = replace(question, changes=changes, askers=askers | former)
            approval_id = await approvals.insert_approval(connection, candidate, question)
            await approvals.delete_surplus(connection, candidate.deployment.application_id, setting.gate_id)
        # The lock lets no answer come between what is read here and what is decided from it.
        approval = await approvals.select_approval(connection, approval_id, lock=True)
        now = await approvals.select_time(connection)
        if approval.standing(rule.terms, now) is Standing.APPROVED:
            await approvals.mark_passed(connection, approval_id)
    return Facts(approval, now)


def _shown(changes: Sequence[Change]) -> list[Mapping[str, Any]]:
    """Return the changes of the configuration as they are stored and shown; none of them holds a secret."""
    shown: list[Mapping[str, Any]] = [
        {"field": one.field, "runs": _short(one.runs), "wanted": _short(one.wanted)}
        for one in changes
        if one.field != "dockerImage"  # the digests say that
    ]
    more = len(shown) - _MAX_CHANGES
    return shown[:_MAX_CHANGES] + ([{"field": f"and {more} more", "runs": None, "wanted": None}] if more > 0 else [])


def _short(value: Any) -> str | None:
    if value in (None, "", [], {}):
        return None
    return truncate(value if isinstance(value, str) else orjson.dumps(value, default=str).decode(), _MAX_VALUE)


def decide(rule: Rule, facts: Facts, candidate: Candidate, now: datetime) -> Decision:
    terms, approval = rule.terms, facts.approval
    needed = f"{rule.count} of {terms.describe_approvers()} must approve it"
    if approval is None or not _is_about(approval, candidate):
        return unknown(Code.AWAITS_APPROVAL, f"nobody has been asked about it yet; {needed}")
    given = approval.approvals(terms)
    names = ", ".join(one.approver.name for one in given)
    evidence = {
        "approvalId": approval.approval_id,
        "digest": approval.digest,
        "specHash": approval.spec_hash,
        "needed": rule.count,
        "deadlineAt": approval.deadline_at.isoformat(),
        "approvals": [
            {"by": one.approver.identity, "name": one.approver.name, "at": one.answered_at.isoformat()} for one in given
        ],
    }
    match approval.standing(terms, facts.now):
        case Standing.REJECTED:
            rejection = approval.rejection()
            said = f"{rejection.approver.name} rejected it: {rejection.reason}" if rejection else "it was rejected"
            return refused(Code.APPROVAL_REJECTED, said, evidence)
        case Standing.EXPIRED:
            had = f"{len(given)} of {rule.count} had approved it" if given else "nobody had approved it"
            return refused(Code.GATE_EXPIRED, f"{had} by {approval.deadline_at:%Y-%m-%d %H:%M} UTC", evidence)
        case Standing.APPROVED:
            return passed(f"approved by {names}", evidence)
        case Standing.WAITING:
            return _waits(approval, rule, facts, evidence, now)


def _is_about(approval: Approval, candidate: Candidate) -> bool:
    """Tell whether the approval is for exactly what would be deployed."""
    return (approval.repository, approval.digest, approval.spec_hash, approval.application_id) == (
        str(candidate.reference.repository),
        candidate.digest,
        candidate.spec_hash,
        candidate.application.application_id,
    )


def _waits(approval: Approval, rule: Rule, facts: Facts, evidence: Mapping[str, Any], now: datetime) -> Decision:
    terms = rule.terms
    given, deferral = approval.approvals(terms), approval.deferral(terms, facts.now)
    names = f" ({', '.join(one.approver.name for one in given)})" if given else ""
    message = f"{len(given)} of {rule.count} have approved it{names}; {terms.describe_approvers()} may"
    again = approval.deadline_at
    if deferral is not None and deferral.until is not None:
        message += f"; {deferral.approver.name} defers it until {deferral.until:%Y-%m-%d %H:%M} UTC"
        again = min(again, deferral.until) if len(given) < rule.count else deferral.until
    message += f"; until {approval.deadline_at:%Y-%m-%d %H:%M} UTC"
    return unknown(Code.AWAITS_APPROVAL, message, evidence, ask_again_at=now + (again - facts.now))


# -- the alert


async def invite(sources: Sources, setting: GateSetting, rule: Rule, candidate: Candidate) -> str:
    """Return how to answer: a link where the rule and GATEWAY_PUBLIC_URL allow one, and the commands in any case."""
    async with statement(sources.pool) as connection:
        approval = await approvals.select_open(connection, candidate, setting.gate_id)
        if approval is None:
            return "List what waits: gateway approvals list"
        commands = (
            f"Approve: gateway approvals approve {approval.approval_id}\n"
            f"Reject: gateway approvals reject {approval.approval_id} --reason TEXT"
        )
        url = sources.settings.public_url
        if not rule.link or not url:
            return commands
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        await approvals.insert_link(connection, approval, hash_token(token))
    return f"Approve or reject, once: {url.rstrip('/')}/approvals/{token}\n{commands}"


def hash_token(token: str) -> bytes:
    """Return what is stored of a link. 256 random bits need no slow hash; found by it, they show nothing by time."""
    return hashlib.sha256(token.encode()).digest()


GATE = Gate(
    "approval",
    Rule,
    gather,
    decide,
    title="Wait until people approve",
    lets_rollbacks_pass=True,
    longest_wait=_LONGEST_WAIT.total_seconds(),
    invite=invite,
)
