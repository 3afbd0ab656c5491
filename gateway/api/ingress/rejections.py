"""Requests to endpoints that were rejected, counted in the inbox.

Anybody can send such a request, so it must not cost a database statement of its own. All that come within a second are
written together, in one row for each endpoint and reason.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import partial

import structlog
from aiohttp import web

from gateway.api.context import CONTEXT
from gateway.model.deliveries import redact_headers
from gateway.model.endpoints import Endpoint
from gateway.model.errors import Unavailable
from gateway.store import delivery_log
from gateway.store.database import statement

_LOG = structlog.get_logger()
_INTERVAL = 1.0  # seconds between two writes
_MAX_ROWS = 1000  # endpoints and reasons in one interval; more are not counted
_MAX_REASON = 300  # characters

PENDING: web.AppKey[dict[tuple[str, str], delivery_log.Refusals]] = web.AppKey("pending_rejections", dict)


def count(application: web.Application, endpoint: Endpoint, reason: str, headers: Mapping[str, str]) -> None:
    """Count one rejected request; it is written within a second."""
    pending, reason = application[PENDING], reason[:_MAX_REASON]
    key = (endpoint.endpoint_id, reason)
    if key not in pending:
        if len(pending) >= _MAX_ROWS:
            return
        pending[key] = delivery_log.Refusals(
            endpoint.endpoint_id, endpoint.source, reason, headers=redact_headers(headers, endpoint.secrets)
        )
    pending[key].times += 1


async def run_writer(application: web.Application) -> AsyncIterator[None]:
    """Run the task that writes for as long as the application runs, and write the rest when it stops."""
    application[PENDING] = {}
    async with application[CONTEXT].rollouts.background_tasks.running("refusals", partial(_write_forever, application)):
        yield
    try:
        await _write(application)
    except Exception:
        _LOG.exception("The last rejected requests are not in the inbox")


async def _write_forever(application: web.Application) -> None:
    while True:
        await asyncio.sleep(_INTERVAL)
        await _write(application)


async def _write(application: web.Application) -> None:
    pending = application[PENDING].copy()
    if not pending:
        return
    application[PENDING].clear()
    try:
        async with statement(application[CONTEXT].pool) as connection:
            await delivery_log.add_refusals(connection, list(pending.values()))
    except Unavailable:
        _LOG.warning("Rejected requests are not in the inbox: the database does not answer", refusals=len(pending))
