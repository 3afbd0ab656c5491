"""Tests that a call is made once for all who want the same, and that each gets its own end."""

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from gateway.single_flight import SingleFlight


class Calls:
    """Calls that answer with their number, once they are let."""

    def __init__(self) -> None:
        self.flights = SingleFlight[int]()
        self.made = self.cancelled = 0
        self.may_end = asyncio.Event()
        self.error: Exception | None = None

    async def make(self) -> int:
        self.made += 1
        number = self.made
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return number

    async def asked(self, *questions: Coroutine[object, object, int]) -> list[asyncio.Task[int]]:
        """Return the tasks of the questions, which wait for their calls by then."""
        tasks = [asyncio.ensure_future(question) for question in questions]
        for _ in range(5):
            await asyncio.sleep(0)
        return tasks


async def test_all_who_want_the_same_meanwhile_share_one_call() -> None:
    calls = Calls()
    first = await calls.asked(calls.flights.join("image", calls.make))
    more = await calls.asked(calls.flights.join("image", calls.make), calls.flights.join("image", calls.make))
    other = await calls.asked(calls.flights.join(("image", "another login"), calls.make))
    calls.may_end.set()
    assert await asyncio.gather(*first, *more, *other) == [1, 1, 1, 2]
    assert await calls.flights.join("image", calls.make) == 3  # nothing is kept


async def test_what_changes_is_asked_again_for_those_who_came_during_a_call() -> None:
    calls = Calls()
    first = await calls.asked(calls.flights.join_next("tag", calls.make))
    later = await calls.asked(*(calls.flights.join_next("tag", calls.make) for _ in range(3)))
    assert calls.made == 1
    calls.may_end.set()
    assert await asyncio.gather(*first, *later) == [1, 2, 2, 2]


async def test_a_failure_is_told_to_each() -> None:
    calls = Calls()
    calls.error = ValueError("denied")
    tasks = await calls.asked(*(calls.flights.join("image", calls.make) for _ in range(3)))
    later = await calls.asked(calls.flights.join_next("image", calls.make))
    calls.may_end.set()
    ended = await asyncio.gather(*tasks, *later, return_exceptions=True)
    assert [str(one) for one in ended] == ["denied"] * 4
    assert calls.made == 2


@pytest.mark.parametrize("how", [SingleFlight.join, SingleFlight.join_next])
async def test_a_cancelled_one_leaves_the_call_to_the_others_and_the_last_one_ends_it(
    how: Callable[..., Coroutine[object, object, int]],
) -> None:
    calls = Calls()
    first, second, third = await calls.asked(*(how(calls.flights, "image", calls.make) for _ in range(3)))
    for leaving in (first, second):
        leaving.cancel()
        await asyncio.wait([leaving])
    assert (calls.made, calls.cancelled) == (1, 0)
    third.cancel()
    await asyncio.wait([third])
    assert (calls.made, calls.cancelled) == (1, 1)
    calls.may_end.set()
    assert await how(calls.flights, "image", calls.make) == 2
