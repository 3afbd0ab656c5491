import asyncio

import pytest

from gateway.docker.engine.shield import run_to_completion


async def begun(ended: list[str], go_on: asyncio.Event) -> None:
    try:
        await go_on.wait()
        ended.append("done")
    except asyncio.CancelledError:
        ended.append("broken off")
        raise


async def test_a_cancelled_task_completes_the_shielded_action() -> None:
    ended: list[str] = []
    go_on = asyncio.Event()
    task = asyncio.create_task(run_to_completion(begun(ended, go_on)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["done"]


async def test_a_second_cancellation_interrupts_the_action() -> None:
    ended: list[str] = []
    task = asyncio.create_task(run_to_completion(begun(ended, asyncio.Event())))
    for _ in range(2):
        await asyncio.sleep(0.01)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["broken off"]


async def test_an_error_of_the_action_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("so")

    with pytest.raises(ValueError, match="so"):
        await run_to_completion(fail())
