"""One application: what runs, what the next deployment changes, its history, its log, and what can be done."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from aiohttp import web

from gateway.admin.engine_status import host_of
from gateway.api.context import CONTEXT, SHARE
from gateway.dashboard.image_labels import Label, read_labels
from gateway.dashboard.log_stream import AGES
from gateway.dashboard.procedures import call, call_if_allowed, may
from gateway.dashboard.rendering import page
from gateway.dashboard.sessions import SESSION
from gateway.docker.engine import images
from gateway.model.applications import Application
from gateway.model.configuration_diff import pending_changes
from gateway.model.deployments import BROUGHT_NOTHING, has_run
from gateway.model.errors import GatewayError, RolloutError
from gateway.model.reference import Reference
from gateway.queue.enqueue import ADOPTED
from gateway.store import applications, environments, serving, versions
from gateway.store.database import statement, transaction
from gateway.store.serving import Serving
from gateway.store.versions import RanVersion

_LINES = {"100": 100, "500": 500, "2000": 2000, "10000": 10_000}
_DEPLOYMENTS = 100  # whose durations are shown
_SLOWEST_ENGINE = 1.0  # seconds until the page is shown without the labels of the image
_MOST_LABELS = 1000  # images
_MOST_PLACES = 200  # environments that an application can be moved to

#: the labels of images by digest, which never change
LABELS: web.AppKey[dict[str, Mapping[str, str]]] = web.AppKey("image_labels")


async def show(request: web.Request) -> web.Response:
    """Show the page, or only its live part."""
    application_id = request.match_info["application_id"]
    found = await call(request, "application.one", applicationId=application_id)
    history = await call(request, "deployment.all", applicationId=application_id, limit=20)
    live = request.headers.get("HX-Target") == "application"
    context = request.app[CONTEXT]
    async with transaction(request.app[SHARE]) as connection:
        runs = await serving.select_serving_deployment(connection, application_id)
        stored = await applications.select_application(connection, context.vault, application_id)
        serves_adopted = await versions.serves_adopted(connection, application_id)
        feeds = await serving.select_feeds(connection, application_id) if may(request, "webhook.all") else []
        is_movable = not live and may(request, "application.move") and request[SESSION].caller.grants is None
        places = await environments.select_first_places(connection, _MOST_PLACES) if is_movable else []
    return page(
        request,
        "application_live.html" if live else "application.html",
        app=found,
        history=history,
        serving=runs,
        serves_adopted=serves_adopted,
        labels=await _labels(request, stored, runs),
        feeds=feeds,
        places=places,
        underway=[one for one in history if one["state"] in {"queued", "running"}],
        pending=await call_if_allowed(request, "application.pending", applicationId=application_id) or [],
        subscriptions=await call_if_allowed(request, "subscription.all", applicationId=application_id) or [],
        gates=await call_if_allowed(request, "gate.all", applicationId=application_id) or [],
        promotions=await call_if_allowed(request, "promotion.all", applicationId=application_id) or [],
        variables=_names(found["env"]),
    )


async def _labels(request: web.Request, application: Application, runs: Serving | None) -> list[Label]:
    """Return what the image that serves says of itself; nothing where its engine does not say it at once."""
    if runs is None or runs.digest is None or runs.reference is None:
        return []
    name = f"{Reference.parse(runs.reference).repository}@{runs.digest}"
    known = request.app[LABELS]
    if name not in known:
        with suppress(GatewayError, RolloutError, TimeoutError):
            async with asyncio.timeout(_SLOWEST_ENGINE):
                image = await images.inspect(host_of(request.app[CONTEXT].rollouts, application).engine, name)
            if image is not None:
                if len(known) >= _MOST_LABELS:
                    known.clear()
                known[name] = image.config.get("Labels") or {}
    return read_labels(known.get(name, {}))


async def show_version(request: web.Request) -> web.Response:
    """Show what a rollback to the version of a deployment changes, before it is asked for."""
    application_id, deployment_id = request.match_info["application_id"], request.match_info["deployment_id"]
    found = await call(request, "application.one", applicationId=application_id)
    context = request.app[CONTEXT]
    async with transaction(request.app[SHARE]) as connection:
        stored = await applications.select_application(connection, context.vault, application_id)
        stored, _ = await environments.resolve_variables(connection, context.vault, stored)
        base = stored.adopted_spec
        if deployment_id == ADOPTED and base is not None:
            version = RanVersion(base.reference, stored.as_adopted())
        else:
            version = await versions.select_version(connection, context.vault, stored, deployment_id)
        runs = await versions.select_serving(connection, context.vault, stored)
    return page(
        request,
        "version.html",
        app=found,
        deployment_id=deployment_id,
        version=version.reference,
        is_adopted=deployment_id == ADOPTED,
        now_runs=str(runs.reference) if runs is not None and runs.reference is not None else None,
        differences=[one for one in pending_changes(version.application, runs) if one.field != "dockerImage"],
    )


async def show_times(request: web.Request) -> web.Response:
    """Show how long the application's deployments took."""
    application_id = request.match_info["application_id"]
    found = await call(request, "application.one", applicationId=application_id)
    async with statement(request.app[SHARE]) as connection:
        rows = await serving.select_ended(connection, application_id, _DEPLOYMENTS)
    return page(request, "times.html", app=found, rows=rows)


async def show_log(request: web.Request) -> web.Response:
    """Show the log of the application's containers."""
    application_id = request.match_info["application_id"]
    query = request.query
    tail = _LINES.get(query.get("tail", ""), 500)
    since = chosen if (chosen := query.get("since", "all")) in AGES else "all"
    search = query.get("search", "")[:500]
    found = await call(request, "application.one", applicationId=application_id)
    text = await call(
        request,
        "application.readLogs",
        applicationId=application_id,
        tail=tail,
        since=since,
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
    newest = found["deployments"][0] if found["deployments"] else None
    return page(
        request,
        "log.html",
        app=found,
        text=text,
        since=since,
        search=search,
        ages=AGES,
        has_run=bool(text) or has_run(found["observed"], (one["state"] for one in found["deployments"])),
        newest=newest,
        newest_failed=newest is not None and newest["state"] in BROUGHT_NOTHING,
    )


def _names(env: str | None) -> list[str]:
    """Return the names of the variables, without their values."""
    lines = (env or "").splitlines()
    return [line.partition("=")[0].removeprefix("export ").strip() for line in lines if "=" in line and line[:1] != "#"]
