"""The dashboard's part of the HTTP application: its addresses, and what holds for all of its pages."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from urllib.parse import quote

from aiohttp import web

from gateway.api.context import CONTEXT
from gateway.api.rpc.dispatch import CallError, problem_of
from gateway.dashboard import forms, live, log_stream, oidc, oidc_issuer, sessions
from gateway.dashboard.fragments import FRAGMENTS, Fragments
from gateway.dashboard.pages import (
    activity,
    alerts,
    application,
    deployment,
    inbox,
    overview,
    people,
    settings,
    signing_in,
)
from gateway.dashboard.rendering import page, redirect, serve_static
from gateway.dashboard.sessions import PREFIX, SESSION
from gateway.model.errors import GatewayError

Handler = Callable[[web.Request], Coroutine[object, object, web.StreamResponse]]

#: what scripts ask for: streams, and whether the session goes on
_OF_SCRIPTS = ("/live", "/stream", "/signed-in")


def add_dashboard(application_: web.Application) -> None:
    """Add the pages to the application of the API."""
    changes = live.Changes(application_[CONTEXT].pool)
    application_[live.CHANGES] = changes
    application_.cleanup_ctx.append(live.run_listener)
    application_[oidc_issuer.ISSUER] = oidc_issuer.Issuer()
    application_[FRAGMENTS] = Fragments()
    application_[log_stream.STREAMS] = {}
    application_[application.LABELS] = {}
    application_[inbox.HOURS] = {}
    application_.on_shutdown.extend([live.close_streams, log_stream.close_streams])
    pages: dict[str, Handler] = {
        "": overview.show,
        "/adopt": overview.show_adoptable,
        "/applications/{application_id}": application.show,
        "/applications/{application_id}/back/{deployment_id}": application.show_version,
        "/applications/{application_id}/times": application.show_times,
        "/applications/{application_id}/log": application.show_log,
        "/applications/{application_id}/log/stream": log_stream.stream,
        "/deployments": activity.show,
        "/deployments.csv": activity.export,
        "/deployments/{deployment_id}": deployment.show,
        "/approvals": people.show_approvals,
        "/releases": people.show_releases,
        "/releases/{release_id}": people.show_release,
        "/inbox": inbox.show,
        "/inbox/hours": inbox.show_hours,
        "/inbox/{delivery_id}": inbox.show_one,
        "/webhooks": settings.show_webhooks,
        "/webhooks/{endpoint_id}": settings.show_webhook,
        "/registries": settings.show_registries,
        "/servers": settings.show_servers,
        "/alerts": alerts.show,
        "/keys": settings.show_keys,
        "/projects": settings.show_projects,
        "/audit": activity.show_audit,
        "/live": live.stream,
        "/signed-in": signing_in.confirm,
    }
    application_.add_routes(
        [
            *(web.get(PREFIX + path, _signed_in(show)) for path, show in pages.items()),
            web.get(f"{PREFIX}/", _without_slash),
            web.post(f"{PREFIX}/call/{{procedure}}", _signed_in(forms.send)),
            web.post(f"{PREFIX}/sign-out", _signed_in(signing_in.sign_out)),
            web.get(f"{PREFIX}/sign-in", _with_errors(signing_in.show)),
            web.get(f"{PREFIX}/oidc", _with_errors(oidc.begin)),
            web.get(f"{PREFIX}/oidc/callback", _with_errors(oidc.end)),
            web.post(f"{PREFIX}/sign-in", _with_errors(signing_in.sign_in)),
            web.get(f"{PREFIX}/static/{{digest}}/{{name}}", serve_static),
            # The address of an application's page in Dokploy, which deployment.queueList names.
            web.get(
                f"{PREFIX}/project/{{project}}/environment/{{environment}}/services/application/{{application_id}}",
                _of_dokploy,
            ),
        ]
    )


def _signed_in(show: Handler) -> Handler:
    """Let only those in who are signed in; the others sign in first, and come back."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        session = await sessions.find(request)
        is_page = request.method == "GET" and not request.path.endswith(_OF_SCRIPTS)
        is_fragment = is_page and "HX-Request" in request.headers
        if session is None:
            if is_fragment or not is_page:
                raise web.HTTPUnauthorized(text="Sign in first")
            return redirect(f"{PREFIX}/sign-in?then={quote(request.path_qs, safe='')}")
        request[SESSION] = session
        response = await (request.app[FRAGMENTS].respond(request, show) if is_fragment else show(request))
        await sessions.rotate(request, response)
        return response

    return _with_errors(guarded)


def _with_errors(show: Handler) -> Handler:
    """Show errors as a page: what failed, why, and what to do."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        try:
            return await show(request)
        except (CallError, GatewayError) as error:
            problem = problem_of(error)
            return page(request, "error.html", status=HTTPStatus(problem.status), problem=problem)

    return guarded


async def _without_slash(_request: web.Request) -> web.StreamResponse:
    return redirect(PREFIX)


async def _of_dokploy(request: web.Request) -> web.StreamResponse:
    return redirect(f"{PREFIX}/applications/{quote(request.match_info['application_id'], safe='')}")
