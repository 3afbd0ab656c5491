"""Answers clearly once a newer gateway has changed the database in a way that this one does not know."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import structlog
from aiohttp import web

from gateway.api.context import CONTEXT
from gateway.model.errors import Unavailable
from gateway.store import migrate
from gateway.store.database import Pool, statement

_LOG = structlog.get_logger()

_LOOK_AGAIN = 2.0  # seconds
#: what is answered all the same, since it tells of the gateway itself
_ANSWERED = frozenset({"/", "/healthz", "/readyz", "/metrics", "/api/health"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Outdated:
    """`why` the gateway is too old for its database, as it was seen last; "" where it is not."""

    def __init__(self) -> None:
        self.why = ""
        self._look: asyncio.Task[str] | None = None

    async def look(self, pool: Pool) -> str:
        """Return why it is, by one look for all who ask meanwhile; raises Unavailable."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._looked(pool), name="schema")
        return await asyncio.shield(self._look)

    async def _looked(self, pool: Pool) -> str:
        async with statement(pool) as connection:
            newer = await migrate.select_newer(connection)
        why = "" if newer is None else migrate.too_old(newer)
        if why and not self.why:
            _LOG.error("This gateway is too old: it rolls out nothing more, and refuses requests", why=why)
        self.why = why
        return why

    async def look_for_ever(self, pool: Pool) -> None:
        while True:
            await self.look(pool)
            await asyncio.sleep(_LOOK_AGAIN)


OUTDATED = web.AppKey("outdated", Outdated)


async def looking(application: web.Application) -> AsyncIterator[None]:
    """Know it while the application lives."""
    look = partial(application[OUTDATED].look_for_ever, application[CONTEXT].pool)
    async with application[CONTEXT].rollouts.background_tasks.running("schema", look):
        yield


@web.middleware
async def refuse_outdated(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let nothing be done by a gateway that is too old; raises Unavailable."""
    why = request.app[OUTDATED].why
    if why and request.path not in _ANSWERED:
        raise Unavailable(why)
    return await handler(request)
