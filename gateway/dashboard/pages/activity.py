"""Deployments of all applications, as a list and as CSV; and the audit."""

import csv
import io
from collections.abc import Mapping
from urllib.parse import urlencode

from aiohttp import web

from gateway.api.procedures._pagination import NEXT_HEADER
from gateway.api.rpc.dispatch import PROCEDURES
from gateway.dashboard.procedures import call, call_if_allowed, call_whole, project_names
from gateway.dashboard.rendering import page
from gateway.model.audit import Outcome, plain_fields
from gateway.model.deployments import Kind, Status

#: the filter in the address, by the name of the procedure's input
_FILTER = {"q": "q", "state": "state", "kind": "kind", "application": "applicationId", "project": "projectId"}
_PAGE = 50  # rows
_EXPORTED = 1000  # rows
_AUDIT_FILTER = ("applicationId", "keyId", "action", "outcome")
_CSV = ("createdAt", "finishedAt", "application", "kind", "state", "image", "digest", "code", "message", "requestedBy")


async def show(request: web.Request) -> web.Response:
    """Show the deployments, newest first."""
    filtered, cursor = _filter(request), request.query.get("cursor")
    given = {"limit": _PAGE, **_inputs(filtered)} | ({"cursor": cursor} if cursor else {})
    answered = await call_whole(request, "deployment.allCentralized", given)
    following = answered.headers.get(NEXT_HEADER)
    live = request.headers.get("HX-Target") == "deployments"
    projects = {} if live else await project_names(request)
    return page(
        request,
        "deployments_live.html" if live else "deployments.html",
        rows=answered.value,
        older=urlencode({**filtered, "cursor": following}) if following else None,
        first=not cursor,
        wanted=filtered,
        filter=urlencode(filtered),
        states=[one.value for one in Status],
        kinds=[one.value for one in Kind],
        projects=projects,
    )


def _filter(request: web.Request) -> dict[str, str]:
    return {name: text for name in _FILTER if (text := request.query.get(name, "").strip())}


def _inputs(filtered: Mapping[str, str]) -> dict[str, str]:
    return {_FILTER[name]: text for name, text in filtered.items()}


async def export(request: web.Request) -> web.Response:
    """Respond with the newest deployments that the filter matches as CSV."""
    rows = await call(request, "deployment.allCentralized", limit=_EXPORTED, **_inputs(_filter(request)))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_CSV)
    for row in rows:
        reason = row["reason"] or {"code": "", "message": ""}
        flat = {**row, "application": row["application"]["name"], **reason}
        writer.writerow([_cell(flat[name]) for name in _CSV])
    return web.Response(
        text=text.getvalue(),
        content_type="text/csv",
        charset="utf-8",
        headers={"Content-Disposition": 'attachment; filename="deployments.csv"'},
    )


def _cell(value: object) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    text = "" if value is None else str(value)
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text


async def show_audit(request: web.Request) -> web.Response:
    """Show who changed what."""
    query = request.query
    wanted = {name: text for name in _AUDIT_FILTER if (text := query.get(name, "").strip())}
    given = {**wanted, "cursor": query["cursor"]} if query.get("cursor") else {**wanted}
    if named := wanted.get("applicationId"):
        given["applicationId"] = await _application_id(request, named)
    found = await call(request, "audit.list", limit=_PAGE, **given)
    user = await call_if_allowed(request, "user.get")
    await request.app[PROCEDURES].load()
    return page(
        request,
        "audit.html",
        rows=[{**one, **{name: plain_fields(one[name]) for name in ("before", "after")}} for one in found["items"]],
        older=urlencode({**wanted, "cursor": found["nextCursor"]}) if found["nextCursor"] else None,
        wanted=wanted,
        keys={one["id"]: f"{one['name']} {one['start']}…" for one in user["user"]["apiKeys"]} if user else {},
        actions=sorted(one.name for one in request.app[PROCEDURES].values() if one.kind == "mutation"),
        outcomes=[one.value for one in Outcome],
    )


async def _application_id(request: web.Request, named: str) -> str:
    """Return the id of an application that a person names; one that was deleted is known by its id alone."""
    found = await call_if_allowed(request, "lookup.one", kind="application", word=named)
    return found["id"] if found else named
