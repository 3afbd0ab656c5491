"""The rule of promotion, and what it decides."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.gates.promotion import PromotionRule, decide
from gateway.model.applications import Desired
from gateway.model.errors import Code
from gateway.model.gates import Verdict
from gateway.model.observations import State
from gateway.model.reference import Digest
from gateway.model.soaks import Followed, Soak
from tests.support.candidates import a_candidate

D, OTHER = (Digest("sha256:" + two * 32) for two in ("ab", "cd"))
CANDIDATE = a_candidate(D)
NOW = CANDIDATE.deployment.requested_at + timedelta(minutes=5)
MINUTE = timedelta(minutes=1)
RULE = PromotionRule.model_validate({"follows": "staging", "soak": "30m"})
RUNS = Soak(D, "a", NOW - 10 * MINUTE, NOW, 10 * MINUTE)
STAGING = Followed(
    application_id="staging",
    name="Staging",
    desired=Desired.RUNNING,
    serving=D,
    image=None,
    window_until=None,
    is_busy=False,
    ending=None,
    may_arrive=False,
    failed_deployment=None,
    state=State.HEALTHY,
    soak=RUNS,
)
PROVEN = replace(STAGING, soak=Soak(D, "a", NOW - 31 * MINUTE, NOW, 31 * MINUTE))
GONE_ON = replace(STAGING, serving=OTHER, soak=None)


def changed(one: Followed, **changes: Any) -> Followed:
    return replace(one, **changes)


@pytest.mark.parametrize(
    ("followed", "verdict", "says"),
    [
        (None, Verdict.REFUSED, "does not exist"),
        (PROVEN, Verdict.PASSED, "for 30m"),
        (changed(PROVEN, serving=OTHER), Verdict.PASSED, "for 30m"),
        (changed(PROVEN, desired=Desired.STOPPED, ending="stop"), Verdict.PASSED, "for 30m"),
        (changed(PROVEN, state=State.RESTARTING), Verdict.UNKNOWN, f"has proven {D}, but is restarting"),
        (changed(PROVEN, state=State.RESTARTING, serving=OTHER), Verdict.PASSED, "for 30m"),
        (changed(PROVEN, state=State.UNKNOWN), Verdict.PASSED, "for 30m"),
        (changed(PROVEN, ending="rollback"), Verdict.UNKNOWN, "about to be rolled back"),
        (changed(PROVEN, ending="rollback", serving=OTHER), Verdict.PASSED, "for 30m"),
        (STAGING, Verdict.UNKNOWN, "until 2026-12-01 00:25:00 UTC"),
        (changed(STAGING, window_until=NOW + 60 * MINUTE), Verdict.UNKNOWN, "until 2026-12-01 01:05:00 UTC"),
        (changed(STAGING, soak=RUNS.stop(), state=State.UNHEALTHY), Verdict.UNKNOWN, "is unhealthy"),
        (changed(STAGING, soak=None, state=State.UNKNOWN), Verdict.UNKNOWN, "is unknown"),
        (changed(GONE_ON, may_arrive=True), Verdict.UNKNOWN, "about to get"),
        (changed(GONE_ON, soak=RUNS.stop()), Verdict.REFUSED, "0:10:00 at most"),
        (
            changed(GONE_ON, soak=Soak(D, failed_at=NOW, failure="rollback r turned away from it")),
            Verdict.REFUSED,
            "rollback r turned away from it at 2026-12-01 00:05:00 UTC",
        ),
        (changed(GONE_ON, failed_deployment="x"), Verdict.REFUSED, "deployment x of it failed"),
        (GONE_ON, Verdict.REFUSED, "never ran it"),
    ],
)
def test_only_what_is_proven_passes(followed: Followed | None, verdict: Verdict, says: str) -> None:
    decision = decide(RULE, followed, CANDIDATE, NOW)
    assert decision.verdict is verdict
    assert decision.code is (Code.GATE_PASSED if verdict is Verdict.PASSED else Code.NOT_PROVEN)
    assert says in decision.message


def test_what_serves_already_may_get_another_configuration() -> None:
    serving = a_candidate(D, serving=D)
    assert decide(RULE, GONE_ON, serving, NOW + 60 * MINUTE).verdict is Verdict.PASSED


def test_what_was_pushed_to_both_at_once_may_come_to_the_follower_first() -> None:
    requested = CANDIDATE.deployment.requested_at
    early = decide(RULE, GONE_ON, CANDIDATE, requested + timedelta(seconds=59))
    assert (early.verdict, early.ask_again_at) == (Verdict.UNKNOWN, requested + MINUTE)
    assert decide(RULE, GONE_ON, CANDIDATE, requested + MINUTE).verdict is Verdict.REFUSED
    asked_for = a_candidate(D, asked_by="a person")
    assert decide(RULE, GONE_ON, asked_for, requested).verdict is Verdict.REFUSED


def test_the_gate_is_asked_again_at_the_end_of_the_soak_and_not_all_the_time_after_it() -> None:
    assert decide(RULE, STAGING, CANDIDATE, NOW).ask_again_at == NOW + 20 * MINUTE
    overdue = decide(RULE, STAGING, CANDIDATE, NOW + 21 * MINUTE).ask_again_at
    assert overdue == NOW + 21 * MINUTE + timedelta(seconds=10)


def test_a_promotion_is_due_only_while_what_proved_it_runs_well() -> None:
    def due(one: Followed, now: Any = NOW) -> bool:
        return one.is_due(D, RULE.soak, now)

    assert due(PROVEN)
    assert not due(STAGING)
    for broken in (
        {"serving": OTHER},
        {"desired": Desired.STOPPED},
        {"is_busy": True},
        {"ending": "rollback"},
        {"window_until": NOW + MINUTE},
        {"soak": PROVEN.soak and PROVEN.soak.stop()},
        {"soak": replace(RUNS, longest=31 * MINUTE)},  # it proved it before, and runs it anew
        {"soak": None},
    ):
        assert not due(changed(PROVEN, **broken)), broken
    assert not due(PROVEN, NOW + 6 * MINUTE), "nobody observes it"


def test_a_deployment_waits_for_longer_than_the_soak() -> None:
    assert RULE.wait == 30 * 60 + 86_400
    assert PromotionRule.model_validate({"follows": "s", "soak": "7d", "wait": 60}).wait == 60
    for wrong in ({}, {"follows": "s", "soak": "0m"}, {"follows": "s", "sok": "1m"}, {"follows": "s", "mode": "auto"}):
        with pytest.raises(ValidationError):
            PromotionRule.model_validate(wrong)
