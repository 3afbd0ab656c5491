"""Who may approve, who counts, and how an approval stands."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.gates.approval import Facts, Rule, asker, decide
from gateway.model.api_keys import Permission
from gateway.model.approvals import AnswerKind, Approval, ApprovalAnswer, Approver, Standing
from gateway.model.gates import Verdict
from gateway.model.reference import Digest
from tests.support.candidates import a_candidate

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DIGEST = Digest("sha256:" + "ab" * 32)
ANN, BOB = (Approver.of_key(name, name, Permission.ADMIN) for name in ("ann", "bob"))
DEPLOYER = Approver.of_key("dan", "dan", Permission.DEPLOY)
CANDIDATE = a_candidate(DIGEST)


def rule(**given: Any) -> Rule:
    return Rule.model_validate(given)


def said(approver: Approver, kind: AnswerKind = AnswerKind.APPROVE, **more: Any) -> ApprovalAnswer:
    return ApprovalAnswer(
        **{"approver": approver, "kind": kind, "reason": "", "until": None, "answered_at": NOW, **more}
    )


def approval(*answers: ApprovalAnswer, **more: Any) -> Approval:
    made = Approval(
        approval_id="a",
        application_id="app",
        gate_id="g",
        gate_name="people",
        deployment_id="d1",
        repository="docker.io/acme/web",
        digest=DIGEST,
        spec_hash="s1",
        image="acme/web:v1",
        serving=None,
        changes=(),
        fingerprint="",
        rule={},
        askers=frozenset(),
        created_at=NOW - HOUR,
        deadline_at=NOW + HOUR,
        passed_at=None,
        closed_at=None,
        answers=answers,
    )
    return replace(made, **more)


def test_the_user_of_the_command_line_is_who_used_sudo() -> None:
    assert Approver.of_command_line("root (sudo by ann)").identity == "cli:ann"
    assert Approver.of_command_line("root").identity == asker("root", None) == "cli:root"
    assert asker("root", "key-1") == "key:key-1"  # a key that is called so
    assert asker(None, None) is None


def test_one_approver_counts_once() -> None:
    asked = approval(said(ANN), said(ANN, answered_at=NOW - HOUR))
    assert asked.standing(rule(count=2).terms, NOW) is Standing.WAITING


def test_of_those_who_are_named_each_counts_once_with_a_key_and_on_the_host() -> None:
    here = Approver.of_command_line("ann")
    by_name, anybody = rule(count=2, approvers=["ann", "bob"]).terms, rule(count=2).terms
    asked = approval(said(ANN), said(here))
    assert [one.approver for one in asked.approvals(by_name)] == [ANN]
    assert asked.standing(by_name, NOW) is Standing.WAITING
    assert asked.standing(anybody, NOW) is Standing.APPROVED
    assert approval(said(ANN), said(here), said(BOB)).standing(by_name, NOW) is Standing.APPROVED


@pytest.mark.parametrize(
    ("given", "approver", "may"),
    [
        ({}, ANN, True),
        ({}, DEPLOYER, False),
        ({"scope": "deploy"}, DEPLOYER, True),
        ({"approvers": ["dan"]}, DEPLOYER, True),
        ({"approvers": ["dan"]}, ANN, False),
        ({}, Approver.of_command_line("root"), True),
        ({"approvers": ["dan"]}, Approver.of_command_line("root"), False),
        ({}, Approver.of_link(), False),
        ({"link": True}, Approver.of_link(), True),
        ({}, Approver.of_key("ann", "ann", None), False),  # revoked
        ({"approvers": ["ann"]}, Approver.of_key("ann", "ann", None), False),
    ],
)
def test_who_may_answer(given: dict[str, Any], approver: Approver, may: bool) -> None:
    assert rule(**given).terms.lets_answer(approver) == may


def test_an_approval_for_anything_else_never_lets_it_pass() -> None:
    one = rule(count=1)
    assert decide(one, Facts(approval(said(ANN)), NOW), CANDIDATE, NOW).verdict is Verdict.PASSED
    others: list[dict[str, Any]] = [
        {"digest": Digest("sha256:" + "cd" * 32)},
        {"spec_hash": "s2"},
        {"repository": "docker.io/acme/other"},
        {"application_id": "other"},
        {"askers": frozenset({"key:ann"})},
        {"deadline_at": NOW - HOUR},
    ]
    for other in others:
        decision = decide(one, Facts(approval(said(ANN), **other), NOW), CANDIDATE, NOW)
        assert decision.verdict is not Verdict.PASSED, other


def test_a_rejection_goes_before_all_approvals_and_a_deferral_holds_them() -> None:
    one = rule(count=1).terms
    assert approval(said(ANN), said(BOB, AnswerKind.REJECT)).standing(one, NOW) is Standing.REJECTED
    deferred = approval(said(ANN), said(BOB, AnswerKind.DEFER, until=NOW + HOUR))
    assert deferred.standing(one, NOW) is Standing.WAITING
    assert deferred.standing(one, NOW + HOUR) is Standing.APPROVED


@pytest.mark.parametrize(
    "given",
    [
        {"count": 0},
        {"count": 3, "approvers": ["ann", "bob"]},
        {"count": 2, "approvers": ["ann", "ann"]},
        {"approvers": []},
        {"approvers": ["ann"], "scope": "deploy"},
        {"scope": "read"},
        {"deadline": "0s"},
        {"approver": ["ann"]},
    ],
)
def test_a_rule_that_says_something_else_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        rule(**given)
