"""Authenticate API keys, and authorize calls of procedures. What is not allowed explicitly is denied.

A restricted key is for certain applications or projects. It may call a procedure whose input requires an id, where
every id in the input belongs to one of those; and a list that shows nothing else. All other procedures are denied, so a
new one is closed to restricted keys until somebody decides otherwise. The answer does not reveal what else exists.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from aiohttp import web
from pydantic.alias_generators import to_camel

from gateway.admin.context import Context
from gateway.admin.inputs import Input
from gateway.api import audit
from gateway.api.context import SHARE, sender
from gateway.api.local_users import local_caller
from gateway.api.rpc.key_lookup import KEY_LOOKUP
from gateway.api.rpc.procedure import KeyAccess, Procedure
from gateway.model.api_keys import Caller, Grants
from gateway.model.errors import Forbidden, Throttled
from gateway.store import api_keys, resource_owners
from gateway.store.database import Pool, statement
from gateway.store.resource_owners import ResourceKind

#: the input fields whose values identify something that belongs to an application or a project
OWNED_IDS: Mapping[str, ResourceKind] = {
    "application_id": ResourceKind.APPLICATION,
    "deployment_id": ResourceKind.DEPLOYMENT,
    "rollback_id": ResourceKind.DEPLOYMENT,
    "subscription_id": ResourceKind.SUBSCRIPTION,
    "environment_id": ResourceKind.ENVIRONMENT,
    "target_environment_id": ResourceKind.ENVIRONMENT,
    "project_id": ResourceKind.PROJECT,
    "port_id": ResourceKind.PORT,
    "mount_id": ResourceKind.MOUNT,
    "domain_id": ResourceKind.DOMAIN,
    "group_id": ResourceKind.GROUP,
    "release_id": ResourceKind.RELEASE,
    "gate_id": ResourceKind.GATE,
    "approval_id": ResourceKind.APPROVAL,
    "alert_id": ResourceKind.ALERT,
    "alert_delivery_id": ResourceKind.ALERT_DELIVERY,
    "service_id": ResourceKind.APPLICATION,  # Dokploy's name for what has mounts
}

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_ID_FIELD = re.compile(r"(^|_)ids?$")


async def authenticate(request: web.Request, calls: int = 1, *, bearer: bool = False) -> Caller | None:
    """Return the caller who makes so many calls, None without a valid key; raises Throttled.

    A request over the gateway's own socket needs none. With `bearer`, the key may also come as `Authorization: Bearer`.
    """
    key = ", ".join(request.headers.getall("x-api-key", ()))  # of two keys, none is valid
    if not key and (local := local_caller(request)) is not None:
        return local
    if bearer and not key:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        key = key.strip() if scheme.lower() == "bearer" else ""
    return await authenticate_key(request, key, calls) if key else None


async def authenticate_key(request: web.Request, key: str, calls: int = 1) -> Caller | None:
    """Return the caller whose API key this is, None for a wrong one; raises Throttled after too many wrong ones."""
    remote, looked_up = sender(request), False

    async def look_up() -> Caller | None:
        nonlocal looked_up
        looked_up = True
        async with statement(request.app[SHARE]) as connection:
            return await api_keys.select_caller(connection, key, calls=calls, remote=remote)

    try:
        caller = await request.app[KEY_LOOKUP].find(key, remote, look_up)
    except Throttled as error:
        if not looked_up:  # else it is a valid key beyond its rate limit
            audit.record_wrong_key(request.app, address_text(request), str(error))
        raise
    if caller is None:
        audit.record_wrong_key(
            request.app, address_text(request), "there is no such key, or it is revoked or has expired"
        )
    return caller


async def select_valid(pool: Pool, digests: Collection[bytes]) -> Collection[bytes]:
    """Return those of these hashes that belong to valid keys; raises Unavailable."""
    async with statement(pool) as connection:
        return await api_keys.select_valid(connection, digests)


def address_text(request: web.Request) -> str | None:
    """Return the sender's address as the audit has it."""
    return None if (address := sender(request)) is None else str(address)


