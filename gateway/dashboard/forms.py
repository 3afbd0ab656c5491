"""Send a form: it calls one procedure of the API, and then shows a page.

The fields are the procedure's inputs. Empty ones are left out, but for `name!`; `name[]` is a list, one element a line,
`name{}` is a mapping, one `NAME=value` a line, and `name?` is null where it is empty. The fields `form` and `then` are
the form's own: its token, and the page that follows, which may name `{applicationId}`, the application that was made.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from aiohttp import web

from gateway.api.rpc.dispatch import CallError
from gateway.api.rpc.trpc import UNDEFINED
from gateway.dashboard.fields import read_fields
from gateway.dashboard.live import CHANGES, LISTS
from gateway.dashboard.procedures import call_whole
from gateway.dashboard.rendering import is_local, page, public_address, redirect
from gateway.dashboard.sessions import PREFIX, SESSION, own_page, refuse_other_sites
from gateway.model.errors import Forbidden

#: what the pages offer; every other procedure is for the API alone
OFFERED = frozenset(
    {
        "application.adopt",
        "application.create",
        "application.deploy",
        "application.redeploy",
        "application.start",
        "application.stop",
        "application.rollback",
        "application.delete",
        "application.move",
        "application.saveEnvironment",
        "application.update",
        "alert.create",
        "alert.remove",
        "alert.replay",
        "alert.test",
        "alert.update",
        "approval.approve",
        "approval.reject",
        "deployment.cancel",
        "gate.override",
        "promotion.promote",
        "promotion.withdraw",
        "release.cancel",
        "release.create",
        "delivery.replay",
        "subscription.create",
        "subscription.remove",
        "webhook.create",
        "webhook.rotate",
        "webhook.update",
        "webhook.enable",
        "webhook.disable",
        "webhook.remove",
        "registry.create",
        "registry.remove",
        "registry.testRegistryById",
        "registry.update",
        "server.create",
        "server.remove",
        "server.update",
        "server.validate",
        "user.createApiKey",
        "user.deleteApiKey",
        "project.create",
        "project.remove",
        "project.update",
        "port.create",
        "port.delete",
        "mounts.create",
        "mounts.remove",
        "environment.create",
        "environment.remove",
    }
)
#: their answers have secrets that are shown once
_SHOWN_ONCE = frozenset({"alert.create", "alert.update", "webhook.create", "webhook.rotate", "user.createApiKey"})
#: they try something out, and the answer is that it works, or why it does not
_TRIES = frozenset({"alert.test", "registry.testRegistryById", "server.validate"})
_MADE = "applicationId"
_SECRETS = ("key", "path", "secret")
_OWN_FIELDS = frozenset({"form", "then"})


async def send(request: web.Request) -> web.StreamResponse:
    """Call the procedure. Its answer, or why it failed, is a page; else the page follows that the form names."""
    name = request.match_info["procedure"]
    refuse_other_sites(request)
    fields = await read_fields(request)
    request[SESSION].check_form(fields.get("form"))
    if name not in OFFERED:
        raise Forbidden(f"The pages do not offer {name[:100]}; call it by the API.")
    then = own_page(fields.get("then", ""))
    try:
        answered = await call_whole(request, name, _given(fields))
    except CallError as error:
        return page(request, "error.html", status=HTTPStatus(error.problem.status), problem=error.problem, back=then)
    value = {} if answered.value is UNDEFINED or not isinstance(answered.value, Mapping) else answered.value
    if name in _SHOWN_ONCE and any(value.get(field) for field in _SECRETS):
        return _show_once(request, value, then)
    if name in _TRIES:
        return page(request, "worked.html", name=name, error=value.get("error"), then=then)
    request.app[CHANGES].publish(LISTS)
    deployment_id = answered.headers.get("X-Deployment-Id")
    return redirect(f"{PREFIX}/deployments/{deployment_id}" if deployment_id else _filled(then, value))


def _filled(then: str, answer: Mapping[str, Any]) -> str:
    """Return the page that follows, with the id of what was made."""
    made = answer.get(_MADE)
    return then.replace(f"{{{_MADE}}}", quote(made, safe="")) if isinstance(made, str) else then


def _show_once(request: web.Request, answer: Mapping[str, Any], then: str) -> web.Response:
    """Show a secret that was made, and for a webhook what to do with it. It is not shown again."""
    path, endpoint_id = answer.get("path"), answer.get("endpointId")
    url = f"{public_address(request)}{path}" if path else None
    header = answer.get("header")
    # A webhook without a header has no other secret than its address.
    secret = answer.get("secret") if header or not endpoint_id else None
    return page(
        request,
        "shown_once.html",
        key=answer.get("key"),
        url=url,
        local=url is not None and is_local(url),
        secret=secret,
        header=header,
        source=answer.get("source") if endpoint_id else None,
        then=f"{PREFIX}/webhooks/{quote(endpoint_id, safe='')}" if endpoint_id else then,
    )


def _given(fields: Mapping[str, str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, text in fields.items():
        if name in _OWN_FIELDS:
            continue
        text = text.replace("\r\n", "\n")  # noqa: PLW2901 - as browsers write the ends of lines
        if name.endswith("[]"):
            given[name.removesuffix("[]")] = [line.strip() for line in text.split("\n") if line.strip()]
        elif name.endswith("{}"):
            pairs = (line.partition("=") for line in text.split("\n") if line.strip())
            given[name.removesuffix("{}")] = {key.strip(): value.strip() for key, _, value in pairs}
        elif name.endswith("?"):
            given[name.removesuffix("?")] = text.strip() or None
        elif text.strip() or name.endswith("!"):
            given[name.removesuffix("!")] = text
    return given
