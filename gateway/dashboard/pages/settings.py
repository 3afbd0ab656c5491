"""Webhooks, registries, servers, API keys and projects: made, tested, rotated and removed."""

from collections.abc import Mapping
from types import MappingProxyType

from aiohttp import web

from gateway.api.context import CONTEXT
from gateway.dashboard.procedures import call, call_page
from gateway.dashboard.rendering import page
from gateway.sources import SOURCES

_PAGE = 50  # rows
_PROJECTS = 10  # with all their applications

#: what to do at each registry with the address of a webhook
STEPS: Mapping[str, str] = MappingProxyType(
    {
        "dockerhub": "On hub.docker.com open the repository, Webhooks, and add the address.",
        "github": "In the repository or organization open Settings, Webhooks, Add webhook: the address, content type "
        "application/json, the secret, and of the events only Packages (or Registry packages).",
        "distribution": "In the registry's config.yml add an endpoint to notifications: url is the address, and under "
        "headers Authorization: [Bearer SECRET].",
        "harbor": "In the project open Webhooks, New: event Artifact pushed, the address, the secret as auth header.",
        "quay": "In the repository open Settings, Events and notifications: Push to repository, Webhook POST.",
        "gitlab": "In the registry's configuration add a notification endpoint with the address and the header.",
        "gitea": "In the repository or organization open Settings, Webhooks: the address, the secret, event Package.",
        "ecr": "Make an EventBridge rule for ECR Image Action, with an API destination: the address, and the secret as "
        "x-api-key.",
    }
)


async def show_webhooks(request: web.Request) -> web.Response:
    """Show the webhooks, and the form for a new one."""
    public = request.app[CONTEXT].settings.public_url
    rows, older = await call_page(request, "webhook.all", _PAGE)
    return page(
        request,
        "webhooks.html",
        rows=rows,
        older=older,
        sources=sorted(SOURCES),
        steps=STEPS,
        public=public or f"{request.scheme}://{request.host}",
    )


async def show_registries(request: web.Request) -> web.Response:
    """Show the logins to registries, and the form for a new one."""
    return page(request, "registries.html", rows=await call(request, "registry.all"))


async def show_servers(request: web.Request) -> web.Response:
    """Show the servers, and the form for a new one."""
    return page(request, "servers.html", rows=await call(request, "server.all"))


async def show_keys(request: web.Request) -> web.Response:
    """Show the API keys, and the form for a new one."""
    return page(request, "keys.html", user=(await call(request, "user.get"))["user"])


async def show_projects(request: web.Request) -> web.Response:
    """Show the projects, and the form for a new one."""
    rows, older = await call_page(request, "project.all", _PROJECTS)
    return page(request, "projects.html", rows=rows, older=older)
