"""The trace of a deployment: one, whatever restarts there were."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.model.deployments import Deployment, Kind, Status, Step, StepRecord
from gateway.model.traces import spans, trace_id

AT = datetime(2026, 1, 1, tzinfo=UTC)
ID = "44bf18ad-8575-4c39-a508-3c9dd35943cf"


def second(number: float) -> datetime:
    return AT + timedelta(seconds=number)


def deployment(**changes: Any) -> Deployment:
    made = Deployment(
        deployment_id=ID, application_id="a1", kind=Kind.DEPLOY, forced=False, status=Status.SUCCEEDED, title="",
        description="", reference=None, expected_digest=None, digest=None, attempts=2, created_at=second(1),
        requested_at=second(1), next_attempt_at=second(1), started_at=second(2), finished_at=second(9), reason=None,
        log="", superseded_by=None, rolls_back_to=None, epoch=2, cancelled_at=None,
    )  # fmt: skip
    return replace(made, **changes)


def test_a_push_is_one_trace_from_its_arrival_over_a_kill_to_its_end() -> None:
    steps = [
        StepRecord(Step.RESOLVE, "", second(2), second(3)),
        StepRecord(Step.PULL, "half", second(3), None),  # killed
        StepRecord(Step.PULL, "", second(6), second(8)),
    ]
    whole, *parts = spans(deployment(), "web", second(0), steps)
    took = [
        (one["name"], (int(one["endTimeUnixNano"]) - int(one["startTimeUnixNano"])) / 1e9, one["status"]["code"])
        for one in (whole, *parts)
    ]
    assert took == [
        ("deploy web", 9, 1),
        ("accept", 1, 1),
        ("queue", 1, 1),
        ("resolve", 1, 1),
        ("pull", 3, 2),
        ("pull", 2, 1),
    ]
    assert {one["traceId"] for one in (whole, *parts)} == {ID.replace("-", "")}
    assert {one["parentSpanId"] for one in parts} == {whole["spanId"]}
    assert len({one["spanId"] for one in (whole, *parts)}) == 6


def test_a_clock_that_was_set_back_makes_no_span_that_ends_before_it_begins() -> None:
    steps = [StepRecord(Step.RESOLVE, "", second(5), second(4))]
    for one in spans(deployment(finished_at=second(0)), "web", None, steps):
        assert int(one["endTimeUnixNano"]) >= int(one["startTimeUnixNano"])


def test_an_id_that_is_no_uuid_has_a_trace_too_and_what_has_not_ended_has_none() -> None:
    assert len(trace_id("app-123")) == 32
    with pytest.raises(ValueError, match="has not ended"):
        spans(deployment(status=Status.QUEUED, finished_at=None), "web", None, [])
