"""What a declaration wants of an object, as flat fields, in the same words as `current` has them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic import ValidationError

from gateway.admin import gates as gate_admin
from gateway.admin.configuration_patch import is_setting
from gateway.admin.declared.alerts import want_alert
from gateway.admin.declared.current import (
    SERVER_SECRETS,
    Current,
    configuration_state,
    grants_state,
    registration_state,
    subscription_state,
)
from gateway.admin.declared.references import References
from gateway.admin.endpoints import find_source
from gateway.admin.registries import parse_registration
from gateway.model.configuration import Configuration
from gateway.model.declared.objects import Declared, Kind, located
from gateway.model.declared.secrets import UNCHANGED, Secrets
from gateway.model.declared.states import Secret, State, Variables, canonical
from gateway.model.endpoints import parse_networks
from gateway.model.errors import InvalidInput
from gateway.model.reference import Reference, Repository, parse_domain
from gateway.model.tag_policies import TagPolicy

_NOTHING = Current("", {})


async def want(
    references: References, declared: Declared, secrets: Mapping[str, str], current: Current | None
) -> State:
    """Return what the declaration wants. Raises InvalidInput naming the field by its path in the object."""
    return await _WANTED[declared.path.kind](references, declared.form, Secrets(secrets), current or _NOTHING)


def _present(fields: Mapping[str, Any]) -> State:
    return {name: value for name, value in fields.items() if value not in (None, "", [], {}, ())}


def _held(current: State, name: str) -> str | None:
    held = current.get(name)
    return held.value if isinstance(held, Secret) else None


def _secret(secrets: Secrets, form: Any, name: str, current: State, *, path: str | None = None) -> Secret | None:
    """Return the secret that a field of the form says, by its camelCase name without `From`."""
    attribute = "".join(f"_{sign.lower()}" if sign.isupper() else sign for sign in f"{name}From")
    where = getattr(form, attribute)
    found = secrets.value(path or f"{name}From", where, _held(current, name))
    return None if found is None else Secret(found, is_kept=where == UNCHANGED)


def _variables(form: Any, secrets: Secrets, current: State) -> Variables | None:
    held = current.get("env")
    stored = held.values if isinstance(held, Variables) else {}
    values = dict(form.env)
    for name, where in form.env_from.items():
        field = f"envFrom.{name}"
        if name in values:
            raise InvalidInput(f"{name} stands in env too", field=field)
        values[name] = secrets.value(field, where, stored.get(name)) or ""
    return Variables(values) if values else None


async def _gates(references: References, form: Any, secrets: Secrets, current: State) -> dict[str, dict[str, Any]]:
    found = {}
    for name, gate in form.gates.items():
        before = current.get("gates", {}).get(name, {})
        kind = gate.kind or name
        path = f"gates.{name}"
        rule = dict(gate.rule)
        if kind == "promotion" and isinstance(rule.get("follows"), str):
            rule["follows"] = await references.full_name(rule["follows"], f"{path}.rule.follows")
        if gate.enabled or rule:
            with _inside(path):
                rule = gate_admin.canonical_rule(kind, rule)
        # Without a word about the secret, one that was made stays.
        where = gate.secret_from or (UNCHANGED if before.get("secret") else None)
        secret = secrets.value(f"{path}.secretFrom", where, _held(before, "secret"))
        fields = {
            "kind": kind,
            "rule": rule,
            "secret": None if secret is None else Secret(secret),
            "required": gate.required or None,
        }
        found[name] = _present(fields) | ({} if gate.enabled else {"enabled": False})
    return found


class _inside:  # noqa: N801 - reads as a word
    """Put a path before the field of an error."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, InvalidInput):
            field = f"{self._path}.{error.field}" if error.field else self._path
            raise InvalidInput(str(error), field=field) from error


def _subscriptions(form: Any) -> list[dict[str, Any]]:
    found = []
    for number, one in enumerate(form.subscriptions):
        with _inside(f"subscriptions.{number}"):
            policy = TagPolicy.parse(
                one.policy,
                one.pattern,
                include=one.include,
                exclude=one.exclude,
                prereleases=one.prereleases,
                downgrades=one.allow_downgrade,
            )
            if one.repository is None and form.docker_image is None:
                raise InvalidInput("the application has no image: name the repository", field="repository")
            repository = (
                Reference.parse(form.docker_image).repository
                if one.repository is None
                else Repository.parse(one.repository)
            )
        found.append(subscription_state(str(repository), policy))
    return sorted(found, key=canonical)


