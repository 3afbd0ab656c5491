"""Who is let in, and to what. What is not known to be meant for a key is refused to it.

A key that is restricted is for certain applications or projects. A procedure is open to it where every id that was sent
leads to one of those, and its input demands such an id; a list where it shows nothing else. All others are refused,
so that a new one has to be thought of before it is open. What there is elsewhere, the answer does not tell.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from aiohttp import web

from gateway.admin.context import Context
from gateway.admin.inputs import Input
from gateway.api import audit
from gateway.api.context import CONTEXT, TRUSTED_PROXIES
from gateway.api.rpc.key_lookup import GUESSES
from gateway.api.rpc.procedure import KeyAccess, Procedure
from gateway.model.api_keys import Caller, Grants
from gateway.model.endpoints import Address, sender_address
from gateway.model.errors import Forbidden, Throttled
from gateway.store import api_keys, resource_owners
from gateway.store.database import Pool, statement
from gateway.store.resource_owners import ResourceKind

#: ids that lead to an application, as our inputs call them
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
    "service_id": ResourceKind.APPLICATION,  # the contract's word, for what has mounts
}

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_AN_ID = re.compile(r"(^|_)ids?$")


async def authenticate(request: web.Request, calls: int = 1, *, bearer: bool = False) -> Caller | None:
    """Return who asks for so many calls, None for whom there is no valid key; raises Throttled.

    With `bearer` the key may come as `Authorization: Bearer`, too.
    """
    key = ", ".join(request.headers.getall("x-api-key", ()))  # of two, neither is meant
    if bearer and not key:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        key = key.strip() if scheme.lower() == "bearer" else ""
    if not key:
        return None
    remote, looked_up = sender(request), False

    async def look_up() -> Caller | None:
        nonlocal looked_up
        looked_up = True
        async with statement(request.app[CONTEXT].pool) as connection:
            return await api_keys.select_caller(connection, key, calls=calls, remote=remote)

    try:
        caller = await request.app[GUESSES].find(key, remote, look_up)
    except Throttled as error:
        if not looked_up:  # else it is a known key that is used too often
            audit.wrong_key(request.app, address(request), str(error))
        raise
    if caller is None:
        audit.wrong_key(request.app, address(request), "there is no such key, or it is revoked or over")
    return caller


async def select_valid(pool: Pool, digests: Collection[bytes]) -> Collection[bytes]:
    """Return which of these hashes are those of valid keys; raises Unavailable."""
    async with statement(pool) as connection:
        return await api_keys.select_valid(connection, digests)


def sender(request: web.Request) -> Address | None:
    """Return who sends; None where that is not known."""
    forwarded = ",".join(request.headers.getall("X-Forwarded-For", ()))
    proxies = request.app[TRUSTED_PROXIES]
    return sender_address(request.remote, forwarded, proxies)


def address(request: web.Request) -> str | None:
    """Return the same as it is written down."""
    return None if (found := sender(request)) is None else str(found)


async def authorize(context: Context, caller: Caller, procedure: Procedure, given: Any) -> Input:
    """Return the input, understood; raises Forbidden unless the caller may have this done, wherever it leads.

    Whoever may not is told so before what is wrong with the input.
    """
    caller.check(procedure.name, procedure.permission)
    grants = caller.grants
    if grants is None or procedure.access is KeyAccess.ANY_KEY:
        return procedure.takes.model_validate(given)
    refused = Forbidden(f"key {caller.name!r} is for {grants} only: this {procedure.name} reaches beyond that")
    sent = given if isinstance(given, Mapping) else {}
    ids = [(name, one) for name, value in sent.items() if _AN_ID.search(_spelt(name)) for one in _each(value)]
    for name, value in ids:
        if not await _covered(context, grants, OWNED_IDS.get(_spelt(name)), value):
            raise refused
    leading = _leading(procedure)
    if procedure.access is KeyAccess.BY_ID and not leading & {_spelt(name) for name, _ in ids}:
        raise refused
    # What counts is what was understood: of two spellings of one name only one is.
    understood = procedure.takes.model_validate(given)
    led = {name: value for name in OWNED_IDS if (value := getattr(understood, name, None)) is not None}
    known = {value for _, value in ids if isinstance(value, str)}
    if not set(led.values()) <= known or (procedure.access is KeyAccess.BY_ID and not leading & led.keys()):
        raise refused
    return understood


def _leading(procedure: Procedure) -> set[str]:
    """Return the ids by which a procedure may lead: those that its input demands, or that it says do."""
    fields = procedure.takes.model_fields
    demanded = {name for name, field in fields.items() if field.is_required()}
    return (demanded | (fields.keys() & procedure.authorized_by)) & OWNED_IDS.keys()


async def _covered(context: Context, grants: Grants, noun: ResourceKind | None, value: object) -> bool:
    if noun is None or not isinstance(value, str):
        return False
    if noun is ResourceKind.APPLICATION and value in grants.applications:
        return True
    async with statement(context.pool) as connection:
        where = await resource_owners.select_owner(connection, noun, value)
    return where is not None and grants.cover(application_id=where.application_id, project_id=where.project_id)


def _spelt(name: object) -> str:
    return _HUMP.sub("_", str(name)).lower()


def _each(value: object) -> list[object]:
    """Return what leads somewhere: null does not."""
    return [one for one in (value if isinstance(value, list) else [value]) if one is not None]
