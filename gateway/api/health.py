"""Health, readiness and metrics: GET /healthz, /api/health, /readyz and /metrics."""

import asyncio
from collections.abc import Callable, Iterator, Mapping

import prometheus_client
from aiohttp import web
from prometheus_client import REGISTRY, CollectorRegistry, Gauge
from prometheus_client.metrics_core import Metric

from gateway.admin.context import Context
from gateway.admin.engine_status import EngineStatus
from gateway.api.context import CONTEXT, sender
from gateway.api.readiness import READINESS
from gateway.api.rpc.auth import authenticate
from gateway.api.schema_check import SCHEMA_CHECK
from gateway.gates.catalog import GATES
from gateway.model.applications import Desired
from gateway.model.endpoints import parse_networks
from gateway.model.errors import GatewayError, Unavailable
from gateway.model.observations import State
from gateway.store import gate_verdicts, observations, queue, swaps, watches
from gateway.store.database import transaction
from gateway.version import VERSION
from gateway.worker.application_series import Served
from gateway.worker.metrics import APPLICATIONS

_CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
#: labels of the metrics that only trusted requests see
_PRIVATE_LABELS = {"host", "engine", "server", "application", "repository", "registry", "key", "address"}
_STATES_UP = {State.RUNNING, State.HEALTHY}
_KEY_TIMEOUT = 3.0  # seconds to look a key up

_QUEUED = Gauge("gateway_queue_depth", "Deployments in the queue.")
_RUNNING = Gauge("gateway_rollouts_running", "Deployments in progress, on all gateways.")
_OLDEST = Gauge("gateway_queue_age_seconds", "Seconds for which the oldest deployment has been in the queue.")
_WATCHED = Gauge("gateway_watches_open", "Applications within their monitor window.")
_APPLICATIONS = Gauge("gateway_applications", "Applications by observed state.", ["state"])
_UNSERVED = Gauge("gateway_applications_unserved", "Applications whose swap is neither completed nor undone yet.")
_AT_GATE = Gauge("gateway_deployments_at_gate", "Queued deployments that wait at a gate, by its kind.", ["kind"])
_BUILD = Gauge("gateway_build_info", "The version of this gateway.", ["version"])
_BUILD.labels(VERSION).set(1)
_DATABASE = Gauge("gateway_database_up", "Whether PostgreSQL answers.")
_ENGINE = Gauge("gateway_engine_up", "Whether the engine answers.", ["host"])
_BUSY = Gauge("gateway_engine_rollouts", "Rollouts of this gateway in progress on the engine.", ["host"])


async def healthz(_request: web.Request) -> web.Response:
    """Respond 200 while the process runs."""
    return web.json_response({"status": "ok"})


async def api_health(_request: web.Request) -> web.Response:
    """Respond 200 while the process runs, as Dokploy's `/api/health` does."""
    return web.json_response({"ok": True})


async def readyz(request: web.Request) -> web.Response:
    """Respond 200 when the gateway can accept a push: when the database accepts writes.

    The body also has the states of the engines and the background tasks that do not recover, for trusted requests.
    """
    context = request.app[CONTEXT]
    problem = await request.app[READINESS].check(context.pool) or await request.app[SCHEMA_CHECK].check(context.pool)
    failing = context.rollouts.background_tasks.failing
    body: dict[str, object] = {
        "status": "unavailable" if problem else "degraded" if failing else "ok",
        "database": problem or "ok",
    }
    if await _is_trusted(request):
        body["loops"] = [{"name": task.name, "about": task.about, "failures": task.failures} for task in failing]
        body["engines"] = [_engine_row(engine) for engine in _engines(context)]
    return web.json_response(body, status=503 if problem else 200)


async def _is_trusted(request: web.Request) -> bool:
    """Tell whether the request comes from a status network, or with a key that is not restricted."""
    networks = parse_networks(request.app[CONTEXT].settings.status_networks.split(","))
    if (address := sender(request)) is not None and any(address in network for network in networks):
        return True
    try:
        async with asyncio.timeout(_KEY_TIMEOUT):
            caller = await authenticate(request, bearer=True)
    except (GatewayError, TimeoutError):
        return False
    return caller is not None and caller.grants is None


