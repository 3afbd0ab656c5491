"""Protects actions from being abandoned halfway."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


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


async def complete_both(one: Coroutine[object, object, T], other: Coroutine[object, object, U]) -> tuple[T, U]:
    """Run the coroutines at once, and return when both have ended. Raises the error of the first that failed."""
    first, second = await asyncio.gather(one, other, return_exceptions=True)
    if isinstance(first, BaseException):
        raise first
    if isinstance(second, BaseException):
        raise second
    return first, second