def _settings(form: Any, secrets: Secrets, current: State) -> State:
    """Return the settings, with the contents of files."""
    given = form.model_dump(mode="python", by_alias=True, exclude_unset=True)
    sent = {name: value for name, value in given.items() if is_setting(name)}
    files = {mount["target"]: mount.get("content") for mount in current.get("mounts", ()) if "content" in mount}
    mounts = []
    for number, mount in enumerate(form.mounts):
        shown = mount.model_dump(by_alias=True, exclude_unset=True, exclude={"content_from"})
        if mount.content_from is not None:
            path = f"mounts.{number}.contentFrom"
            if "content" in shown or mount.type != "file":
                raise InvalidInput("only a file has a content, from one place", field=path)
            held = files.get(mount.target)
            shown["content"] = secrets.value(path, mount.content_from, held.value if held else None)
        mounts.append(shown)
    try:
        return configuration_state(Configuration.model_validate({**sent, **({"mounts": mounts} if mounts else {})}))
    except ValidationError as error:
        raise located(error, {**sent, "mounts": mounts}) from error


async def _application(references: References, form: Any, secrets: Secrets, current: Current) -> State:
    fields = {
        "description": form.description,
        "dockerImage": form.docker_image,
        "registryUrl": form.registry_url,
        "username": form.username,
        "password": _secret(secrets, form, "password", current.state),
        "env": _variables(form, secrets, current.state),
    }
    below = {
        "server": form.server,
        "subscriptions": _subscriptions(form),
        "gates": await _gates(references, form, secrets, current.state),
    }
    state = _present(fields) | ({} if form.auto_deploy else {"autoDeploy": False})
    state |= _settings(form, secrets, current.state) | _present(below)
    return state if form.reconcile is None else {**state, "reconcile": form.reconcile}


async def _project(references: References, form: Any, secrets: Secrets, current: Current) -> State:
    return _present(
        {
            "description": form.description,
            "env": _variables(form, secrets, current.state),
            "gates": await _gates(references, form, secrets, current.state),
        }
    )


async def _group(references: References, form: Any, _secrets: Secrets, _current: Current) -> State:
    members = {await references.full_name(name, f"members.{name}"): wave for name, wave in form.members.items()}
    if len(members) < len(form.members):
        raise InvalidInput("two members are the same application", field="members")
    return _present({"description": form.description, "settle": form.settle, "members": members})


async def _webhook(_references: References, form: Any, secrets: Secrets, current: Current) -> State:
    source = find_source(form.source)
    signs = source.header_with(form.settings) is not None
    if form.secret_from is not None and not signs:
        raise InvalidInput(f"{source.name} sends no secret: only the path is secret", field="secretFrom")
    where = form.secret_from or (UNCHANGED if current.state.get("secret") else None)
    secret = secrets.value("secretFrom", where, _held(current.state, "secret"))
    fields = {
        "source": source.name,
        "secret": Secret(secret) if secret and signs else None,
        "host": parse_domain(form.host) if form.host else None,
        "aliases": sorted(set(form.aliases)),
        "settings": form.settings,
        "repositories": form.repositories,
        "networks": [str(network) for network in parse_networks(form.networks)],
        "rate": form.rate,
    }
    return _present(fields) | ({} if form.enabled else {"enabled": False})


async def _registry(_references: References, form: Any, secrets: Secrets, current: Current) -> State:
    password = _secret(secrets, form, "password", current.state)
    key = _secret(secrets, form, "secretAccessKey", current.state)
    try:
        found = parse_registration(
            {
                **form.model_dump(exclude={"password_from", "secret_access_key_from"}),
                "registry_name": "-",
                "password": password and password.value,
                "secret_access_key": key and key.value,
            }
        )
    except InvalidInput as error:
        named = {"password": "passwordFrom", "secretAccessKey": "secretAccessKeyFrom"}
        raise InvalidInput(str(error), field=named.get(error.field or "", error.field)) from error
    state = registration_state(found)
    return state | {
        name: one for name, one in (("password", password), ("secretAccessKey", key)) if name in state and one
    }


async def _server(_references: References, form: Any, secrets: Secrets, current: Current) -> State:
    held = {name: _secret(secrets, form, name, current.state) for name in SERVER_SECRETS}
    return _present({"host": form.host, "description": form.description, **held})


async def _alert(references: References, form: Any, secrets: Secrets, current: Current) -> State:
    return await want_alert(references, form, secrets, current.state)


async def _key(references: References, form: Any, _secrets: Secrets, _current: Current) -> State:
    state: State = {"scope": form.scope}
    if form.applications is None and form.projects is None:
        return state
    names = [await references.full_name(one, f"applications.{at}") for at, one in enumerate(form.applications or ())]
    return state | grants_state(names, form.projects or ())


_WANTED: Mapping[Kind, Callable[[References, Any, Secrets, Current], Awaitable[State]]] = {
    Kind.SERVER: _server,
    Kind.REGISTRY: _registry,
    Kind.PROJECT: _project,
    Kind.ENVIRONMENT: _project,
    Kind.APPLICATION: _application,
    Kind.GROUP: _group,
    Kind.WEBHOOK: _webhook,
    Kind.ALERT: _alert,
    Kind.KEY: _key,
}
