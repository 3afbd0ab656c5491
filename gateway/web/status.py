"""Is it alive, can it accept, what has it done."""

import prometheus_client
from aiohttp import web
from prometheus_client import Gauge

from gateway.errors import Unavailable
from gateway.store import deployments
from gateway.store.database import transaction
from gateway.web.context import CONTEXT, Context

_QUEUED = Gauge("gateway_queue_depth", "Deployments that wait.")
_RUNNING = Gauge("gateway_rollouts_running", "Deployments that run, on all gateways.")
_OLDEST = Gauge("gateway_queue_age_seconds", "How long the oldest has waited.")
_DATABASE = Gauge("gateway_database_up", "Whether PostgreSQL answers.")
_ENGINE = Gauge("gateway_engine_up", "Whether the engine answers.", ["host"])


async def alive(_request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def ready(request: web.Request) -> web.Response:
    """200 when a push can be accepted, which takes the database; the engine's state is told beside it."""
    context = request.app[CONTEXT]
    database = await _observe(context)
    engine = context.rollouts.engine
    body = {
        "status": "ok" if database else "unavailable",
        "database": "ok" if database else "unreachable",
        "engines": [
            {
                "host": engine.host,
                "status": "unreachable" if engine.error or engine.identity is None else "ok",
                "engineId": engine.identity.engine_id if engine.identity else None,
                "version": engine.identity.version if engine.identity else None,
                "error": engine.error,
            }
        ],
    }
    return web.json_response(body, status=200 if database else 503)


async def metrics(request: web.Request) -> web.Response:
    await _observe(request.app[CONTEXT])
    return web.Response(body=prometheus_client.generate_latest(), headers={"Content-Type": _CONTENT_TYPE})


_CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST


async def _observe(context: Context) -> bool:
    """Look at the queue; return whether the database answers."""
    engine = context.rollouts.engine
    _ENGINE.labels(engine.host).set(engine.identity is not None and engine.error is None)
    try:
        async with transaction(context.pool) as connection:
            depth = await deployments.select_queue_depth(connection)
    except Unavailable:
        _DATABASE.set(0)
        return False
    _DATABASE.set(1)
    _QUEUED.set(depth.queued)
    _RUNNING.set(depth.running)
    _OLDEST.set(depth.oldest)
    return True
