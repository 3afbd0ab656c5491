"""The calls of procedures that make an object what a declaration wants."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.admin.declared import alerts
from gateway.admin.declared.current import SERVER_SECRETS, Current
from gateway.admin.declared.references import References
from gateway.model.declared.objects import Declared, Kind, ObjectPath
from gateway.model.declared.states import Secret, State, Variables, given, revealed
from gateway.model.declared.variables import write_variables
from gateway.model.errors import Conflict, NotFound
from gateway.model.projects import PRODUCTION


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a procedure. An error of it is about the object's field `inside`, or about fields of its own input."""

    procedure: str
    given: Mapping[str, Any] = field(repr=False)
    inside: str = ""
    #: the name of the container of an application to create: that of the application, where it is free
    container: str | None = None


async def creation(references: References, declared: Declared, wanted: State) -> Call:
    """Return the call that makes an object which does not exist. It may make less of it than is wanted."""
    return await _CREATE[declared.path.kind](references, declared, wanted)


async def changes(references: References, path: ObjectPath, current: Current, wanted: State) -> list[Call]:
    """Return the calls that change an object, none where it is as wanted. Raises Conflict for what never changes."""
    if current.state == wanted:
        return []
    return await _CHANGE[path.kind](references, current, wanted)


def removal(kind: Kind, object_id: str) -> Call:
    """Return the call that removes an object."""
    procedure, name = _REMOVE[kind]
    return Call(procedure, {name: object_id})


_REMOVE: Mapping[Kind, tuple[str, str]] = {
    Kind.SERVER: ("server.remove", "serverId"),
    Kind.REGISTRY: ("registry.remove", "registryId"),
    Kind.PROJECT: ("project.remove", "projectId"),
    Kind.ENVIRONMENT: ("environment.remove", "environmentId"),
    Kind.APPLICATION: ("application.delete", "applicationId"),
    Kind.GROUP: ("group.remove", "groupId"),
    Kind.WEBHOOK: ("webhook.remove", "endpointId"),
    Kind.ALERT: ("alert.remove", "alertId"),
    Kind.KEY: ("user.deleteApiKey", "apiKeyId"),
}


def _changed(current: State, wanted: State) -> dict[str, Any]:
    """Return the new values of the fields that differ, None where one is to have its default."""
    names = [*wanted, *(name for name in current if name not in wanted)]
    return {name: wanted.get(name) for name in names if current.get(name) != wanted.get(name)}


def _text(variables: Variables | None) -> str | None:
    return write_variables(variables.values) if variables else None


# -- creations


async def _create_server(_references: References, declared: Declared, wanted: State) -> Call:
    return Call("server.create", {"name": declared.path.name, **revealed(wanted)})


async def _create_registry(_references: References, declared: Declared, wanted: State) -> Call:
    return Call("registry.create", {"registryName": declared.path.name, **revealed(wanted)})


async def _create_project(_references: References, declared: Declared, _wanted: State) -> Call:
    return Call("project.create", {"name": declared.path.name})


async def _create_environment(references: References, declared: Declared, _wanted: State) -> Call:
    project = await references.container_of(declared.path)
    if project is None:
        raise NotFound(f"there is no project {declared.path.project!r}: apply it first")
    return Call("environment.create", {"name": declared.path.name, "projectId": project})


async def _create_application(references: References, declared: Declared, wanted: State) -> Call:
    path, form = declared.path, declared.form
    environment = await references.container_of(path)
    if environment is None:
        raise NotFound(f"there is no environment {path.environment} in the project {path.project!r}: apply it first")
    server = await references.named(Kind.SERVER, wanted["server"], "server") if "server" in wanted else None
    if form.adopt is not None:
        at = {} if server is None else {"serverId": server}
        return Call("application.adopt", {"container": form.adopt, "name": path.name, **at}, inside="adopt")
    where = {} if path.project is None else {"environmentId": environment}
    return Call("application.create", {"name": path.name, **where}, container=path.name)


async def _create_group(references: References, declared: Declared, wanted: State) -> Call:
    return Call("group.create", {"name": declared.path.name, **await _group_fields(references, wanted)})


async def _create_webhook(_references: References, declared: Declared, wanted: State) -> Call:
    fields = {name: value for name, value in revealed(wanted).items() if name != "enabled"}
    return Call("webhook.create", {"name": declared.path.name, **fields})


