"""Durations in rules."""

from datetime import timedelta

import pytest
from pydantic import ValidationError

from gateway.gates import maturity, window
from gateway.gates._duration import format_duration, parse_duration


@pytest.mark.parametrize("text", ["90s", "30m", "36h", "3d", "366d"])
def test_a_duration_is_written_as_it_was_read(text: str) -> None:
    assert format_duration(parse_duration(text)) == text


def test_whole_numbers_count_seconds() -> None:
    assert parse_duration(7200) == timedelta(hours=2)


@pytest.mark.parametrize(
    "given", ["", "0s", "367d", "1.5h", "-1h", "1h30m", "99999999d", "h", "٣d", 0, -1, 0.5, True, None, [], 1e300]
)
def test_what_is_no_duration_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="90s"):
        parse_duration(given)


@pytest.mark.parametrize("wait", ["inf", "nan", 0, -1, 1e300])
def test_a_wait_is_bounded(wait: object) -> None:
    with pytest.raises(ValidationError, match="wait"):
        window.Rule.model_validate({"windows": [{"zone": "UTC"}], "wait": wait})
    with pytest.raises(ValidationError, match="wait"):
        maturity.Rule.model_validate({"age": "3d", "wait": wait})
