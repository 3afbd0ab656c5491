"""Tests that waiting for a swap slot costs a rollout no time."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest

from gateway.docker import runtime_factory
from gateway.model.configuration import Configuration, Order
from gateway.model.deployments import Kind, Outcome, Status, Swap
from gateway.model.errors import Code, DatabaseUnavailable
from gateway.model.reference import Reference
from gateway.model.registries import ANONYMOUS
from gateway.rollout import attempt, recipes
from gateway.rollout.swap_slots import SwapSlots
from gateway.worker.engine_worker import Claimed, EngineWorker, Slots

DEADLINE = 60.0  # seconds
DIGEST = "sha256:" + "0" * 64


class Scene:
    """A rollback to what is kept, on an engine that is not there and has one slot.

    `passed` puts the event loop's clock forward, in seconds.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, order: Order) -> None:
        loop, self.passed = asyncio.get_running_loop(), 0.0
        clock = loop.time
        monkeypatch.setattr(loop, "time", lambda: clock() + self.passed)
        self.slots = SwapSlots(1)
        self.lend_slot: Callable[[], AbstractContextManager[None]] = nullcontext
        self.runtime, self.journal = AsyncMock(), AsyncMock(lost=False)
        self.runtime.longest_call = self.runtime.spec_hash = self.journal.note_step = MagicMock(return_value=1.0)
        self.journal.note_digest = MagicMock()
        self.runtime.find_kept.return_value = Swap("a", "d", "app", "old", None, "new", order=order)
        self.runtime.serving.return_value = MagicMock(healthy=False, digest=DIGEST)
        monkeypatch.setattr(runtime_factory, "open_runtime", AsyncMock(return_value=self.runtime))

    async def roll_back(self) -> Outcome:
        application: Any = MagicMock(configuration=Configuration(), restored_at=None)
        application.name = "app"
        target = attempt.RollbackTarget("before", Reference.parse(f"app@{DIGEST}"), application)
        deployment = MagicMock(kind=Kind.ROLLBACK, deployment_id="d", epoch=1, cancelled_at=None)
        context = attempt.RolloutContext(
            MagicMock(), MagicMock(), MagicMock(), self.slots, MagicMock(), DEADLINE, lend_slot=self.lend_slot
        )
        task = attempt.Task(deployment, application, ANONYMOUS, AsyncMock(), target)
        return await recipes.roll_out(context, task, self.journal, None)


@pytest.mark.parametrize("order", Order)
async def test_a_wait_for_a_slot_extends_the_deadline(monkeypatch: pytest.MonkeyPatch, order: Order) -> None:
    scene = Scene(monkeypatch, order)
    waiting = asyncio.Event()
    scene.journal.record_wait.side_effect = lambda _: waiting.set()
    async with AsyncExitStack() as held:
        await held.enter_async_context(scene.slots.hold("another"))
        rollback = asyncio.create_task(scene.roll_back())
        await waiting.wait()
        scene.passed = 2 * DEADLINE
        scene.journal.clear_wait.assert_not_awaited()
    assert (await rollback).status is Status.SUCCEEDED


@pytest.mark.parametrize("order", Order)
async def test_a_wait_for_a_slot_names_its_holders(monkeypatch: pytest.MonkeyPatch, order: Order) -> None:
    scene = Scene(monkeypatch, order)
    told = asyncio.Event()
    scene.journal.record_wait.side_effect = lambda _: told.set()
    async with scene.slots.hold("another"):
        rollback = asyncio.create_task(scene.roll_back())
        await told.wait()
    await rollback
    scene.journal.record_wait.assert_awaited_once_with("the engine stops and starts 1 at once, now another")
    # The record of the swap, which is written in the slot, ends that of the wait; start-first waits before it is open.
    assert scene.journal.clear_wait.await_count == (1 if order is Order.START_FIRST else 0)
    scene.journal.open_swap.assert_awaited_once()


async def test_a_free_slot_records_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, Order.START_FIRST)
    assert (await scene.roll_back()).status is Status.SUCCEEDED
    scene.journal.record_wait.assert_not_awaited()


async def test_without_time_left_no_swap_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, Order.STOP_FIRST)

    async def slowly(*_: object) -> Swap:
        scene.passed = 2 * DEADLINE
        return Swap("a", "d", "app", "old", None, "new")

    scene.runtime.find_kept = slowly
    outcome = await scene.roll_back()
    assert outcome.reason is not None
    assert (outcome.status, outcome.reason.code) == (Status.FAILED, Code.TIMED_OUT)
    scene.journal.open_swap.assert_not_awaited()
    scene.runtime.discard.assert_awaited_once()


async def test_a_swap_whose_record_cannot_be_written_leaves_no_new_version(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, Order.STOP_FIRST)
    scene.journal.open_swap.side_effect = DatabaseUnavailable("it is away")
    with pytest.raises(DatabaseUnavailable):
        await scene.roll_back()
    scene.runtime.discard.assert_awaited_once()
    scene.runtime.switch_over.assert_not_awaited()


async def test_a_rollout_that_only_waits_to_clean_up_lets_another_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, lent, given_back = Scene(monkeypatch, Order.STOP_FIRST), asyncio.Event(), asyncio.Event()

    @contextmanager
    def lend() -> Iterator[None]:
        lent.set()
        yield
        given_back.set()

    scene.lend_slot = lend
    async with AsyncExitStack() as held:

        async def prove(*_: object, **__: object) -> None:
            await held.enter_async_context(scene.slots.hold("another"))

        scene.runtime.wait_until_ready.side_effect = prove
        rollback = asyncio.create_task(scene.roll_back())
        await lent.wait()
        assert not given_back.is_set()
        scene.runtime.clean_up.assert_not_awaited()
    assert (await rollback).status is Status.SUCCEEDED
    assert given_back.is_set()
    scene.runtime.clean_up.assert_awaited_once()


async def test_a_rollout_that_waits_for_nobody_keeps_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, Order.STOP_FIRST)
    scene.lend_slot = MagicMock()
    assert (await scene.roll_back()).status is Status.SUCCEEDED
    scene.lend_slot.assert_not_called()


async def test_all_swap_before_any_cleans_up_although_fewer_may_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, order, room, pool = Scene(monkeypatch, Order.STOP_FIRST), list[str](), asyncio.Event(), MagicMock()

    async def switch_over(*_: object) -> None:
        for _tick in range(100):
            await asyncio.sleep(0)
        order.append("swap")

    scene.runtime.switch_over.side_effect = switch_over
    scene.runtime.clean_up.side_effect = lambda *_, **__: order.append("clean up")
    pool.make_room.side_effect = room.set
    worker, slots = EngineWorker(MagicMock(), pool, MagicMock(), "engine"), Slots(2, scene.slots, asyncio.Semaphore())

    async def run(claimed: Claimed) -> None:
        scene.lend_slot = claimed.lend_slot
        await scene.roll_back()
        claimed.release()

    async with asyncio.timeout(5), asyncio.TaskGroup() as rollouts:
        for _ in range(6):
            while not worker.hold(slots):
                room.clear()
                await room.wait()
            rollouts.create_task(run(Claimed(MagicMock(), worker, MagicMock(), slots, 0.0)))
    assert order == ["swap"] * 6 + ["clean up"] * 6
    assert slots.free == 2