async def _create_alert(references: References, declared: Declared, wanted: State) -> Call:
    return Call("alert.create", await alerts.creation_of(references, declared.path.name, wanted))


async def _create_key(references: References, declared: Declared, wanted: State) -> Call:
    key: dict[str, Any] = {"name": declared.path.name, "scope": wanted["scope"]}
    if wanted.keys() & {"applications", "projects"}:
        key["applicationIds"] = [
            await references.application(one, f"applications.{at}")
            for at, one in enumerate(wanted.get("applications", ()))
        ]
        key["projectIds"] = [
            await references.named(Kind.PROJECT, one, f"projects.{at}")
            for at, one in enumerate(wanted.get("projects", ()))
        ]
    return Call("user.createApiKey", key)


_CREATE: Mapping[Kind, Callable[[References, Declared, State], Awaitable[Call]]] = {
    Kind.SERVER: _create_server,
    Kind.REGISTRY: _create_registry,
    Kind.PROJECT: _create_project,
    Kind.ENVIRONMENT: _create_environment,
    Kind.APPLICATION: _create_application,
    Kind.GROUP: _create_group,
    Kind.WEBHOOK: _create_webhook,
    Kind.ALERT: _create_alert,
    Kind.KEY: _create_key,
}


# -- changes


async def _change_server(_references: References, current: Current, wanted: State) -> list[Call]:
    changed = _changed(current.state, wanted)
    # A key is sent along with the address that it is for, but not one that is only kept.
    keys = given(wanted, SERVER_SECRETS) if "host" in changed else {}
    return [Call("server.update", {"serverId": current.object_id, **revealed({**keys, **changed})})]


async def _change_registry(_references: References, current: Current, wanted: State) -> list[Call]:
    changed = _changed(current.state, wanted)
    login = given(wanted, ("password", "secretAccessKey"))
    if "password" in login:
        login["username"] = wanted.get("username")
    whole = {"registryType": wanted.get("registryType", "cloud"), "registryUrl": wanted.get("registryUrl", "")}
    return [Call("registry.update", {"registryId": current.object_id, **revealed({**whole, **login, **changed})})]


async def _change_project(references: References, current: Current, wanted: State) -> list[Call]:
    return await _change_variables(references, "project", current, wanted)


async def _change_environment(references: References, current: Current, wanted: State) -> list[Call]:
    return await _change_variables(references, "environment", current, wanted)


async def _change_variables(references: References, noun: str, current: Current, wanted: State) -> list[Call]:
    changed = _changed(current.state, wanted)
    changed.pop("gates", None)
    if "env" in changed:
        changed["env"] = _text(changed["env"])
    own = [Call(f"{noun}.update", {f"{noun}Id": current.object_id, **changed})] if changed else []
    return own + await _gate_calls(references, f"{noun}Id", current, wanted)


async def _change_application(references: References, current: Current, wanted: State) -> list[Call]:
    changed, named = _changed(current.state, wanted), {"applicationId": current.object_id}
    parts = {name: changed.pop(name) for name in ("gates", "subscriptions", "reconcile") if name in changed}
    if "env" in changed:
        changed["env"] = _text(changed["env"])
    if changed.keys() & {"registryUrl", "dockerImage"}:
        changed = {**given(wanted, ("password",)), **changed}
    if changed.get("server") is not None:
        changed["serverId"] = await references.named(Kind.SERVER, changed["server"], "server")
    elif "server" in changed:
        changed["serverId"] = None
    changed.pop("server", None)
    if "autoDeploy" in changed:
        changed["autoDeploy"] = wanted.get("autoDeploy", True)
    found = [Call("application.update", {**named, **revealed(changed)})] if changed else []
    if "reconcile" in parts:
        found.append(Call("subscription.reconcile", {**named, "seconds": parts["reconcile"]}, inside="reconcile"))
    if "subscriptions" in parts:
        found += _subscription_calls(current, wanted)
    if "gates" in parts:
        found += await _gate_calls(references, "applicationId", current, wanted)
    return found


def _subscription_calls(current: Current, wanted: State) -> list[Call]:
    before, after = current.state.get("subscriptions", []), wanted.get("subscriptions", [])
    gone = [
        Call("subscription.remove", {"subscriptionId": current.parts[f"subscriptions.{at}"]})
        for at, one in enumerate(before)
        if one not in after
    ]
    added = [
        Call("subscription.create", {"applicationId": current.object_id, **one}, inside=f"subscriptions.{at}")
        for at, one in enumerate(after)
        if one not in before
    ]
    return gone + added


