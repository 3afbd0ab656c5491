"""What people decide together: approvals that wait, and releases of groups."""

from collections.abc import Collection
from typing import Any

from aiohttp import web

from gateway.api.context import SHARE
from gateway.dashboard.procedures import call, call_page, may
from gateway.dashboard.rendering import page
from gateway.store import applications
from gateway.store.database import statement

_PAGE = 50  # rows


async def show_approvals(request: web.Request) -> web.Response:
    """Show what waits for an approval, and the last answers."""
    rows, older = await call_page(request, "approval.all", _PAGE)
    names = await _names(request, {one["applicationId"] for one in rows})
    live = request.headers.get("HX-Target") == "approvals"
    return page(
        request,
        "approvals_live.html" if live else "approvals.html",
        waiting=[one for one in rows if one["standing"] == "waiting"],
        answered=[one for one in rows if one["standing"] != "waiting"],
        older=older,
        names=names,
    )


async def show_releases(request: web.Request) -> web.Response:
    """Show the groups, and their releases, newest first."""
    live = request.headers.get("HX-Target") == "releases"
    groups: list[Any] = []
    older_groups = None
    if may(request, "group.all"):
        groups, older_groups = await call_page(request, "group.all", _PAGE, parameter="groups")
    rows, older = await call_page(request, "release.all", _PAGE)
    members = {one["applicationId"] for group in groups for one in group["members"]}
    return page(
        request,
        "releases_live.html" if live else "releases.html",
        groups=groups,
        older_groups=older_groups,
        rows=rows,
        older=older,
        names=await _names(request, members),
    )


async def show_release(request: web.Request) -> web.Response:
    """Show one release: its members in their waves."""
    found = await call(request, "release.one", releaseId=request.match_info["release_id"])
    live = request.headers.get("HX-Target") == "release"
    return page(request, "release_live.html" if live else "release.html", one=found)


async def _names(request: web.Request, application_ids: Collection[str]) -> dict[str, str]:
    """Return the names of applications by id: of those that a procedure has answered with."""
    async with statement(request.app[SHARE]) as connection:
        return await applications.select_names(connection, application_ids)
