"""What changes all the time is let through so often at once, and then once in an interval; the others are counted."""

from gateway.worker.change_budget import ChangeBudget

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
        refused = budget.take("web")
        if refused is not None:
            allowed, counted = allowed + 1, counted + refused
        clock.now += 1
    assert allowed <= 20 + day / INTERVAL
    assert allowed + counted > day - INTERVAL, "only those since the last one are not told yet"


def test_one_that_changes_too_often_holds_up_no_other() -> None:
    budget = ChangeBudget(2, INTERVAL, clock=Clock())
    assert [budget.take("web") for _ in range(4)] == [0, 0, None, None]
    assert (budget.is_empty("web"), budget.is_empty("shop")) == (True, False)
    assert budget.take("shop") == 0


def test_names_that_come_once_are_not_remembered_for_ever() -> None:
    clock = Clock()
    budget = ChangeBudget(2, INTERVAL, clock=clock)
    most = 0
    for number in range(10_000):
        budget.take(number)
        clock.now += 1
        most = max(most, budget.known)
    assert most <= 2 * INTERVAL + 1
