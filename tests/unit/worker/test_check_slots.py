"""Who is checked first when many engines wait for a check."""

import asyncio
from contextlib import suppress

from gateway.worker.check_slots import CheckSlots


class Checks:
    """Checks that each end when they are told to."""

    def __init__(self, most: int) -> None:
        self.slots = CheckSlots(most)
        self.begun: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, who: str, *, urgent: bool = False) -> None:
        self._ends[who] = asyncio.Event()
        self._tasks[who] = asyncio.create_task(self._check(who, urgent))
        await asyncio.sleep(0)

    async def _check(self, who: str, urgent: bool) -> None:
        async with self.slots.hold(who, urgent=urgent):
            self.begun.append(who)
            await self._ends[who].wait()

    async def end(self, *names: str) -> None:
        for who in names:
            self._ends[who].set()
            await self._tasks[who]
            await asyncio.sleep(0)

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
    checks.slots._give()  # noqa: SLF001 - as the end of `a`, before `b` can run
    await checks.cancel("b")
    await asyncio.sleep(0)
    assert checks.begun == ["a", "c"]
    await checks.end("a", "c")
