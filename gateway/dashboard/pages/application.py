"""One application: what runs, what the next deployment changes, its history, its log, and what can be done."""

from aiohttp import web

from gateway.dashboard.procedures import call, call_if_allowed
from gateway.dashboard.rendering import page

_LINES = {"100": 100, "500": 500, "2000": 2000, "10000": 10_000}
_AGES = ("all", "10m", "1h", "24h", "7d")


async def show(request: web.Request) -> web.Response:
    """Show the page, or only its live part."""
    application_id = request.match_info["application_id"]
    found = await call(request, "application.one", applicationId=application_id)
    history = await call(request, "deployment.all", applicationId=application_id, limit=20)
    live = request.headers.get("HX-Target") == "application"
    return page(
        request,
        "application_live.html" if live else "application.html",
        app=found,
        history=history,
        serving=next((one for one in history if one["state"] == "succeeded" and one["digest"]), None),
        underway=[one for one in history if one["state"] in {"queued", "running"}],
        pending=await call_if_allowed(request, "application.pending", applicationId=application_id) or [],
        subscriptions=await call_if_allowed(request, "subscription.all", applicationId=application_id) or [],
        gates=await call_if_allowed(request, "gate.all", applicationId=application_id) or [],
        promotions=await call_if_allowed(request, "promotion.all", applicationId=application_id) or [],
        variables=_names(found["env"]),
    )


async def show_log(request: web.Request) -> web.Response:
    """Show the log of the application's containers."""
    application_id = request.match_info["application_id"]
    query = request.query
    tail, since = _LINES.get(query.get("tail", ""), 500), query.get("since", "all")
    search = query.get("search", "")[:500]
    found = await call(request, "application.one", applicationId=application_id)
    text = await call(
        request,
        "application.readLogs",
        applicationId=application_id,
        tail=tail,
        since=since if since in _AGES else "all",
        search=search,
    )
    if query.get("download"):
        name = f"{found['appName']}.log"
        return web.Response(
            text=text,
            content_type="text/plain",
            charset="utf-8",
            headers={"Content-Disposition": f'attachment; filename="{name}"', "X-Content-Type-Options": "nosniff"},
        )
    return page(request, "log.html", app=found, text=text, since=since, search=search, ages=_AGES)


def _names(env: str | None) -> list[str]:
    """Return the names of the variables, without their values."""
    lines = (env or "").splitlines()
    return [line.partition("=")[0].removeprefix("export ").strip() for line in lines if "=" in line and line[:1] != "#"]
