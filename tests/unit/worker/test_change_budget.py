"""What changes all the time is let through so often at once, and then once in an interval; the others are counted."""

import pytest

from gateway.worker import change_budget
from gateway.worker.change_budget import ChangeBudget, Verdict

INTERVAL = 300.0


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_day_of_a_change_each_second_lets_few_through_and_counts_the_others() -> None:
    clock = Clock()
    budget = ChangeBudget(20, INTERVAL, clock=clock)
    allowed, counted, day = 0, 0, 86_400
    for _ in range(day):
        verdict = budget.take("web")
        if verdict.allowed:
            allowed, counted = allowed + 1, counted + verdict.refused_before
        clock.now += 1
    assert allowed <= 20 + day / INTERVAL
    assert allowed + counted > day - INTERVAL, "only those since the last one are not counted yet"


def test_one_that_changes_too_often_holds_up_no_other() -> None:
    budget = ChangeBudget(2, INTERVAL, clock=Clock())
    assert [budget.take("web").allowed for _ in range(4)] == [True, True, False, False]
    assert budget.take("web") == Verdict(allowed=False, refused_before=2)
    assert budget.take("shop") == Verdict(allowed=True, refused_before=0)


def test_refusals_of_ever_new_names_are_not_counted_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_budget, "_MOST_COUNTED", 3)
    budget = ChangeBudget(1, INTERVAL, clock=Clock())
    for number in range(4):
        assert [budget.take(number).allowed for _ in range(2)] == [True, False]
    assert budget.take(3) == Verdict(allowed=False, refused_before=1)
    assert budget.take(0) == Verdict(allowed=False, refused_before=0), "forgotten"
