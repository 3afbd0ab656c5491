"""user.*: who asks, and the keys to ask with. There is one user here, the owner; keys are what differ."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints
from typing_extensions import TypedDict

from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input
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
# What a key is limited to that is to be limited, and is not told to what: https://better-auth.com/docs/plugins/api-key
_RATE = Rate(10, timedelta(days=1))

_Ids = Annotated[tuple[Id, ...], Field(max_length=1000)]


class CreateKey(Input):
    name: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{0,32}$")] | None = None
    expires_in: Annotated[int, Field(ge=1, le=int(MAX_LIFETIME.total_seconds()), description="Seconds.")] | None = None
    scope: Annotated[
        ScopeName, Field(description="What the key may do; admin for everything is root on every host.")
    ] = "admin"
    application_ids: Annotated[_Ids, Field(description="What it may do it to; with projectIds, null: everything.")] | (
        None
    ) = None
    project_ids: _Ids | None = None
    rate_limit_enabled: bool | None = None
    rate_limit_max: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    rate_limit_time_window: Annotated[int, Field(ge=1000, le=366 * 86_400_000, description="Milliseconds.")] | None = (
        None
    )
    #: refused, rather than not kept to
    remaining: int | None = None
    metadata: Any = None


class NamedKey(Input):
    api_key_id: Id


class KeyRow(TypedDict):
    """A key without its secret."""

    id: str
    name: str
    start: Annotated[str, Field(description="How it begins.")]
    prefix: str
    userId: str
    scope: ScopeName
    applicationIds: Annotated[list[str] | None, Field(description="What it is for; null is everything.")]
    projectIds: list[str] | None
    enabled: bool
    rateLimitEnabled: bool
    rateLimitTimeWindow: int | None
    rateLimitMax: int | None
    remaining: None
    lastRequest: datetime | None
    lastAddress: Annotated[str | None, Field(description="Where it was used from last.")]
    expiresAt: datetime | None
    createdAt: datetime
    metadata: dict[str, str]


class NewKey(KeyRow):
    """A key, with its secret, which is not shown again."""

    key: str


class User(TypedDict):
    """Who the keys are of."""

    id: str
    firstName: str
    lastName: str
    email: str
    emailVerified: bool
    image: None
    role: str
    createdAt: datetime
    updatedAt: datetime
    apiKeys: list[KeyRow]


class Member(TypedDict):
    """The user's place in the one organization there is."""

    id: str
    organizationId: str
    userId: str
    role: str
    createdAt: datetime
    user: User


class UserId(TypedDict):
    """Who a user is."""

    id: str


class ActiveOrganization(TypedDict):
    """The one organization there is."""

    activeOrganizationId: str


class Session(TypedDict):
    """Who asks, in short."""

    user: UserId
    session: ActiveOrganization


def _row(key: Key) -> KeyRow:
    rate, grants = key.rate, key.grants
    return {
        "id": key.key_id,
        "name": key.name,
        "start": key.prefix[:_START],
        "prefix": key.prefix,
        "userId": _OWNER,
        "scope": key.permission.scope_name,
        "applicationIds": None if grants is None else sorted(grants.applications),
        "projectIds": None if grants is None else sorted(grants.projects),
        "enabled": key.revoked_at is None,
        "rateLimitEnabled": rate is not None,
        "rateLimitTimeWindow": round(rate.window / timedelta(milliseconds=1)) if rate else None,
        "rateLimitMax": rate.most if rate else None,
        "remaining": None,
        "lastRequest": key.last_used_at,
        "lastAddress": key.last_used_from,
        "expiresAt": key.expires_at,
        "createdAt": key.created_at,
        "metadata": {"organizationId": _ORGANIZATION},
    }


@procedures.query("user.get", gives=Member, access=KeyAccess.ANY_KEY)
async def get(context: Context, _given: Input) -> Answer:
    """Return who asks, and the keys there are; to a key that may not make keys, itself."""
    return Answer(await _member(context))


@procedures.query("user.all", gives=list[Member], access=KeyAccess.ANY_KEY)
async def select_all(context: Context, _given: Input) -> Answer:
    """Return the one user there is."""
    return Answer([await _member(context)])


async def _member(context: Context) -> Member:
    caller = context.caller
    sees_all = caller.is_global_admin
    async with transaction(context.pool) as connection:
        found = await api_keys.select_keys(connection)
    since = min(key.created_at for key in found)
    shown = [key for key in found if key.revoked_at is None and (sees_all or key.key_id == caller.key_id)]
    user: User = {
        "id": _OWNER,
        "firstName": "Owner",
        "lastName": "",
        "email": "owner@localhost",
        "emailVerified": True,
        "image": None,
        "role": _OWNER,
        "createdAt": since,
        "updatedAt": since,
        "apiKeys": [_row(key) for key in shown],
    }
    return Member(id=_OWNER, organizationId=_ORGANIZATION, userId=_OWNER, role=_OWNER, createdAt=since, user=user)


@procedures.query("user.session", gives=Session, access=KeyAccess.ANY_KEY)
async def session(_context: Context, _given: Input) -> Answer:
    """Return who asks, in short."""
    return Answer(Session(user={"id": _OWNER}, session={"activeOrganizationId": _ORGANIZATION}))


def _rate(given: CreateKey) -> Rate | None:
    """Return what the key is limited to: to nothing unless that is asked for."""
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
    """Make a key: the only time it is shown."""
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
    return Answer(NewKey(**_row(made), key=key))


@procedures.mutation("user.deleteApiKey", gives=Literal[True])
async def delete_key(context: Context, given: NamedKey) -> Answer:
    """Refuse the key from now on."""
    async with transaction(context.pool) as connection:
        if not await api_keys.revoke_by_id(connection, given.api_key_id):
            raise NotFound("API key not found")
    return Answer(value=True)
