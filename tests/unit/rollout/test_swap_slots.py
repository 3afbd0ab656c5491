"""Tests that the number of swaps at once is the one that an engine does best."""

import asyncio
from collections.abc import Callable

import pytest

from gateway.rollout import swap_slots
from gateway.rollout.swap_slots import SwapSlots, SwapWidth


def _settled(width: SwapWidth, seconds: Callable[[int], float], swaps: int = 200) -> int:
    """Return the width after so many swaps, each of which takes what it takes at that width."""
    for _ in range(swaps):
        width.observe(width.now, seconds(width.now))
        width.choose(waiting=100)
    return width.now


def _serial(processors: int) -> Callable[[int], float]:
    """Return the duration of a swap on an engine with so many processors, of which each swap takes one."""
    return lambda width: 0.3 * max(1.0, width / processors)


@pytest.mark.parametrize(("processors", "best"), [(1, 1), (2, 2), (4, 4), (8, 8), (99, 16)])
def test_the_width_follows_what_the_engine_does_at_once(processors: int, best: int) -> None:
    width = SwapWidth()
    for _ in range(8):
        width.observe(1, 0.3)  # alone
    assert _settled(width, _serial(processors)) == best


def test_a_wider_number_that_is_worse_costs_few_swaps() -> None:
    width, widths = SwapWidth(), list[int]()
    for _ in range(40):
        widths.append(width.now)
        width.observe(width.now, _serial(1)(width.now))
        width.choose(waiting=100)
    assert widths.count(4) == 3
    assert max(widths) == 4


def test_a_wider_number_is_not_tried_for_the_few_that_are_left() -> None:
    width = SwapWidth()
    for waiting in range(15, 0, -1):
        width.observe(2, 0.3)
        assert width.choose(waiting) == 2
    assert width.choose(100) == 4


def test_in_doubt_the_width_stays_small() -> None:
    # As much worth at any width.
    assert _settled(SwapWidth(), lambda width: 0.3 * width**0.5) == 2


def test_the_width_falls_when_the_machine_becomes_busy_and_rises_again() -> None:
    now = [0.0]
    width = SwapWidth(lambda: now[0])
    assert _settled(width, _serial(8)) >= 8
    assert _settled(width, _serial(2)) <= 4
    now[0] = 3600.0
    assert _settled(width, _serial(8)) >= 8


def test_a_width_that_gains_less_than_each_outage_loses_is_left_although_some_swaps_were_quick() -> None:
    # Two processors that also do other things, as they were measured: four at once are hardly done sooner than two.
    width, widths = SwapWidth(), list[int]()
    seconds, quick = {1: 0.39, 2: 0.52, 4: 0.77}, 0.86
    for number in range(200):
        widths.append(width.now)
        width.observe(width.now, seconds[width.now] * (quick if width.now == 4 and number % 2 else 1.0))
        width.choose(waiting=100)
    assert widths.count(4) == 3
    assert width.now == 2


def test_swaps_one_at_a_time_say_nothing_against_the_first_width() -> None:
    width = SwapWidth()
    for _ in range(8):
        width.observe(1, 0.39)
    for _ in range(100):
        width.observe(2, 0.52)
        assert width.choose(waiting=10) == 2


async def test_a_given_limit_is_kept() -> None:
    assert await _most_at_once(SwapSlots(5), lambda _: 0.0) == 5


async def test_without_a_limit_the_slots_follow_the_engine() -> None:
    assert await _most_at_once(SwapSlots(None), lambda _: 0.001) > 2


async def _most_at_once(slots: SwapSlots, seconds: Callable[[int], float]) -> int:
    """Return how many of a hundred swaps held a slot at once, at most."""
    held, most = 0, 0

    async def swap(name: str) -> None:
        nonlocal held, most
        async with slots.hold(name):
            held += 1
            most = max(most, held)
            await asyncio.sleep(seconds(held))
            held -= 1

    await asyncio.gather(*(swap(str(number)) for number in range(100)))
    assert slots.waits_for is None
    return most


async def test_slots_are_crowded_once_those_that_come_take_the_last_one() -> None:
    slots = SwapSlots(2)
    with slots.coming():
        assert not slots.crowded
        with slots.coming():
            assert slots.crowded
        async with slots.hold("one"):
            assert slots.crowded
    async with slots.hold("one"):
        assert not slots.crowded
        async with slots.hold("another"):
            assert slots.crowded
    assert not slots.crowded


async def test_what_is_not_urgent_comes_after_those_who_wait_for_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    slots, order = SwapSlots(1), list[str]()

    async def tidy() -> None:
        await slots.let_others_first()
        order.append("tidied")

    async def swap(name: str) -> None:
        async with slots.hold(name):
            order.append(name)
            await asyncio.sleep(0)

    await tidy()  # nobody waits
    await asyncio.gather(swap("one"), swap("two"), swap("three"), tidy())
    assert order == ["tidied", "one", "two", "three", "tidied"]
    monkeypatch.setattr(swap_slots, "_PATIENCE", 0.0)
    async with slots.hold("slow"):
        waits = asyncio.create_task(swap("next"))
        await asyncio.sleep(0)
        await tidy()  # not for ever
    await waits