async def authorize(context: Context, caller: Caller, procedure: Procedure, given: Any) -> Input:
    """Return the parsed input; raises Forbidden unless the caller may call the procedure with it.

    The permission is checked before the input is validated, so a denied caller learns nothing about the input.
    """
    identifying = _identifying_fields(procedure)
    closed = procedure.access is KeyAccess.BY_ID and not identifying
    caller.require(procedure.name, procedure.permission, restriction=_restriction(closed, identifying))
    grants = caller.grants
    if grants is None or procedure.access is KeyAccess.ANY_KEY:
        return procedure.takes.model_validate(given)

    def denied(advice: str) -> Forbidden:
        if closed:
            advice = f"{procedure.name} needs an unrestricted key"
        return Forbidden(f"Key {caller.name!r} may use only {grants}. {advice}.")

    uncovered = "Use a key that covers this one"
    unidentified = f"{procedure.name} needs {' or '.join(to_camel(one) for one in sorted(identifying))} with this key"
    sent = given if isinstance(given, Mapping) else {}
    ids = [(name, one) for name, value in sent.items() if _ID_FIELD.search(_snake_case(name)) for one in _values(value)]
    for name, value in ids:
        field = _snake_case(name)
        if not await _covered(context, grants, OWNED_IDS.get(field), value):
            unowned = field in procedure.takes.model_fields.keys() - OWNED_IDS.keys()
            raise denied(f"{to_camel(field)} needs an unrestricted key" if unowned else uncovered)
    if procedure.access is KeyAccess.BY_ID and not identifying & {_snake_case(name) for name, _ in ids}:
        raise denied(unidentified)
    # Check the parsed input too: of two spellings of one field, the parser takes only one.
    parsed = procedure.takes.model_validate(given)
    used = {name: value for name in OWNED_IDS if (value := getattr(parsed, name, None)) is not None}
    known = {value for _, value in ids if isinstance(value, str)}
    if not set(used.values()) <= known:
        raise denied(uncovered)
    if procedure.access is KeyAccess.BY_ID and not identifying & used.keys():
        raise denied(unidentified)
    return parsed


def may_call(caller: Caller, procedure: Procedure) -> bool:
    """Tell whether the caller may call the procedure with some input."""
    closed = procedure.access is KeyAccess.BY_ID and not _identifying_fields(procedure)
    return caller.permission >= procedure.permission and (caller.grants is None or not closed)


def _identifying_fields(procedure: Procedure) -> set[str]:
    """Return the ids that can authorize a call: those that the input requires, or that `authorized_by` names."""
    fields = procedure.takes.model_fields
    required = {name for name, field in fields.items() if field.is_required()}
    return (required | (fields.keys() & procedure.authorized_by)) & OWNED_IDS.keys()


def _restriction(closed: bool, identifying: Collection[str]) -> str | None:
    """Return the option that makes a restricted key which may call the procedure, None if no such key may."""
    if closed:
        return None
    kinds = {OWNED_IDS[name] for name in identifying}
    of_project = kinds and kinds <= {ResourceKind.ENVIRONMENT, ResourceKind.PROJECT}
    return "--project ID" if of_project else "--application ID"


async def _covered(context: Context, grants: Grants, kind: ResourceKind | None, value: object) -> bool:
    if kind is None or not isinstance(value, str):
        return False
    if kind is ResourceKind.APPLICATION and value in grants.applications:
        return True
    async with statement(context.pool) as connection:
        members = await resource_owners.select_members(connection, kind, value)
        if members is not None:  # the key is for all of them, or for none
            return bool(members) and members <= await resource_owners.select_covered(connection, grants)
        owner = await resource_owners.select_owner(connection, kind, value)
    return owner is not None and grants.covers(application_id=owner.application_id, project_id=owner.project_id)


def _snake_case(name: object) -> str:
    return _HUMP.sub("_", str(name)).lower()


def _values(value: object) -> list[object]:
    """Return the ids that a field holds; null is none."""
    return [one for one in (value if isinstance(value, list) else [value]) if one is not None]
