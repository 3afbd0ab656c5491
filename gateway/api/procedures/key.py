"""key.*: API keys, as the command line manages them: also those that are revoked or expired."""

import secrets
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Self

from pydantic import AwareDatetime, Field, StringConstraints

from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input
from gateway.api.procedures._pagination import Paged, paged
from gateway.api.procedures._response import Moment, Response
from gateway.api.procedures.approval import approver_of
from gateway.api.rpc.procedure import Answer, Procedures
from gateway.model.api_keys import MAX_LIFETIME, SIGN_IN_SUFFIX, Grants, Permission, ScopeName
from gateway.model.errors import InvalidInput, NotFound, Unavailable
from gateway.store import api_keys, approvals, gateway_address, sign_ins
from gateway.store.api_keys import Key
from gateway.store.database import statement, transaction

procedures = Procedures()

_SIGNED_IN = timedelta(hours=12)
_LINK = timedelta(minutes=10)
_TOKEN_BYTES = 32
_Ids = Annotated[list[Id], Field(max_length=1000)]


class Create(Input):
    name: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    scope: ScopeName = "admin"
    application_ids: Annotated[
        _Ids | None, Field(description="Applications that the key is for. Null, with projectIds: an unrestricted key.")
    ] = None
    project_ids: _Ids | None = None
    expires_at: Annotated[AwareDatetime | None, Field(description="Null: never.")] = None


class Named(Input):
    key_id: Id


class Word(Input):
    key: Annotated[str, Field(min_length=1, max_length=255, description="Its id, its prefix or its name.")]


class SignIn(Input):
    scope: ScopeName = "admin"


class ApiKeyRow(Response):
    """An API key without its secret. `applications` and `projects` are null for an unrestricted one."""

    key_id: str
    name: str
    prefix: str
    scope: ScopeName
    applications: list[str] | None
    projects: list[str] | None
    created_at: Moment
    expires_at: Moment | None
    last_used_at: Moment | None
    last_used_from: str | None
    revoked_at: Moment | None

    @classmethod
    def from_key(cls, key: Key, /, **more: Any) -> Self:
        return cls.make(
            key,
            scope=key.permission.scope_name,
            applications=None if key.grants is None else sorted(key.grants.applications),
            projects=None if key.grants is None else sorted(key.grants.projects),
            **more,
        )


class CreatedApiKey(ApiKeyRow):
    """A new API key, with its secret, which is shown once."""

    key: str


class RevokedKeys(Response):
    """How many keys were revoked."""

    count: int


class SignInLink(Response):
    """A link that signs in to the dashboard once, and the key that it signs in with."""

    link: str
    key_id: str
    expires_at: Moment


@procedures.mutation("key.create", gives=CreatedApiKey)
async def create(context: Context, given: Create) -> Answer:
    """Create an API key.

    The key is shown once.
    """
    restricted = given.application_ids is not None or given.project_ids is not None
    grants = Grants(frozenset(given.application_ids or ()), frozenset(given.project_ids or ())) if restricted else None
    if given.expires_at is not None and not timedelta() < given.expires_at - datetime.now(UTC) <= MAX_LIFETIME:
        raise InvalidInput("it is not between now and ten years from now", field="expiresAt")
    async with transaction(context.pool) as connection:
        key, made = await api_keys.insert_key(
            connection,
            given.name,
            permission=Permission[given.scope.upper()],
            grants=grants,
            expires_at=given.expires_at,
        )
    return Answer(CreatedApiKey.from_key(made, key=key))


@procedures.query("key.all", gives=list[ApiKeyRow], needs=Permission.ADMIN)
async def select_all(context: Context, given: Paged) -> Answer:
    """List API keys, newest first, without their secrets, also those that are revoked."""
    page = given.page
    async with statement(context.pool) as connection:
        found = await api_keys.select_keys(connection, page)
    return paged(found, page, lambda one: (one.created_at, one.key_id), ApiKeyRow.from_key)


@procedures.mutation("key.revoke", gives=RevokedKeys)
async def revoke(context: Context, given: Word) -> Answer:
    """Revoke a key by its id or prefix, or every key of a name."""
    async with transaction(context.pool) as connection:
        return Answer(RevokedKeys.make(count=await api_keys.revoke_keys(connection, given.key)))


@procedures.mutation("key.restore", gives=RevokedKeys)
async def restore(context: Context, given: Named) -> Answer:
    """Enable a revoked key again."""
    async with transaction(context.pool) as connection:
        if not await api_keys.restore_by_id(connection, given.key_id):
            raise NotFound(f"no key with the id {given.key_id} is revoked; see: gateway keys list")
    return Answer(RevokedKeys.make(count=0))


@procedures.mutation("key.signIn", gives=SignInLink, raises=(Unavailable,))
async def sign_in(context: Context, given: SignIn) -> Answer:
    """Create a link that signs in to the dashboard.

    It works once, within ten minutes. It signs in with a new key, which expires after twelve hours. Nobody sees that
    key; revoke it to sign out.
    """
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    async with transaction(context.pool) as connection:
        holder = await approvals.select_holder(connection, approver_of(context.caller))
        public_url, listens = await gateway_address.select_serving(connection)
        base = public_url or listens
        if base is None:
            raise Unavailable("no gateway has served with this database yet: gateway serve")
        _, key = await api_keys.insert_key(
            connection,
            f"{context.caller.name}{SIGN_IN_SUFFIX}",
            permission=Permission[given.scope.upper()],
            expires_at=datetime.now(UTC) + _SIGNED_IN,
            held_by=holder.identity,
        )
        await sign_ins.insert_link(connection, token, key.key_id, _LINK)
    link = f"{base.rstrip('/')}/dashboard/sign-in?link={token}"
    return Answer(SignInLink.make(key, link=link))
