"""Tells the other gateways that there may be something to claim: many commits, one notification."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import structlog
from aiohttp import web

from gateway.api.context import CONTEXT
from gateway.model.errors import Unavailable
from gateway.store import deployments
from gateway.store.database import transaction

_LOG = structlog.get_logger()
_GATHER = 0.05  # seconds in which commits are told as one

WANTED = web.AppKey("wanted", asyncio.Event)


def tell(application: web.Application) -> None:
    """Wake our own supervisor at once, and the others soon."""
    application[CONTEXT].rollouts.wake()
    application[WANTED].set()


async def notifying(application: web.Application) -> AsyncIterator[None]:
    """Own the task that notifies, for as long as the application lives."""
    async with application[CONTEXT].rollouts.background_tasks.running("notify", partial(_notify_for_ever, application)):
        yield


async def _notify_for_ever(application: web.Application) -> None:
    wanted, pool = application[WANTED], application[CONTEXT].pool
    while True:
        await wanted.wait()
        await asyncio.sleep(_GATHER)
        wanted.clear()
        try:
            async with transaction(pool) as connection:
                await deployments.notify(connection)
        except Unavailable:
            _LOG.warning("The other gateways are not told; they look by themselves")
