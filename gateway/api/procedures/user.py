"""user.*: the user and the API keys. The gateway has one user, the owner. Each key has its own scope."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints

from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input
from gateway.api.procedures._response import Response
from gateway.api.rpc.procedure import Answer, KeyAccess, Procedures
from gateway.model.api_keys import MAX_LIFETIME, Grants, Permission, ScopeName
from gateway.model.errors import InvalidInput, NotFound
from gateway.store import api_keys
from gateway.store.api_keys import Key, Rate
from gateway.store.database import transaction

procedures = Procedures()

_OWNER = "owner"
_ORGANIZATION = "default"
_START = 6  # characters, as the contract has it
# The rate limit of a key that enables one without numbers: https://better-auth.com/docs/plugins/api-key
_RATE = Rate(10, timedelta(days=1))

_Ids = Annotated[tuple[Id, ...], Field(max_length=1000)]


class CreateKey(Input):
    name: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{0,32}$")] | None = None
    expires_in: Annotated[
        Annotated[int, Field(ge=1, le=int(MAX_LIFETIME.total_seconds()))] | None,
        Field(description="Lifetime of the key, in seconds."),
    ] = None
    scope: Annotated[
        ScopeName, Field(description="What the key may do. An unrestricted admin key gives root on every host.")
    ] = "admin"
    application_ids: Annotated[
        _Ids | None,
        Field(description="Applications that the key is for. Null, with projectIds null too: an unrestricted key."),
    ] = None
    project_ids: _Ids | None = None
    rate_limit_enabled: bool | None = None
    rate_limit_max: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    rate_limit_time_window: Annotated[
        Annotated[int, Field(ge=1000, le=366 * 86_400_000)] | None,
        Field(description="Window of the rate limit, in milliseconds."),
    ] = None
    #: refused, rather than not kept to
    remaining: int | None = None
    metadata: Any = None


class NamedKey(Input):
    api_key_id: Id


class KeyRow(Response):
    """An API key, without its secret."""

    id: str
    name: str
    start: Annotated[str, Field(description="First characters of the key.")]
    prefix: str
    user_id: str
    scope: ScopeName
    application_ids: Annotated[
        list[str] | None, Field(description="Applications that the key is for. Null: an unrestricted key.")
    ]
    project_ids: list[str] | None
    enabled: bool
    rate_limit_enabled: bool
    rate_limit_time_window: int | None
    rate_limit_max: int | None
    remaining: None
    last_request: datetime | None
    last_address: Annotated[str | None, Field(description="Network address of its last use.")]
    expires_at: datetime | None
    created_at: datetime
    metadata: dict[str, str]

    @classmethod
    def from_key(cls, key: Key, /, **more: Any) -> Self:
        rate, grants = key.rate, key.grants
        return cls.make(
            key,
            id=key.key_id,
            start=key.prefix[:_START],
            user_id=_OWNER,
            scope=key.permission.scope_name,
            application_ids=None if grants is None else sorted(grants.applications),
            project_ids=None if grants is None else sorted(grants.projects),
            enabled=key.revoked_at is None,
            rate_limit_enabled=rate is not None,
            rate_limit_time_window=round(rate.window / timedelta(milliseconds=1)) if rate else None,
            rate_limit_max=rate.most if rate else None,
            last_request=key.last_used_at,
            last_address=key.last_used_from,
            metadata={"organizationId": _ORGANIZATION},
            **more,
        )


class NewKey(KeyRow):
    """A new API key. `key` has its secret, which is shown once."""

    key: str


class User(Response):
    """The owner of the API keys."""

    id: str
    first_name: str
    last_name: str
    email: str
    email_verified: bool
    image: None
    role: str
    created_at: datetime
    updated_at: datetime
    api_keys: list[KeyRow]


class Member(Response):
    """The user as member of the only organization."""

    id: str
    organization_id: str
    user_id: str
    role: str
    created_at: datetime
    user: User


class UserId(Response):
    """Id of a user."""

    id: str


class ActiveOrganization(Response):
    """The only organization."""

    active_organization_id: str


class Session(Response):
    """The user and the organization of the caller."""

    user: UserId
    session: ActiveOrganization


@procedures.query("user.get", gives=Member, access=KeyAccess.ANY_KEY)
async def get(context: Context, _given: Input) -> Answer:
    """Return the user and the API keys.

    A key that may not create keys sees only itself.
    """
    return Answer(await _member(context))


@procedures.query("user.all", gives=list[Member], access=KeyAccess.ANY_KEY)
async def select_all(context: Context, _given: Input) -> Answer:
    """List users: there is one."""
    return Answer([await _member(context)])


async def _member(context: Context) -> Member:
    caller = context.caller
    async with transaction(context.pool) as connection:
        since = await api_keys.select_first_created(connection)
        if caller.is_global_admin:
            shown = await api_keys.select_keys(connection, valid=True)
        else:
            shown = [await api_keys.select_key(connection, caller.key_id)]
    user = User.make(
        id=_OWNER,
        first_name="Owner",
        last_name="",
        email="owner@localhost",
        email_verified=True,
        role=_OWNER,
        created_at=since,
        updated_at=since,
        api_keys=[KeyRow.from_key(key) for key in shown],
    )
    return Member.make(
        id=_OWNER, organization_id=_ORGANIZATION, user_id=_OWNER, role=_OWNER, created_at=since, user=user
    )


@procedures.query("user.session", gives=Session, access=KeyAccess.ANY_KEY)
async def session(_context: Context, _given: Input) -> Answer:
    """Return the ids of the user and the organization."""
    return Answer(
        Session.make(user=UserId.make(id=_OWNER), session=ActiveOrganization.make(active_organization_id=_ORGANIZATION))
    )


def _rate(given: CreateKey) -> Rate | None:
    """Return the rate limit of the key; None unless one is enabled."""
    if not given.rate_limit_enabled:
        return None
    window = given.rate_limit_time_window
    return Rate(given.rate_limit_max or _RATE.most, timedelta(milliseconds=window) if window else _RATE.window)


def _grants(given: CreateKey) -> Grants | None:
    if given.application_ids is None and given.project_ids is None:
        return None
    return Grants(frozenset(given.application_ids or ()), frozenset(given.project_ids or ()))


@procedures.mutation("user.createApiKey", gives=NewKey)
async def create_key(context: Context, given: CreateKey) -> Answer:
    """Create an API key.

    The key is shown once.
    """
    if given.remaining is not None:
        raise InvalidInput(
            "a key is not used up here: limit it by expiresIn, or by rateLimitMax and rateLimitTimeWindow",
            field="remaining",
        )
    lives = given.expires_in
    async with transaction(context.pool) as connection:
        key, made = await api_keys.insert_key(
            connection,
            given.name,
            permission=Permission[given.scope.upper()],
            grants=_grants(given),
            expires_at=None if lives is None else datetime.now(UTC) + timedelta(seconds=lives),
            rate=_rate(given),
            prefix=given.prefix or api_keys.PREFIX,
        )
    return Answer(NewKey.from_key(made, key=key))


@procedures.mutation("user.deleteApiKey", gives=Literal[True])
async def delete_key(context: Context, given: NamedKey) -> Answer:
    """Revoke an API key."""
    async with transaction(context.pool) as connection:
        if not await api_keys.revoke_by_id(connection, given.api_key_id):
            raise NotFound("API key not found")
    return Answer(value=True)
