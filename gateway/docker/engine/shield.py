"""What must not be left half done when we are told to stop."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def run_to_completion(act: Coroutine[object, object, T]) -> T:
    """Do it to its end: a cancellation is raised after that, and only a second one breaks it off."""
    task = asyncio.ensure_future(act)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(Exception):
            await task
        raise
