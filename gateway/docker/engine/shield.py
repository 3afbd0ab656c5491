"""Protects an action from being cancelled halfway."""

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
