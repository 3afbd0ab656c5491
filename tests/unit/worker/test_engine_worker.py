"""When a periodic task of an engine runs again, and how many rollouts there are."""

import asyncio
from unittest.mock import MagicMock

import pytest

from gateway.rollout.swap_slots import SwapSlots
from gateway.worker import engine_worker
from gateway.worker.engine_worker import Claimed, EngineWorker, Slots, _wait

_NEVER = 600.0  # seconds


@pytest.fixture(autouse=True)
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_worker, "POLL_INTERVAL", 0.01)


async def test_events_before_the_pause_are_handled_together() -> None:
    event = asyncio.Event()
    for _ in range(3):
        event.set()
    await _wait(event, _NEVER)
    assert not event.is_set()


async def test_an_event_shortly_before_an_observation_causes_another_one() -> None:
    event = asyncio.Event()
    event.set()
    waiting = asyncio.create_task(_wait(event, _NEVER))
    await asyncio.sleep(0)
    assert not event.is_set()
    event.set()  # during the pause: the observation after it may come before the change can be seen
    await waiting
    await _wait(event, _NEVER)
    assert not event.is_set()


async def test_without_an_event_it_waits_for_as_long_as_given() -> None:
    event = asyncio.Event()
    await _wait(event, 0.01)
    assert not event.is_set()


async def test_a_lent_slot_lets_one_more_rollout_begin_and_counts_again_afterwards() -> None:
    pool = MagicMock()
    worker = EngineWorker(MagicMock(), pool, MagicMock(), "unix:///nowhere")
    slots = Slots(1, SwapSlots(1), asyncio.Semaphore())
    assert worker.hold(slots)
    first = Claimed(MagicMock(), worker, MagicMock(), slots, 0.0)
    assert not worker.hold(slots)
    with first.lend_slot():
        pool.make_room.assert_called_once()
        assert worker.hold(slots)
        assert not worker.hold(slots)
    assert worker.running == 2
    worker.release(slots)  # one of the two has ended
    assert not worker.hold(slots)
    first.release()
    assert worker.hold(slots)
