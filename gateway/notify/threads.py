"""Runs what blocks in a thread of its own: however many of them hang, nothing else waits for a thread.

Whoever calls bounds how many there are. The process does not wait for them when it ends.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


async def run_in_own_thread(act: Callable[[], T]) -> T:
    """Return what it returns, or raise what it raises. When this is cancelled, the thread goes on."""
    result: Future[T] = Future()
    result.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result.set_result(act())
        except BaseException as error:
            result.set_exception(error)

    Thread(target=run, name="notify", daemon=True).start()
    return await asyncio.wrap_future(result)
