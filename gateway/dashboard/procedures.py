"""Call the API's procedures for the person who is signed in: with the same permissions, limits and audit."""

from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from gateway.api.context import CONTEXT, SHARE
from gateway.api.procedures._pagination import NEXT_HEADER
from gateway.api.rpc.auth import authorize, may_call
from gateway.api.rpc.concurrency import CONCURRENCY_LIMITS
from gateway.api.rpc.dispatch import CallError, answer, find, load
from gateway.api.rpc.procedure import Answer, Procedure
from gateway.api.rpc.trpc import UNDEFINED
from gateway.dashboard.sessions import SESSION, is_current
from gateway.model.errors import Forbidden, NotFound
from gateway.store import resource_owners
from gateway.store.database import statement
from gateway.store.projects import select_project_names

_OFFERED = 200  # applications


async def call(request: web.Request, name: str, **given: Any) -> Any:
    """Return the value of a procedure's answer, None for an empty one; raises CallError."""
    value = (await call_whole(request, name, given)).value
    return None if value is UNDEFINED else value


async def call_whole(request: web.Request, name: str, given: dict[str, Any]) -> Answer:
    """Return a procedure's answer with its headers; raises CallError."""
    caller = request[SESSION].caller
    await load(request, name)
    async with request.app[CONCURRENCY_LIMITS].hold(caller):
        return await answer(request, procedure(request, name), given, caller)


async def call_page(
    request: web.Request, name: str, limit: int, *, parameter: str = "cursor", **given: Any
) -> tuple[Any, str | None]:
    """Return a page of a list, and the query of the address that shows the next one, None on the last.

    `parameter` of the request's own query says where the page begins.
    """
    if cursor := request.query.get(parameter):
        given["cursor"] = cursor
    answered = await call_whole(request, name, {"limit": limit, **given})
    following = answered.headers.get(NEXT_HEADER)
    return answered.value, urlencode({**request.query, parameter: following}) if following else None


async def call_if_allowed(request: web.Request, name: str, **given: Any) -> Any:
    """Return the value of the answer; None where the caller may not call the procedure, or what it shows is gone."""
    await load(request, name)
    if not may(request, name):
        return None
    try:
        return await call(request, name, **given)
    except CallError:
        return None


async def offered_applications(request: web.Request) -> dict[str, str] | None:
    """Return the applications that a form offers, by id; None where there are too many to choose from."""
    found = await call_if_allowed(request, "lookup.all", kind="application", limit=_OFFERED + 1)
    if found is None or len(found) > _OFFERED:
        return None
    return {one["id"]: one["name"] or one["id"] for one in found}


async def project_names(request: web.Request) -> dict[str, str]:
    """Return the projects that a filter offers, by id."""
    if not may(request, "project.all"):
        return {}
    grants = request[SESSION].caller.grants
    async with statement(request.app[SHARE]) as connection:
        own = None if grants is None else await resource_owners.select_projects(connection, grants)
        return await select_project_names(connection, only=own)


async def may_still(request: web.Request, name: str, **given: Any) -> bool:
    """Tell whether the session of a request that goes on is valid, and allows the call; raises Unavailable."""
    if not await is_current(request):
        return False
    try:
        context = replace(request.app[CONTEXT], pool=request.app[SHARE])
        await authorize(context, request[SESSION].caller, procedure(request, name), given)
    except Forbidden:
        return False
    return True


def may(request: web.Request, name: str) -> bool:
    """Tell whether the caller may call a procedure at all. With which input, the procedure decides."""
    return may_call(request[SESSION].caller, procedure(request, name))


def procedure(request: web.Request, name: str) -> Procedure:
    """Raises NotFound."""
    if (found := find(request, name)) is None:
        raise NotFound(f"There is no procedure {name}")
    return found
