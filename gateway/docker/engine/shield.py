"""Protects actions from being abandoned halfway."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def run_to_completion(act: Coroutine[object, object, T]) -> T:
    """Run the coroutine to its end, even when this task is cancelled.

    The cancellation is raised afterwards. Only a second cancellation interrupts the coroutine.
    """
    task = asyncio.ensure_future(act)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(Exception):
            await task
        raise


async def complete_all(*acts: Coroutine[object, object, None]) -> None:
    """Run the coroutines at once, and return when all have ended. Raises the error of the first that failed."""
    for error in await asyncio.gather(*acts, return_exceptions=True):
        if error is not None:
            raise error
