"""Answers in time, whatever the database does."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from typing import Any, TypeVar

import structlog
from aiohttp import web

from gateway.model.errors import Unavailable

_LOG = structlog.get_logger()

_T = TypeVar("_T")

#: what goes on after its sender was told to try again
UNANSWERED = web.AppKey("unanswered", set[asyncio.Task[Any]])


async def in_time(application: web.Application, seconds: float, work: Coroutine[Any, Any, _T]) -> _T:
    """Return its result; raises Unavailable once the sender should not wait longer.

    The work goes on: what it stores then makes a duplicate of the sender's next attempt.
    """
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if done:
        return task.result()
    application[UNANSWERED].add(task)
    task.add_done_callback(partial(_ended_late, application[UNANSWERED]))
    raise Unavailable("the database does not answer in time: try again")


def _ended_late(unanswered: set[asyncio.Task[Any]], task: asyncio.Task[Any]) -> None:
    unanswered.discard(task)
    failed = None if task.cancelled() else task.exception()
    _LOG.info("Ended after its sender was told to try again", failed=None if failed is None else str(failed))


async def finishing(application: web.Application) -> AsyncIterator[None]:
    """Leave nothing behind when the application ends."""
    application[UNANSWERED] = set()
    yield
    for task in application[UNANSWERED]:
        task.cancel()
    await asyncio.gather(*application[UNANSWERED], return_exceptions=True)