async def _gate_calls(references: References, owner: str, current: Current, wanted: State) -> list[Call]:
    before, after = current.state.get("gates", {}), wanted.get("gates", {})
    gone, found = [], []
    for name, gate in before.items():
        if name not in after or after[name]["kind"] != gate["kind"]:
            gone.append(Call("gate.remove", {"gateId": current.parts[f"gates.{name}"]}, inside=f"gates.{name}"))
    for name, gate in after.items():
        held = before.get(name)
        if held == gate:
            continue
        rule = dict(gate.get("rule", {}))
        if gate["kind"] == "promotion" and "follows" in rule:
            rule["follows"] = await references.application(rule["follows"], f"gates.{name}.rule.follows")
        sent: dict[str, Any] = {
            "rule": rule,
            "enabled": gate.get("enabled", True),
            "required": gate.get("required", False),
        }
        if "secret" in gate and (held is None or held.get("secret") != gate["secret"]):
            sent["secret"] = gate["secret"].value
        if held is None or held["kind"] != gate["kind"]:
            sent |= {owner: current.object_id, "kind": gate["kind"], "name": name}
            found.append(Call("gate.create", sent, inside=f"gates.{name}"))
        else:
            sent["gateId"] = current.parts[f"gates.{name}"]
            found.append(Call("gate.update", sent, inside=f"gates.{name}"))
    return gone + found


async def _group_fields(references: References, wanted: State) -> dict[str, Any]:
    members = [
        {"applicationId": await references.application(name, f"members.{name}"), "wave": wave}
        for name, wave in wanted.get("members", {}).items()
    ]
    return {
        "description": wanted.get("description", ""),
        "settle": wanted.get("settle", 0),
        "members": members,
    }


async def _change_group(references: References, current: Current, wanted: State) -> list[Call]:
    return [Call("group.update", {"groupId": current.object_id, **await _group_fields(references, wanted)})]


async def _change_webhook(_references: References, current: Current, wanted: State) -> list[Call]:
    changed, named = _changed(current.state, wanted), {"endpointId": current.object_id}
    if "source" in changed:
        raise Conflict("a webhook keeps its source: give it another name, which makes another one")
    found = []
    if "enabled" in changed:
        found.append(Call("webhook.enable" if changed.pop("enabled") is None else "webhook.disable", named))
    secret = changed.pop("secret", None)
    if changed:
        found.append(Call("webhook.update", {**named, **changed}))
    if isinstance(secret, Secret):
        found.append(Call("webhook.rotate", {**named, "secret": secret.value}, inside="secretFrom"))
    return found


async def _change_alert(_references: References, current: Current, wanted: State) -> list[Call]:
    return [Call("alert.update", alerts.change_of(current.object_id, current.state, wanted))]


async def _change_key(_references: References, _current: Current, _wanted: State) -> list[Call]:
    raise Conflict(
        "a key keeps its scope and what it is for: give it another name, which makes another one, and revoke this one "
        "when nobody uses it any more"
    )


_CHANGE: Mapping[Kind, Callable[[References, Current, State], Awaitable[list[Call]]]] = {
    Kind.SERVER: _change_server,
    Kind.REGISTRY: _change_registry,
    Kind.PROJECT: _change_project,
    Kind.ENVIRONMENT: _change_environment,
    Kind.APPLICATION: _change_application,
    Kind.GROUP: _change_group,
    Kind.WEBHOOK: _change_webhook,
    Kind.ALERT: _change_alert,
    Kind.KEY: _change_key,
}

#: how fields of procedures are called in a declaration
NAMES: Mapping[str, str] = {
    "password": "passwordFrom",
    "secretAccessKey": "secretAccessKeyFrom",
    "secret": "secretFrom",
    "serverId": "server",
    "container": "",
    "seconds": "",
    **{name: f"{name}From" for name in (*SERVER_SECRETS, "token", "privateKey")},
}


def field_of(call: Call, field: str | None) -> str | None:
    """Return how the declaration calls a field of the procedure's input."""
    first, dot, rest = (field or "").partition(".")
    known = f"{NAMES.get(first, first)}{dot}{rest}"
    return ".".join(part for part in (call.inside, known) if part) or None


def is_production(path: ObjectPath) -> bool:
    """Tell whether it is the environment that its project is made with."""
    return path.kind is Kind.ENVIRONMENT and path.name == PRODUCTION
