"""Every application at a glance; on top, what is under way and what waits."""

from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from gateway.api.context import CONTEXT
from gateway.dashboard.procedures import call_if_allowed, may, project_names
from gateway.dashboard.rendering import page
from gateway.dashboard.sessions import SESSION
from gateway.model.deployments import Deployment, StepRecord
from gateway.store import applications, overview, queue, queue_position, resource_owners, steps
from gateway.store.database import Connection, transaction
from gateway.store.overview import OverviewFilter
from gateway.store.queue_position import Wait

_PAGE = 100  # applications
_MOST_PENDING = 50  # deployments on top
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
    """Show the page, or only its live part."""
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
    async with transaction(request.app[CONTEXT].pool) as connection:
        only = None if caller.grants is None else await resource_owners.select_covered(connection, caller.grants)
        rows, total = await overview.select_overview(
            connection, wanted, only=only, limit=_PAGE, offset=(max(number, 1) - 1) * _PAGE
        )
        pending = await select_pending(connection, only)
    filtered = wanted != OverviewFilter()
    projects = {} if live else await project_names(request)
    servers = [] if live else await call_if_allowed(request, "server.all") or []
    adoptable = None
    if not total and not filtered and caller.grants is None:
        adoptable = await call_if_allowed(request, "application.adoptable")
    return page(
        request,
        "overview_live.html" if live else "overview.html",
        rows=rows,
        total=total,
        pending=pending,
        wanted=wanted,
        filtered=filtered,
        number=max(number, 1),
        pages=-(-total // _PAGE),
        states=STATES,
        projects=projects,
        servers=servers,
        adoptable=adoptable,
        may_create=may(request, "application.create") and caller.grants is None,
    )


async def select_pending(connection: Connection, only: frozenset[str] | None) -> list[Pending]:
    """Return what is under way or waits, the oldest first."""
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
