"""When a periodic task of an engine runs again."""

import asyncio

import pytest

from gateway.worker import engine_worker
from gateway.worker.engine_worker import _wait

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
