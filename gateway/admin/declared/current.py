"""What is there: each object as flat fields, in the words of a declaration."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.admin.context import Context
from gateway.admin.declared.alerts import read_alert
from gateway.model.applications import Application, Subscription, parse_environment
from gateway.model.configuration import Configuration
from gateway.model.declared.objects import Kind
from gateway.model.declared.states import Secret, State, Variables, canonical
from gateway.model.errors import Forbidden, Unavailable
from gateway.model.gates import GateSetting, Level
from gateway.model.registries import Registration
from gateway.sources import SOURCES
from gateway.store import (
    api_keys,
    applications,
    declared,
    endpoints,
    environments,
    gates,
    groups,
    projects,
    registries,
    resource_owners,
    servers,
    subscriptions,
)
from gateway.store.database import Connection
from gateway.store.gates import Owner

#: what the default environment of each project is described as, unless somebody says otherwise
DEFAULT_DESCRIPTION = "Production environment"
_PLACE = "declared"


@dataclass(frozen=True, slots=True)
class Current:
    """An object that is there. `parts` are the ids of its gates and subscriptions, by name or place."""

    object_id: str
    state: State
    parts: Mapping[str, str] = field(default_factory=dict)
    #: the name of the container or service that an application was adopted with
    adopted: str | None = None


def version_of(context: Context, kind: Kind, current: Current | None) -> str | None:
    """Return what changes whenever the object does, and tells nothing of it; None where there is none."""
    if current is None:
        return None
    return context.vault.derive(f"{kind}/{current.object_id}/{canonical(current.state)}", _PLACE)


async def read(connection: Connection, context: Context, kind: Kind, object_id: str) -> Current:
    """Return the object. Raises NotFound, Forbidden where the caller may not see it, and Unavailable."""
    if context.caller.grants is not None and kind in _CLOSED:
        raise Forbidden(
            f"Key {context.caller.name!r} may use only {context.caller.grants}. A {kind} needs an unrestricted key."
        )
    return await _READERS[kind](connection, context, object_id)


_CLOSED = {Kind.SERVER, Kind.REGISTRY, Kind.WEBHOOK, Kind.KEY}


def _present(fields: Mapping[str, Any]) -> State:
    """Return the fields that are set."""
    return {name: value for name, value in fields.items() if value not in (None, "", [], {}, ())}


def _variables(text: str | None) -> Variables | None:
    found = parse_environment(text or "")
    return Variables(found) if found else None


def _secret(value: str | None) -> Secret | None:
    return Secret(value) if value else None


async def names_of(connection: Connection, context: Context, application_ids: Collection[str]) -> dict[str, str]:
    """Return the full names of those of these applications that the caller's key is for, by id."""
    if not application_ids:
        return {}
    if (grants := context.caller.grants) is not None:
        application_ids = await resource_owners.select_covered(connection, grants) & set(application_ids)
    return await declared.select_full_names(connection, application_ids)


# -- gates and subscriptions, which belong to another object


