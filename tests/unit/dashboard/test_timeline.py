"""The bars of a deployment's timeline."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.dashboard.pages.deployment import timeline

BEGAN = datetime(2026, 11, 30, tzinfo=UTC)


def step(name: str, begins: float, ends: float | None) -> dict[str, Any]:
    def at(seconds: float | None) -> str | None:
        return None if seconds is None else (BEGAN + timedelta(seconds=seconds)).isoformat()

    return {"step": name, "detail": "", "startedAt": at(begins), "finishedAt": at(ends)}


def test_attempts_are_kept_apart_with_the_wait_between_them() -> None:
    bars = timeline(
        BEGAN,
        [step("resolve", 0, 1), step("pull", 1, None), step("resolve", 11, 12), step("pull", 12, 13)],
        BEGAN + timedelta(seconds=13),
    )
    assert [(bar.step, bar.attempt) for bar in bars] == [
        ("resolve", 1),
        ("pull", 1),
        ("resolve", 2),
        ("pull", 2),
    ] or [bar.attempt for bar in bars if bar.step == "resolve"] == [1, 2]


def test_a_wait_in_the_queue_is_a_bar() -> None:
    bars = timeline(BEGAN, [step("resolve", 4, 5)], BEGAN + timedelta(seconds=5))
    assert [(bar.step, bar.milliseconds) for bar in bars] == [("waited", 4000), ("resolve", 1000)]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["settle", "resolve", "pull", "swap"]),
            st.floats(-10, 1e6),
            st.none() | st.floats(-10, 1e6),
        ),
        max_size=12,
    )
)
def test_each_bar_lies_within_the_picture(steps: list[tuple[str, float, float | None]]) -> None:
    for bar in timeline(BEGAN, [step(*one) for one in steps], BEGAN + timedelta(seconds=5)):
        assert 0 <= bar.left <= bar.left + bar.width <= 600.1
