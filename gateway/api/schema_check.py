"""Reject requests once a newer gateway has migrated the database to a schema that this one does not know."""

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

_INTERVAL = 2.0  # seconds between two checks
#: paths that are answered nevertheless, since they report on the gateway itself
_ALWAYS_ANSWERED = frozenset({"/", "/healthz", "/readyz", "/metrics", "/api/health"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class SchemaCheck:
    """Whether the gateway is too old for its database: `outdated` is the reason, as last checked, "" if it is not."""

    def __init__(self) -> None:
        self.outdated = ""
        self._check: asyncio.Task[str] | None = None

    async def check(self, pool: Pool) -> str:
        """Return the reason; raises Unavailable. Callers at the same time share one query."""
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._query(pool), name="schema")
        return await asyncio.shield(self._check)

    async def _query(self, pool: Pool) -> str:
        async with statement(pool) as connection:
            newer = await migrate.select_newer(connection)
        reason = "" if newer is None else migrate.too_old(newer)
        if reason and not self.outdated:
            _LOG.error("This gateway is too old for its database: it stops deploying and rejects requests", why=reason)
        self.outdated = reason
        return reason

    async def check_forever(self, pool: Pool) -> None:
        while True:
            await self.check(pool)
            await asyncio.sleep(_INTERVAL)


SCHEMA_CHECK = web.AppKey("schema_check", SchemaCheck)


async def run_checker(application: web.Application) -> AsyncIterator[None]:
    """Run the task that checks the schema for as long as the application runs."""
    check = partial(application[SCHEMA_CHECK].check_forever, application[CONTEXT].pool)
    async with application[CONTEXT].rollouts.background_tasks.running("schema", check):
        yield


@web.middleware
async def reject_when_outdated(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Raise Unavailable where the gateway is too old for its database."""
    reason = request.app[SCHEMA_CHECK].outdated
    if reason and request.path not in _ALWAYS_ANSWERED:
        raise Unavailable(reason)
    return await handler(request)
