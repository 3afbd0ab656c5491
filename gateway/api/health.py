"""Is it alive, can it accept, what has it done."""

import asyncio
from collections.abc import Iterator

import prometheus_client
from aiohttp import web
from prometheus_client import REGISTRY, CollectorRegistry, Gauge
from prometheus_client.metrics_core import Metric

from gateway.admin.context import Context
from gateway.admin.engine_status import Host
from gateway.api.context import CONTEXT
from gateway.api.readiness import READINESS
from gateway.api.rpc.auth import authenticate, sender
from gateway.api.schema_check import OUTDATED
from gateway.model.endpoints import parse_networks
from gateway.model.errors import GatewayError, Unavailable
from gateway.model.observations import State
from gateway.store import deployments, observations, swaps, watches
from gateway.store.database import transaction

_DEADLINE = 3.0  # seconds for a key

_QUEUED = Gauge("gateway_queue_depth", "Deployments that wait.")
_RUNNING = Gauge("gateway_rollouts_running", "Deployments that run, on all gateways.")
_OLDEST = Gauge("gateway_queue_age_seconds", "How long the oldest has waited.")
_WATCHED = Gauge("gateway_watches_open", "Applications within their watch window.")
_APPLICATIONS = Gauge("gateway_applications", "Applications, by what they were seen to do.", ["state"])
_UNSERVED = Gauge("gateway_applications_unserved", "Applications whose swap went neither forward nor back yet.")
_DATABASE = Gauge("gateway_database_up", "Whether PostgreSQL answers.")
_ENGINE = Gauge("gateway_engine_up", "Whether the engine answers.", ["host"])
_BUSY = Gauge("gateway_engine_rollouts", "Rollouts of this gateway under way on the engine.", ["host"])


async def alive(_request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def well(_request: web.Request) -> web.Response:
    """The same in the contract's words, without a key as there."""
    return web.json_response({"ok": True})


async def ready(request: web.Request) -> web.Response:
    """200 when a push can be accepted, which takes a database that takes writes.

    The engines' states, and loops in the background that do not recover, are told beside it, to who may know of them.
    """
    context = request.app[CONTEXT]
    wrong = await request.app[READINESS].look(context.pool) or await request.app[OUTDATED].look(context.pool)
    failing = context.rollouts.background_tasks.failing
    body: dict[str, object] = {
        "status": "unavailable" if wrong else "degraded" if failing else "ok",
        "database": wrong or "ok",
    }
    if await _may_know(request):
        body["loops"] = [{"name": loop.name, "about": loop.about, "failures": loop.failures} for loop in failing]
        body["engines"] = [_shown(host) for host in _engines(context)]
    return web.json_response(body, status=503 if wrong else 200)


async def _may_know(request: web.Request) -> bool:
    """Tell whether it comes from a network that is let see it, or with a key that is for everything."""
    networks = parse_networks(request.app[CONTEXT].settings.status_networks.split(","))
    if (known := sender(request)) is not None and any(known in network for network in networks):
        return True
    try:
        async with asyncio.timeout(_DEADLINE):
            caller = await authenticate(request, bearer=True)
    except (GatewayError, TimeoutError):
        return False
    return caller is not None and caller.grants is None


def _engines(context: Context) -> list[Host]:
    """Return one host an engine: further addresses of a daemon that is there already are left out."""
    seen: set[str] = set()
    found = []
    for host in context.rollouts.hosts:
        if host.identity is not None:
            if host.identity.daemon in seen:
                continue
            seen.add(host.identity.daemon)
        found.append(host)
    return found


def _shown(host: Host) -> dict[str, object]:
    return {
        "host": host.host,
        "serverId": host.server_id,
        "status": "unreachable" if host.error or host.identity is None else "ok",
        "engineId": host.identity.engine_id if host.identity else None,
        "version": host.identity.version if host.identity else None,
        "error": host.error,
    }


class _Public(CollectorRegistry):
    """What strangers may see: how much is done, and not on which engine or for which application."""

    def collect(self) -> Iterator[Metric]:
        for family in REGISTRY.collect():
            if not any(_NAMES_SOMETHING & one.labels.keys() for one in family.samples):
                yield family


async def metrics(request: web.Request) -> web.Response:
    """Answer what Prometheus asks; what names an engine or an application, to who may know it."""
    registry = REGISTRY if await _may_know(request) else _Public()
    await request.app[LOOKING].look(request.app[CONTEXT])
    return web.Response(body=prometheus_client.generate_latest(registry), headers={"Content-Type": _CONTENT_TYPE})


_NAMES_SOMETHING = {"host", "engine", "server", "application", "repository", "registry", "key", "address"}
_CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST


class Looking:
    """One look at the database at a time, for all who ask meanwhile: strangers may ask as often as they like."""

    def __init__(self) -> None:
        self._look: asyncio.Task[None] | None = None

    async def look(self, context: Context) -> None:
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(_observe(context), name="metrics")
        await asyncio.shield(self._look)


LOOKING = web.AppKey("looking", Looking)


async def _observe(context: Context) -> None:
    """Look at the queue, and whether the database answers."""
    _ENGINE.clear()
    _BUSY.clear()
    context.rollouts.background_tasks.observe()
    for host in context.rollouts.hosts:
        _ENGINE.labels(host.host).set(host.identity is not None and host.error is None)
        _BUSY.labels(host.host).set(host.running)
    try:
        async with transaction(context.pool) as connection:
            depth = await deployments.select_queue_depth(connection)
            watched = await watches.count_open(connection)
            states = await observations.count_states(connection)
            unserved = await swaps.count_unserved(connection)
    except Unavailable:
        _DATABASE.set(0)
        return
    _DATABASE.set(1)
    _WATCHED.set(watched)
    _UNSERVED.set(unserved)
    for state in State:
        _APPLICATIONS.labels(state).set(states.get(state, 0))
    _QUEUED.set(depth.queued)
    _RUNNING.set(depth.running)
    _OLDEST.set(depth.oldest)
