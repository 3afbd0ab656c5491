"""The rule of maturity, and what it decides."""

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from gateway.gates.maturity import Facts, Rule, decide
from gateway.model.errors import Code
from gateway.model.gates import Verdict
from gateway.model.reference import Digest
from tests.support.candidates import a_candidate

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
THREE_DAYS = Rule.model_validate({"age": "3d"})
CANDIDATE = a_candidate(Digest("sha256:" + "ab" * 32))


def test_a_digest_passes_once_it_has_been_out_for_the_time() -> None:
    waits = decide(THREE_DAYS, Facts(NOW - 2 * DAY, NOW), CANDIDATE, NOW)
    assert (waits.verdict, waits.code, waits.ask_again_at) == (Verdict.UNKNOWN, Code.TOO_NEW, NOW + DAY)
    assert decide(THREE_DAYS, Facts(NOW - 3 * DAY, NOW), CANDIDATE, NOW).verdict is Verdict.PASSED


def test_the_clock_of_the_database_counts_and_not_that_of_the_machine() -> None:
    ahead = NOW + 30 * DAY
    waits = decide(THREE_DAYS, Facts(NOW - 2 * DAY, NOW), CANDIDATE, ahead)
    assert (waits.verdict, waits.ask_again_at) == (Verdict.UNKNOWN, ahead + DAY)


def test_the_earlier_of_what_was_seen_and_what_the_registry_says_counts() -> None:
    assert decide(THREE_DAYS, Facts(NOW, NOW, NOW - 4 * DAY), CANDIDATE, NOW).verdict is Verdict.PASSED
    assert decide(THREE_DAYS, Facts(NOW - 4 * DAY, NOW, NOW - DAY), CANDIDATE, NOW).verdict is Verdict.PASSED


def test_what_serves_already_passes() -> None:
    serving = a_candidate(CANDIDATE.digest, serving=CANDIDATE.digest)
    assert decide(THREE_DAYS, Facts(NOW, NOW), serving, NOW).verdict is Verdict.PASSED


def test_the_longest_wait_is_longer_than_the_age() -> None:
    assert THREE_DAYS.wait == 14 * DAY.total_seconds()
    assert Rule.model_validate({"age": "30d"}).wait == 31 * DAY.total_seconds()
    with pytest.raises(ValidationError, match="longer than age"):
        Rule.model_validate({"age": "3d", "wait": 3600})


def test_a_rule_is_stored_as_it_was_written() -> None:
    rule = Rule.model_validate({"age": "3d", "wait": 300_000})
    assert rule.model_dump(mode="json", by_alias=True) == {"age": "3d", "trust": "firstSeen", "wait": 300_000}