def _engines(context: Context) -> list[EngineStatus]:
    """Return each engine once, though several servers may be addresses of the same daemon."""
    seen: set[str] = set()
    distinct = []
    for engine in context.rollouts.engines:
        if engine.identity is not None:
            if engine.identity.daemon in seen:
                continue
            seen.add(engine.identity.daemon)
        distinct.append(engine)
    return distinct


def _engine_row(engine: EngineStatus) -> dict[str, object]:
    return {
        "host": engine.address,
        "serverId": engine.server_id,
        "status": "unreachable" if engine.error or engine.identity is None else "ok",
        "engineId": engine.identity.engine_id if engine.identity else None,
        "version": engine.identity.version if engine.identity else None,
        "error": engine.error,
    }


#: returns the metrics of the other processes of this gateway, by name
MetricsOfOthers = Callable[[], Mapping[str, Metric]]
METRICS_OF_OTHERS: web.AppKey[MetricsOfOthers] = web.AppKey("metrics_of_others")


def no_metrics() -> Mapping[str, Metric]:
    """Return the metrics of no other process."""
    return {}


class _Summed(CollectorRegistry):
    """The metrics of all processes: each sample is the sum over them."""

    def __init__(self, others: Mapping[str, Metric]) -> None:
        super().__init__()
        self._others = others

    def collect(self) -> Iterator[Metric]:
        for family in REGISTRY.collect():
            if (other := self._others.get(family.name)) is None:
                yield family
                continue
            values = {(one.name, frozenset(one.labels.items())): one for one in family.samples}
            for one in other.samples:
                key = (one.name, frozenset(one.labels.items()))
                held = values.get(key)
                values[key] = one if held is None else held._replace(value=held.value + one.value)
            summed = Metric(family.name, family.documentation, family.type)
            summed.samples = list(values.values())
            yield summed


class _Public(_Summed):
    """The metrics for requests that are not trusted: without those that name an engine or an application."""

    def collect(self) -> Iterator[Metric]:
        for family in super().collect():
            if not any(_PRIVATE_LABELS & sample.labels.keys() for sample in family.samples):
                yield family


async def metrics(request: web.Request) -> web.Response:
    """Respond with the metrics, as Prometheus reads them."""
    visible = _Summed if await _is_trusted(request) else _Public
    await request.app[GAUGES].refresh(request.app[CONTEXT])
    registry = visible(request.app[METRICS_OF_OTHERS]())
    return web.Response(body=prometheus_client.generate_latest(registry), headers={"Content-Type": _CONTENT_TYPE})


class Gauges:
    """The gauges that are read from the database. Requests at the same time share one refresh."""

    def __init__(self) -> None:
        self._refresh: asyncio.Task[None] | None = None

    async def refresh(self, context: Context) -> None:
        """Set the gauges to what holds now."""
        if self._refresh is None or self._refresh.done():
            self._refresh = asyncio.create_task(_set_gauges(context), name="metrics")
        await asyncio.shield(self._refresh)


GAUGES = web.AppKey("gauges", Gauges)


async def _set_gauges(context: Context) -> None:
    _ENGINE.clear()
    _BUSY.clear()
    context.rollouts.background_tasks.observe()
    for engine in context.rollouts.engines:
        _ENGINE.labels(engine.address).set(engine.identity is not None and engine.error is None)
        _BUSY.labels(engine.address).set(engine.running)
    try:
        async with transaction(context.pool) as connection:
            depth = await queue.select_queue_depth(connection)
            watched = await watches.count_open(connection)
            states = await observations.count_states(connection)
            unserved = await swaps.count_unserved(connection)
            at_gate = await gate_verdicts.count_waiting(connection)
            shown = await observations.select_oldest(connection, context.settings.metrics_applications)
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
    APPLICATIONS.show([_served(one) for one in shown])
    for kind, waiting in {**dict.fromkeys(GATES, 0), **at_gate}.items():
        _AT_GATE.labels(kind).set(waiting)


def _served(one: observations.NamedState) -> Served:
    looked = one.desired is Desired.RUNNING and one.state is not State.UNKNOWN
    return Served(one.application_id, one.name, one.state in _STATES_UP if looked else None)
