"""Every application at a glance; on top, what is under way and what waits."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import web

from gateway.api.context import CONTEXT, SHARE
from gateway.api.rpc.dispatch import CallError
from gateway.dashboard.procedures import call, call_if_allowed, may, project_names
from gateway.dashboard.rendering import page
from gateway.dashboard.sessions import SESSION
from gateway.model.deployments import Deployment, StepRecord
from gateway.store import applications, environments, overview, queue, queue_position, resource_owners, steps
from gateway.store.database import statement, transaction
from gateway.store.environments import Place
from gateway.store.overview import OWN_ENGINE, OverviewFilter
from gateway.store.queue_position import Wait

_PAGE = 100  # applications
_AROUND = 3  # pages before and after one that it links to
_MOST_PENDING = 50  # deployments on top
_MOST_PLACES = 200  # environments that a new application can be put into
_MAX_WORDS = 255

#: what the filter offers
STATES = {
    "trouble": "in trouble",
    "running": "running",
    "healthy": "healthy",
    "unhealthy": "unhealthy",
    "restarting": "restarting",
    "stopped": "stopped",
    "missing": "missing",
    "drifted": "drifted",
    "unknown": "unknown",
    "none": "never deployed",
}


@dataclass(frozen=True, slots=True)
class Pending:
    """A deployment that is under way or waits."""

    deployment: Deployment
    name: str
    steps: Sequence[StepRecord]
    wait: Wait | None


async def show(request: web.Request) -> web.Response:
    """Show the page, or only one of its live parts: what is under way changes more often than the applications."""
    if request.headers.get("HX-Target") == "pending":
        return page(request, "pending_live.html", pending=await _pending(request))
    query = request.query
    wanted = OverviewFilter(
        query.get("q", "")[:_MAX_WORDS].replace("\0", ""),
        query.get("project", "")[:_MAX_WORDS].replace("\0", ""),
        state if (state := query.get("state", "")) in STATES else "",
        query.get("server", "")[:_MAX_WORDS].replace("\0", ""),
    )
    number = int(text) if (text := query.get("page", "1")).isdecimal() and 0 < len(text) < 6 else 1  # noqa: PLR2004
    caller = request[SESSION].caller
    live = request.headers.get("HX-Target") == "overview"
    async with transaction(request.app[SHARE]) as connection:
        only = None if caller.grants is None else await resource_owners.select_covered(connection, caller.grants)
        rows, total = await overview.select_overview(
            connection, wanted, only=only, limit=_PAGE, offset=(max(number, 1) - 1) * _PAGE
        )
    filtered = wanted != OverviewFilter()
    projects = {} if live else await project_names(request)
    servers = [] if live else await call_if_allowed(request, "server.all") or []
    may_create = may(request, "application.create") and caller.grants is None
    places: list[Place] = []
    if may_create and not live:
        async with statement(request.app[SHARE]) as connection:
            places = await environments.select_first_places(connection, _MOST_PLACES)
    adoptable, problem = None, None
    if not total and not filtered and caller.grants is None:
        adoptable = await call_if_allowed(request, "application.adoptable")
        problem = next((one.error for one in request.app[CONTEXT].rollouts.engines if one.server_id is None), None)
    return page(
        request,
        "overview_live.html" if live else "overview.html",
        rows=rows,
        total=total,
        pending=[] if live else await _pending(request),
        wanted=wanted,
        filtered=filtered,
        number=max(number, 1),
        pages=_linked(max(number, 1), max(-(-total // _PAGE), 1)),
        states=STATES,
        projects=projects,
        servers=servers,
        own_engine=OWN_ENGINE,
        adoptable=adoptable,
        problem=problem,
        may_create=may_create,
        places=places,
        may_adopt=may(request, "application.adopt") and caller.grants is None,
    )


def _linked(number: int, last: int) -> list[int]:
    """Return the pages that page `number` links to: the first, the last, and those around it."""
    return sorted({1, last, *range(max(number - _AROUND, 1), min(number + _AROUND, last) + 1)})


async def show_adoptable(request: web.Request) -> web.Response:
    """Show the containers of one engine that can be adopted: of the gateway's own, or of a server."""
    server_id = request.query.get("server") or None
    servers = await call_if_allowed(request, "server.all") or []
    rows, problem = [], None
    try:
        rows = await call(request, "application.adoptable", **({"serverId": server_id} if server_id else {}))
    except CallError as error:
        if error.problem.status != HTTPStatus.SERVICE_UNAVAILABLE:
            raise
        problem = error.problem.message
    return page(request, "adopt.html", rows=rows, problem=problem, servers=servers, server_id=server_id)


async def _pending(request: web.Request) -> list[Pending]:
    """Return what is under way or waits, the oldest first: of all applications, or of those that the key is for."""
    grants = request[SESSION].caller.grants
    async with transaction(request.app[SHARE]) as connection:
        only = None if grants is None else await resource_owners.select_covered(connection, grants)
        found = await queue.select_pending(connection, only=only, limit=_MOST_PENDING)
        records = await steps.select_steps(connection, [one.deployment_id for one in found])
        names = await applications.select_names(connection, {one.application_id for one in found})
        waits = await queue_position.select_waits(connection, found)
    return [
        Pending(
            one,
            names.get(one.application_id, one.application_id),
            records[one.deployment_id],
            waits.get(one.deployment_id),
        )
        for one in found
    ]
