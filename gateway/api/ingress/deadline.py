"""Respond to senders in time, however long the database takes."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from typing import Any, TypeVar

import structlog
from aiohttp import web

from gateway.model.errors import Unavailable
from gateway.queue.accept import LATE

_LOG = structlog.get_logger()

_T = TypeVar("_T")

#: tasks that go on after their senders were asked to try again
LATE_TASKS = web.AppKey("late_tasks", set[asyncio.Task[Any]])


async def respond_within(application: web.Application, seconds: float, work: Coroutine[Any, Any, _T]) -> _T:
    """Return the result of the work; raises Unavailable after so many seconds.

    The work goes on after that. If it stores the delivery, the sender's next attempt is a duplicate.
    """
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if done:
        return task.result()
    application[LATE_TASKS].add(task)
    task.add_done_callback(partial(_log_late, application[LATE_TASKS]))
    raise Unavailable(LATE)


def _log_late(late: set[asyncio.Task[Any]], task: asyncio.Task[Any]) -> None:
    late.discard(task)
    error = None if task.cancelled() else task.exception()
    _LOG.info(
        "Finished a request after its sender was asked to try again", failed=None if error is None else str(error)
    )


async def cancel_late_tasks(application: web.Application) -> AsyncIterator[None]:
    """Cancel the tasks that are still running when the application stops."""
    application[LATE_TASKS] = set()
    yield
    for task in application[LATE_TASKS]:
        task.cancel()
    await asyncio.gather(*application[LATE_TASKS], return_exceptions=True)
