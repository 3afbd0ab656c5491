"""What was refused, counted: it has proven nothing, so it costs no statement of its own and little to keep."""

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
_GATHER = 1.0  # seconds whose refusals are written as one
_MOST = 1000  # of endpoints and reasons in that time
_LONGEST_REASON = 300

COUNTED: web.AppKey[dict[tuple[str, str], delivery_log.Refusals]] = web.AppKey("refusals", dict)


def count(application: web.Application, endpoint: Endpoint, reason: str, headers: Mapping[str, str]) -> None:
    """Count one; it is written soon."""
    counted, reason = application[COUNTED], reason[:_LONGEST_REASON]
    key = (endpoint.endpoint_id, reason)
    if key not in counted:
        if len(counted) >= _MOST:
            return
        counted[key] = delivery_log.Refusals(
            endpoint.endpoint_id, endpoint.source, reason, headers=redact_headers(headers, endpoint.secrets)
        )
    counted[key].times += 1


async def writing(application: web.Application) -> AsyncIterator[None]:
    """Own the task that writes, for as long as the application lives; what is left is written at the end."""
    application[COUNTED] = {}
    async with application[CONTEXT].rollouts.background_tasks.running(
        "refusals", partial(_write_for_ever, application)
    ):
        yield
    try:
        await _write(application)
    except Exception:
        _LOG.exception("What was refused last is not written down")


async def _write_for_ever(application: web.Application) -> None:
    while True:
        await asyncio.sleep(_GATHER)
        await _write(application)


async def _write(application: web.Application) -> None:
    counted = application[COUNTED].copy()
    if not counted:
        return
    application[COUNTED].clear()
    try:
        async with statement(application[CONTEXT].pool) as connection:
            await delivery_log.add_refusals(connection, list(counted.values()))
    except Unavailable:
        _LOG.warning("Refusals are not written down: the database does not answer", refusals=len(counted))
