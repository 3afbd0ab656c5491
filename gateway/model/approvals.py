"""Approvals: people let a digest with a configuration pass, or not. It performs no I/O.

An approval stands where the answers of people, the rule and the time put it:

    waiting ──┬─▶ approved     so many of those who may have approved it before the deadline, and nobody defers it
              ├─▶ rejected     one of those who may has rejected it; this is final
              └─▶ expired      too few had approved it at the deadline
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from gateway.model.api_keys import Permission
from gateway.model.reference import Digest

LINK = "link"
_SUDO = re.compile(r".* \(sudo by (.+)\)", re.DOTALL)


class AnswerKind(StrEnum):
    """What a person answers."""

    APPROVE = "approve"
    REJECT = "reject"
    DEFER = "defer"


class Standing(StrEnum):
    """How an approval stands."""

    WAITING = "waiting"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Approver:
    """Who answers. A person with two keys is two approvers: the gateway knows keys, not people."""

    #: `key:ID` of an API key, `cli:USER` of the host, or `link`
    identity: str
    #: of the key or the user
    name: str
    #: None for a link, and for a key that was revoked
    permission: Permission | None
    #: whether people chose the name themselves, at an identity provider: then it names nobody in a rule
    chose_name: bool = False

    @classmethod
    def of_key(cls, key_id: str, name: str, permission: Permission | None) -> "Approver":
        return cls(f"key:{key_id}", name, permission)

    @classmethod
    def of_command_line(cls, who: str) -> "Approver":
        """Return a user of the host, who operates it: with sudo, the one who used it."""
        match = _SUDO.fullmatch(who)
        name = match[1] if match else who
        return cls(f"cli:{name}", name, Permission.ADMIN)

    @classmethod
    def of_link(cls) -> "Approver":
        """Return whoever holds the link of an alert: one for each approval, however many links there are."""
        return cls(LINK, "a link in an alert", None)


@dataclass(frozen=True, slots=True)
class Terms:
    """Who may answer, and how many must approve."""

    count: int
    #: names or ids of API keys, or names of users of the host; None: everybody with the permission
    approvers: Collection[str] | None
    permission: Permission
    asker_may_approve: bool
    link: bool
    deadline: timedelta

    def lets_answer(self, approver: Approver) -> bool:
        """Tell whether the approver may answer at all."""
        if approver.identity == LINK:
            return self.link
        if approver.permission is None:
            return False
        if self.approvers is not None:
            by_name = approver.name in self.approvers and not approver.chose_name
            return by_name or approver.identity.removeprefix("key:") in self.approvers
        return approver.permission >= self.permission

    def lets_approve(self, approver: Approver, askers: Collection[str]) -> bool:
        """Tell whether an approval of the approver counts."""
        return self.lets_answer(approver) and (self.asker_may_approve or approver.identity not in askers)

    def counted_as(self, approver: Approver) -> str:
        """Return what counts once: who the rule names, also where a key and a user of the host have that name."""
        if self.approvers is None or approver.identity == LINK:
            return approver.identity
        by_id = approver.identity.removeprefix("key:")
        return by_id if by_id in self.approvers else approver.name

    def describe_approvers(self) -> str:
        named = f"the keys {', '.join(sorted(self.approvers))}" if self.approvers is not None else None
        return named or f"keys of scope {self.permission.scope_name}"


@dataclass(frozen=True, slots=True)
class ApprovalAnswer:
    """What an approver answered last."""

    approver: Approver
    kind: AnswerKind
    reason: str
    until: datetime | None
    answered_at: datetime


@dataclass(frozen=True, slots=True)
class Approval:
    """What people are asked: whether this digest may go out with this configuration."""

    approval_id: str
    application_id: str
    gate_id: str
    gate_name: str
    deployment_id: str
    repository: str
    digest: Digest
    spec_hash: str
    image: str
    serving: Digest | None
    changes: Sequence[Mapping[str, Any]]
    fingerprint: str
    rule: Mapping[str, Any]
    askers: frozenset[str]
    created_at: datetime
    deadline_at: datetime
    passed_at: datetime | None
    closed_at: datetime | None
    answers: Sequence[ApprovalAnswer] = ()

    def approvals(self, terms: Terms) -> list[ApprovalAnswer]:
        """Return the answers that count as approvals, one of each approver."""
        counted = [
            one
            for one in self.answers
            if one.kind is AnswerKind.APPROVE
            and one.answered_at <= self.deadline_at
            and terms.lets_approve(one.approver, self.askers)
        ]
        return list({terms.counted_as(one.approver): one for one in reversed(counted)}.values())[::-1]

    def rejection(self) -> ApprovalAnswer | None:
        """Return who rejected it. It holds also when the key is revoked later."""
        return next((one for one in self.answers if one.kind is AnswerKind.REJECT), None)

    def deferral(self, terms: Terms, now: datetime) -> ApprovalAnswer | None:
        """Return the answer that defers it the longest, of those whose time is not over."""
        deferring = [
            (one.until, one)
            for one in self.answers
            if one.until is not None and one.until > now and terms.lets_answer(one.approver)
        ]
        return max(deferring, key=lambda pair: pair[0])[1] if deferring else None

    def standing(self, terms: Terms, now: datetime) -> Standing:
        if self.rejection() is not None:
            return Standing.REJECTED
        enough = len(self.approvals(terms)) >= terms.count
        if enough:
            return Standing.WAITING if self.deferral(terms, now) else Standing.APPROVED
        return Standing.EXPIRED if now >= self.deadline_at else Standing.WAITING
