"""What is there as a declaration. Secrets stay here: the declaration says `unchanged` where the gateway holds one."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.admin.adoption import configuration_of
from gateway.admin.context import Context
from gateway.admin.declared.current import Current, configuration_state, read
from gateway.admin.declared.references import References, path_of
from gateway.docker import adoption
from gateway.docker.container import adopted_spec
from gateway.docker.engine.client import Engine
from gateway.model.adoption import AdoptedSpec
from gateway.model.api_keys import SIGN_IN_SUFFIX
from gateway.model.configuration import Configuration
from gateway.model.declared.forms import MAX_OBJECTS
from gateway.model.declared.objects import Kind, ObjectPath, is_in
from gateway.model.declared.secrets import SUFFIX, UNCHANGED
from gateway.model.declared.states import Secret, State, Variables
from gateway.model.errors import Forbidden, GatewayError, InvalidInput, RolloutError, Unavailable
from gateway.store import api_keys, applications, declared
from gateway.store.database import Connection

_OF_NO_PROJECT = (Kind.SERVER, Kind.REGISTRY, Kind.GROUP, Kind.WEBHOOK, Kind.ALERT, Kind.KEY)


@dataclass(frozen=True, slots=True)
class Export:
    """A declaration, and remarks about it for a person."""

    document: dict[str, Any]
    notes: list[str]


def form_of(state: State, *, adopted: str | None = None, variables: bool = False) -> dict[str, Any]:
    """Return an object as a declaration has it."""
    form: dict[str, Any] = {} if adopted is None else {"adopt": adopted}
    for name, value in state.items():
        if isinstance(value, Secret):
            form[f"{name}{SUFFIX}"] = UNCHANGED
        elif isinstance(value, Variables):
            if variables:
                form[name] = dict(value.values)
            else:
                form[f"{name}{SUFFIX}"] = dict.fromkeys(value.values, UNCHANGED)
        elif name == "gates":
            form[name] = {gate: _gate_form(gate, fields) for gate, fields in value.items()}
        elif isinstance(value, list):
            form[name] = [form_of(dict(one)) if isinstance(one, Mapping) and name == "mounts" else one for one in value]
        else:
            form[name] = value
    return form


def _gate_form(name: str, fields: State) -> dict[str, Any]:
    return form_of({one: value for one, value in fields.items() if one != "kind" or value != name})


async def export(
    connection: Connection,
    context: Context,
    *,
    project: str | None,
    server_id: str | None,
    engine: bool,
    variables: bool,
) -> Export:
    """Return what the caller may see: everything, a project, or the applications of an engine."""
    if variables and not context.caller.sees_secrets:
        raise Forbidden(f"Key {context.caller.name!r} may not see variables: they need scope admin")
    made = Export({}, [])
    references = References(connection, context.caller)
    if not engine and project is None:
        for kind in _OF_NO_PROJECT:
            await _add_all(connection, context, references, kind, made)
    for kind in (Kind.PROJECT, Kind.ENVIRONMENT, Kind.APPLICATION):
        for object_id in await _ids(connection, references, kind):
            path = await path_of(connection, kind, object_id)
            if project is not None and not is_in(path, project):
                continue
            if engine and (kind is not Kind.APPLICATION or not await _is_at(connection, context, object_id, server_id)):
                continue
            await _add(connection, context, path, object_id, made, variables=variables)
    return made


async def _ids(connection: Connection, references: References, kind: Kind) -> list[str]:
    found = await declared.select_all_ids(connection, kind, MAX_OBJECTS + 1)
    if len(found) > MAX_OBJECTS:
        raise InvalidInput(f"there are more than {MAX_OBJECTS} {kind}s: export one project at a time", field="project")
    return await references.visible(kind, found)


async def _is_at(connection: Connection, context: Context, object_id: str, server_id: str | None) -> bool:
    found = await applications.select_application(
        connection, context.vault, object_id, without=applications.TO_RUN | {"base"}
    )
    return found.server_id == server_id


async def _add_all(connection: Connection, context: Context, references: References, kind: Kind, made: Export) -> None:
    caller = context.caller
    if (kind not in {Kind.GROUP, Kind.ALERT} and caller.grants is not None) or (
        kind is Kind.KEY and not caller.is_global_admin
    ):
        return
    for object_id in await _ids(connection, references, kind):
        path = await path_of(connection, kind, object_id)
        if kind is Kind.KEY and await _expires(connection, object_id, made):
            continue
        await _add(connection, context, path, object_id, made)


async def _expires(connection: Connection, key_id: str, made: Export) -> bool:
    """Tell whether a key expires, which a declaration cannot say: applied again, it would stay for ever."""
    found = await api_keys.select_key(connection, key_id)
    if found.expires_at is None:
        return False
    if not found.name.endswith(SIGN_IN_SUFFIX):
        made.notes.append(f"key {found.name} is left out: it expires at {found.expires_at.isoformat()}")
    return True


async def _add(
    connection: Connection, context: Context, path: ObjectPath, object_id: str, made: Export, *, variables: bool = False
) -> None:
    try:
        current = await read(connection, context, path.kind, object_id)
    except Forbidden:
        current = Current(object_id, {})  # only a place of others
    except Unavailable as error:
        made.notes.append(f"{path} is left out: {error}")
        return
    form = form_of(current.state, adopted=current.adopted, variables=variables)
    if not form and path.kind in {Kind.PROJECT, Kind.ENVIRONMENT} and _is_default(path):
        return
    inside = made.document
    for part in path.parts[:-1]:
        inside = inside.setdefault(part, {})
    if path.name in inside and path.kind not in {Kind.PROJECT, Kind.ENVIRONMENT}:
        made.notes.append(f"{path} is left out: another one has the same name; rename one of them")
        return
    before = inside.get(path.name, {})
    inside[path.name] = {**form, **before}


def _is_default(path: ObjectPath) -> bool:
    """Tell whether it is there without being declared: the project Default and its environment."""
    return (path.project or path.name) == "Default"


# -- containers that can be adopted


async def adoptable(engine: Engine, server: str | None, adopted: Collection[str]) -> Export:
    """Return a declaration that adopts what runs on the engine and belongs to no application.

    `adopted` are the ids of containers that applications adopted. Raises Unavailable.
    """
    made = Export({"applications": {}}, [])
    try:
        identity = await engine.identify()
        names = [name for name, _, _ in await adoption.list_adoptable(engine, adopted)]
    except RolloutError as error:
        raise Unavailable(f"cannot list the containers of the Docker Engine: {error}") from error
    for name in names:
        try:
            base = await adoption.inspect_existing(engine, name, host_name=identity.name)
        except GatewayError as error:
            made.notes.append(f"{name} is left out: {error}")
            continue
        made.document["applications"][name] = _adopting(base, server)
        made.notes.append(_describe(base))
    return made


def _adopting(base: AdoptedSpec, server: str | None) -> dict[str, Any]:
    reference = base.reference if base.reference.tag is None else base.reference.without_digest()
    own = configuration_state(Configuration.model_validate(configuration_of(base)))
    return {"adopt": base.name, "dockerImage": str(reference), **({"server": server} if server else {}), **own}


def _describe(base: AdoptedSpec) -> str:
    if base.is_service:
        return f"{base.name}: what the service is configured with stays where the application does not set it"
    body = adopted_spec.user_config(base)
    found = {
        "variables": [text.partition("=")[0] for text in body.get("Env", ())],
        "ports": sorted(body["HostConfig"].get("PortBindings") or {}),
        "mounts": sorted(adopted_spec.mount_targets(body["HostConfig"])),
        "networks": sorted(adopted_spec.endpoints(base)),
    }
    said = "; ".join(f"{name} {', '.join(values)}" for name, values in found.items() if values)
    return f"{base.name}: what the container was started with stays where the application does not set it: {said}"


def combined(one: Export, other: Export) -> Export:
    """Return both; of two applications of one name, that which exists."""
    document = {**other.document, **one.document}
    document["applications"] = {**other.document.get("applications", {}), **one.document.get("applications", {})}
    return Export({name: part for name, part in document.items() if part}, one.notes + other.notes)
