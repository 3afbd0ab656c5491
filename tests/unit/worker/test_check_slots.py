"""Who is checked first when many engines wait for a check."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from gateway.worker.check_slots import CheckSlots


class Checks:
    """Checks that each end when they are told to."""

    def __init__(self, most: int, *, spare: int = 0, patience: float = 600.0) -> None:
        self.slots = CheckSlots(most, spare=spare, patience=patience)
        self.begun: list[str] = []
        #: called as soon as the slot is given back
        self.afterwards: dict[str, Callable[[], None]] = {}
        self._begins: dict[str, asyncio.Event] = {}
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, who: str, *, urgent: bool = False) -> None:
        self._begins[who], self._ends[who] = asyncio.Event(), asyncio.Event()
        self._tasks[who] = asyncio.create_task(self._check(who, urgent))
        await asyncio.sleep(0)

    async def _check(self, who: str, urgent: bool) -> None:
        async with self.slots.hold(who, urgent=urgent):
            self.begun.append(who)
            self._begins[who].set()
            await self._ends[who].wait()
        self.afterwards.get(who, lambda: None)()

    async def end(self, *names: str) -> None:
        for who in names:
            self._ends[who].set()
            await self._tasks[who]
            await asyncio.sleep(0)

    async def has_begun(self, who: str) -> None:
        await self._begins[who].wait()

    def stop(self, who: str) -> None:
        self._tasks[who].cancel()

    async def cancel(self, who: str) -> None:
        self._tasks[who].cancel()
        with suppress(asyncio.CancelledError):
            await self._tasks[who]


async def test_the_urgent_come_first_and_those_alike_in_the_order_they_came() -> None:
    checks = Checks(1)
    for who in ("first", "a", "b", "c"):
        await checks.ask(who)
    await checks.ask("urgent", urgent=True)
    for who in ("b", "c", "not waiting"):
        checks.slots.hurry(who)
    assert checks.begun == ["first"]
    await checks.end("first", "urgent", "b", "c", "a")
    assert checks.begun == ["first", "urgent", "b", "c", "a"]


async def test_so_many_run_at_once_and_a_slot_of_one_that_is_cancelled_is_free_again() -> None:
    checks = Checks(2)
    for who in ("a", "b", "waiting", "c", "d"):
        await checks.ask(who)
    await checks.cancel("waiting")
    await checks.cancel("a")
    await asyncio.sleep(0)
    assert checks.begun == ["a", "b", "c"]
    await checks.end("b", "c", "d")
    await checks.ask("e")
    await checks.ask("f")
    assert checks.begun == ["a", "b", "c", "d", "e", "f"]
    await checks.end("e", "f")


async def test_a_slot_that_is_given_to_one_that_is_cancelled_at_the_same_moment_goes_to_the_next() -> None:
    checks = Checks(1)
    for who in ("a", "b", "c"):
        await checks.ask(who)
    checks.afterwards["a"] = lambda: checks.stop("b")
    await checks.end("a")
    await checks.cancel("b")
    await asyncio.sleep(0)
    assert checks.begun == ["a", "c"]
    await checks.end("c")


async def test_the_urgent_have_slots_more() -> None:
    checks = Checks(1, spare=1)
    for who in ("a", "b", "c"):
        await checks.ask(who)
    await checks.ask("urgent", urgent=True)
    checks.slots.hurry("c")
    assert checks.begun == ["a", "urgent"]
    await checks.end("a", "urgent")
    assert checks.begun == ["a", "urgent", "c"]
    await checks.end("c")
    assert checks.begun == ["a", "urgent", "c", "b"]
    await checks.end("b")


async def test_a_check_that_hangs_holds_up_no_other_and_frees_its_slot_once() -> None:
    checks = Checks(1, patience=0.01)
    for who in ("hangs", "hangs too", "next"):
        await checks.ask(who)
    await checks.has_begun("next")
    await checks.end("hangs", "hangs too", "next")
    checks = Checks(1, patience=0.01)
    await checks.ask("a")
    await checks.end("a")
    await asyncio.sleep(0.02)
    for who in ("b", "c"):
        await checks.ask(who)
    assert checks.begun == ["a", "b"]
    await checks.end("b", "c")
