"""Notify the workers that there are deployments to claim: our own at once, other gateways by PostgreSQL's NOTIFY.

The first commit is notified at once; those of the twentieth of a second that follows share the next notification.
"""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import structlog
from aiohttp import web

from gateway.api.context import CONTEXT
from gateway.model.errors import Unavailable
from gateway.store import queue
from gateway.store.database import statement

_LOG = structlog.get_logger()
_INTERVAL = 0.05  # seconds between two notifications

#: set while other gateways are to be notified
REQUESTED = web.AppKey("notification_requested", asyncio.Event)


def notify_workers(application: web.Application) -> None:
    """Wake our own worker at once, and those of other gateways soon."""
    application[CONTEXT].rollouts.wake()
    application[REQUESTED].set()


async def run_notifier(application: web.Application) -> AsyncIterator[None]:
    """Run the task that notifies other gateways for as long as the application runs."""
    application[REQUESTED] = asyncio.Event()
    async with application[CONTEXT].rollouts.background_tasks.running("notify", partial(_notify_forever, application)):
        yield


async def _notify_forever(application: web.Application) -> None:
    requested, pool = application[REQUESTED], application[CONTEXT].pool
    while True:
        await requested.wait()
        requested.clear()
        try:
            async with statement(pool) as connection:
                await queue.notify(connection)
        except Unavailable:
            _LOG.warning("Other gateways are not notified: they poll the queue instead")
        await asyncio.sleep(_INTERVAL)