def rule_in_names(kind: str, rule: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the rule with the name of the application that it follows instead of the id."""
    if kind == "promotion" and "follows" in rule:
        return {**rule, "follows": names.get(rule["follows"], rule["follows"])}
    return dict(rule)


async def _gates(
    connection: Connection, context: Context, owner: Owner
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return the owner's own gates as flat fields by name, and their ids."""
    own = [one for one in await gates.select_gates(connection, context.vault, owner) if one.level is owner.level]
    followed = [str(one.rule["follows"]) for one in own if one.kind == "promotion" and "follows" in one.rule]
    names = await names_of(connection, context, followed)
    return {one.name: _gate(one, names) for one in own}, {f"gates.{one.name}": one.gate_id for one in own}


def _gate(one: GateSetting, names: Mapping[str, str]) -> dict[str, Any]:
    if one.unreadable is not None:
        raise Unavailable(one.unreadable)
    return _present(
        {
            "kind": one.kind,
            "rule": rule_in_names(one.kind, one.rule, names),
            "secret": _secret(one.secret),
            "required": one.required or None,
        }
    ) | ({} if one.enabled else {"enabled": False})


def subscription_state(repository: str, policy: Any) -> dict[str, Any]:
    """Return a subscription as flat fields."""
    return {
        "repository": repository,
        "policy": str(policy.rule),
        **_present(
            {
                "pattern": policy.pattern,
                "include": list(policy.include),
                "exclude": list(policy.exclude),
                "prereleases": policy.prereleases or None,
                "allowDowngrade": policy.downgrades or None,
            }
        ),
    }


def _subscriptions(found: Sequence[Subscription]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    rows = sorted(
        ((subscription_state(str(one.repository), one.policy), one.subscription_id) for one in found),
        key=lambda row: canonical(row[0]),
    )
    return [state for state, _ in rows], {f"subscriptions.{place}": each for place, (_, each) in enumerate(rows)}


# -- each kind


def configuration_state(configuration: Configuration) -> State:
    """Return the settings as flat fields, without ids."""
    found = configuration.model_dump(
        mode="json",
        by_alias=True,
        exclude_defaults=True,
        exclude={"ports": {"__all__": {"port_id"}}, "mounts": {"__all__": {"mount_id", "known_as"}}},
    )
    for mount in found.get("mounts", ()):
        if "content" in mount:
            mount["content"] = Secret(mount["content"])
    return found


def _password(application: Application) -> Secret | None:
    if application.credentials is not None:
        return Secret(application.credentials.password)
    return Secret("") if application.has_password else None  # without a user name it is not used


def application_state(application: Application) -> State:
    """Return the fields of the application alone, without its server, its gates and its subscriptions."""
    return (
        _present(
            {
                "description": application.description,
                "dockerImage": application.docker_image,
                "registryUrl": application.registry_url,
                "username": application.username,
                "password": _password(application),
                "env": _variables(application.environment),
            }
        )
        | ({} if application.auto_deploy else {"autoDeploy": False})
        | configuration_state(application.configuration)
    )


async def _application(connection: Connection, context: Context, object_id: str) -> Current:
    found = await applications.select_application(connection, context.vault, object_id)
    own, gate_ids = await _gates(connection, context, Owner(Level.APPLICATION, object_id))
    rows = [one for one in await subscriptions.select_subscriptions(connection, object_id) if not one.from_image]
    subscribed, subscription_ids = _subscriptions(rows)
    server = found.server_id
    if server is not None and context.caller.grants is None:  # servers are closed to restricted keys
        server = (await servers.select_server(connection, context.vault, server)).name
    reconcile = await declared.select_reconcile(connection, object_id)
    state = application_state(found) | _present({"server": server, "subscriptions": subscribed, "gates": own})
    if reconcile is not None:
        state["reconcile"] = reconcile
    adopted = None if found.adopted_spec is None else found.app_name
    return Current(object_id, state, gate_ids | subscription_ids, adopted)


async def _project(connection: Connection, context: Context, object_id: str) -> Current:
    found = await projects.select_project(connection, context.vault, object_id)
    _require_variables(context, object_id, found.name)
    own, ids = await _gates(connection, context, Owner(Level.PROJECT, object_id))
    fields = {"description": found.description, "env": _variables(found.variables), "gates": own}
    return Current(object_id, _present(fields), ids)


async def _environment(connection: Connection, context: Context, object_id: str) -> Current:
    found = await environments.select_environment(connection, context.vault, object_id)
    _require_variables(context, found.project_id, found.name)
    own, ids = await _gates(connection, context, Owner(Level.ENVIRONMENT, object_id))
    said = None if found.is_default and found.description == DEFAULT_DESCRIPTION else found.description
    return Current(object_id, _present({"description": said, "env": _variables(found.variables), "gates": own}), ids)


def _require_variables(context: Context, project_id: str, name: str) -> None:
    if context.caller.sees_secrets and not context.caller.sees_variables(project_id):
        raise Forbidden(
            f"Key {context.caller.name!r} may use only {context.caller.grants}: it may not see the variables of "
            f"{name}. Use a key that covers the project."
        )


async def _group(connection: Connection, _context: Context, object_id: str) -> Current:
    found = await groups.select_group(connection, object_id)
    names = await declared.select_full_names(connection, found.waves)
    members = {names.get(one, one): wave for one, wave in found.waves.items()}
    return Current(object_id, _present({"description": found.description, "settle": found.settle, "members": members}))


async def _webhook(connection: Connection, context: Context, object_id: str) -> Current:
    found = await endpoints.select_endpoint_by_id(connection, context.vault, object_id)
    source = SOURCES.get(found.source)
    signs = source is not None and source.header_with(found.settings) is not None
    fields = {
        "source": found.source,
        "secret": _secret(found.secret) if signs else None,
        "host": found.host,
        "aliases": sorted(found.aliases),
        "settings": dict(found.settings),
        "repositories": list(found.repositories),
        "networks": [str(network) for network in found.networks],
        "rate": found.rate,
    }
    return Current(object_id, _present(fields) | ({} if found.enabled else {"enabled": False}))


def registration_state(found: Registration) -> State:
    """Return a registry login as flat fields."""
    fields = found.fields()
    return _present(
        {
            "registryUrl": fields["registry_url"],
            "registryType": "ecr" if fields["registry_type"] == "ecr" else None,
            "username": fields.get("username"),
            "password": _secret(fields.get("password")),
            "imagePrefix": fields["image_prefix"],
            "caCertificate": fields["ca_certificate"],
            "region": fields.get("region"),
            "accessKeyId": fields.get("access_key_id"),
            "secretAccessKey": _secret(fields.get("secret_access_key")),
            "profile": fields.get("profile"),
            "roleArn": fields.get("role_arn"),
            "externalId": fields.get("external_id"),
        }
    )


async def _registry(connection: Connection, context: Context, object_id: str) -> Current:
    found = await registries.select_registry(connection, context.vault, object_id)
    if found.unreadable is not None:
        raise Unavailable(found.unreadable)
    return Current(object_id, registration_state(found))


SERVER_SECRETS = {
    "tlsCa": "tls_ca",
    "tlsCert": "tls_cert",
    "tlsKey": "tls_key",
    "sshKey": "ssh_key",
    "knownHosts": "known_hosts",
}


async def _server(connection: Connection, context: Context, object_id: str) -> Current:
    found = await servers.select_server(connection, context.vault, object_id)
    if found.unreadable is not None:
        raise Unavailable(found.unreadable)
    held = {name: _secret(getattr(found.access, column)) for name, column in SERVER_SECRETS.items()}
    return Current(object_id, _present({"host": found.access.host, "description": found.description, **held}))


async def _alert(connection: Connection, context: Context, object_id: str) -> Current:
    return Current(object_id, await read_alert(connection, context, object_id))


async def _key(connection: Connection, context: Context, object_id: str) -> Current:
    found = await api_keys.select_key(connection, object_id)
    state: State = {"scope": found.permission.scope_name}
    if found.grants is not None:
        names = await declared.select_full_names(connection, found.grants.applications)
        granted = [
            (await projects.select_project(connection, context.vault, one, without=("variables",))).name
            for one in found.grants.projects
        ]
        state |= grants_state([names.get(one, one) for one in found.grants.applications], granted)
    return Current(object_id, state)


def grants_state(applications: Sequence[str], projects: Sequence[str]) -> State:
    """Return what a restricted key is for as flat fields; it may be nothing that is there any more."""
    return _present({"applications": sorted(applications), "projects": sorted(projects)}) or {"applications": []}


_READERS: Mapping[Kind, Callable[[Connection, Context, str], Awaitable[Current]]] = {
    Kind.SERVER: _server,
    Kind.REGISTRY: _registry,
    Kind.PROJECT: _project,
    Kind.ENVIRONMENT: _environment,
    Kind.APPLICATION: _application,
    Kind.GROUP: _group,
    Kind.WEBHOOK: _webhook,
    Kind.ALERT: _alert,
    Kind.KEY: _key,
}
