"""Webhooks, registries, servers, API keys and projects: made, tested, rotated and removed."""

from aiohttp import web

from gateway.dashboard.procedures import call, call_if_allowed, call_page, may, offered_applications, project_names
from gateway.dashboard.rendering import is_local, page, public_address
from gateway.sources import SOURCES

_PAGE = 50  # rows
_PROJECTS = 10  # with all their applications
_DELIVERIES = 5  # that the page of a webhook shows


async def show_webhooks(request: web.Request) -> web.Response:
    """Show the webhooks, and the form for a new one."""
    rows, older = await call_page(request, "webhook.all", _PAGE)
    by_title = sorted(SOURCES.values(), key=lambda source: source.title.casefold())
    return page(
        request,
        "webhooks.html",
        rows=rows,
        older=older,
        sources=by_title,
        titles={one.name: one.title for one in by_title},
        explained={one.title: one.settings for one in by_title if one.settings},
        public=public_address(request),
        local=is_local(public_address(request)),
    )


async def show_webhook(request: web.Request) -> web.Response:
    """Show one webhook: what to do at the registry, and what arrives."""
    endpoint_id = request.match_info["endpoint_id"]
    found = await call(request, "webhook.one", endpointId=endpoint_id)
    source = SOURCES.get(found["source"])
    live = request.headers.get("HX-Target") == "webhook"
    return page(
        request,
        "webhook_live.html" if live else "webhook.html",
        one=found,
        title=source.title if source else found["source"],
        header=source.header_with(found["settings"]) if source else None,
        rows=await call(request, "delivery.all", endpointId=endpoint_id, limit=_DELIVERIES),
    )


async def show_registries(request: web.Request) -> web.Response:
    """Show the logins to registries, and the form for a new one."""
    return page(request, "registries.html", rows=await call(request, "registry.all"))


async def show_servers(request: web.Request) -> web.Response:
    """Show the servers, and the form for a new one."""
    status = await call_if_allowed(request, "status.one")
    engines = status["engines"] if status else []
    own = next((one for one in engines if one["serverId"] is None), None)
    return page(request, "servers.html", rows=await call(request, "server.all"), own=own)


async def show_keys(request: web.Request) -> web.Response:
    """Show the API keys, and the form for a new one."""
    user = (await call(request, "user.get"))["user"]
    projects = await project_names(request) if may(request, "user.createApiKey") else {}
    return page(request, "keys.html", user=user, applications=await offered_applications(request), projects=projects)


async def show_projects(request: web.Request) -> web.Response:
    """Show the projects, and the form for a new one."""
    rows, older = await call_page(request, "project.all", _PROJECTS)
    return page(request, "projects.html", rows=rows, older=older)
