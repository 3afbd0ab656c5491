"""Alerts: who gets which events, and the deliveries."""

from aiohttp import web

from gateway.dashboard.procedures import call_page, offered_applications, project_names
from gateway.dashboard.rendering import page
from gateway.model.alerts import EventKind

_PAGE = 50  # rows


async def show(request: web.Request) -> web.Response:
    """Show the alerts, the form for a new one, and the deliveries: of all alerts, or of one."""
    wanted = {"alertId": alert_id} if (alert_id := request.query.get("alertId")) else {}
    rows, older = await call_page(request, "alert.all", _PAGE)
    deliveries, older_deliveries = await call_page(request, "alert.deliveries", _PAGE, parameter="deliveries", **wanted)
    return page(
        request,
        "alerts.html",
        rows=rows,
        older=older,
        deliveries=deliveries,
        older_deliveries=older_deliveries,
        wanted=wanted,
        events=[one.value for one in EventKind if one is not EventKind.TEST],
        projects=await project_names(request),
        applications=await offered_applications(request),
    )
