"""registry.*: logins kept for all applications. Creating one never contacts the registry."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints
from typing_extensions import TypedDict

from gateway.errors import InvalidInput
from gateway.registries import Credentials, Registry, Scope
from gateway.store import registries
from gateway.store.database import transaction
from gateway.web.context import Context
from gateway.web.procedures._procedure import Answer, Id, Input, Moment, Procedure

_Name = Annotated[str, StringConstraints(min_length=1, max_length=255, strip_whitespace=True)]


class Create(Input):
    registry_name: _Name
    username: _Name
    password: Annotated[str, Field(min_length=1, max_length=16_384)]
    registry_url: Annotated[str, Field(max_length=512)] = ""
    registry_type: Literal["cloud"] = "cloud"
    image_prefix: Annotated[str, Field(max_length=255)] | None = None


class Named(Input):
    registry_id: Id


class RegistryRow(TypedDict):
    """A login kept for all applications, without its password."""

    registryId: str
    registryName: str
    imagePrefix: str | None
    username: str
    registryUrl: str
    registryType: str
    createdAt: Moment
    organizationId: str


def _row(registry: Registry) -> RegistryRow:
    """Return the row without its password, which nobody needs to see again."""
    return {
        "registryId": registry.registry_id,
        "registryName": registry.registry_name,
        "imagePrefix": registry.image_prefix,
        "username": registry.credentials.username,
        "registryUrl": registry.registry_url,
        "registryType": registry.registry_type,
        "createdAt": registry.created_at.isoformat(),
        "organizationId": "default",
    }


async def create(context: Context, given: Create) -> Answer:
    """Keep a login for a registry, which is not contacted."""
    try:
        scope = Scope.parse(given.registry_url)
    except InvalidInput as error:
        raise InvalidInput(str(error), field="registryUrl") from error
    async with transaction(context.pool) as connection:
        registry = await registries.insert_registry(
            connection,
            context.vault,
            registry_name=given.registry_name,
            registry_url=given.registry_url,
            registry_type=given.registry_type,
            image_prefix=given.image_prefix,
            scope=scope,
            credentials=Credentials(given.username, given.password),
        )
    return Answer(_row(registry))


async def select_all(context: Context, _given: Input) -> Answer:
    """Return all logins, without passwords."""
    async with transaction(context.pool) as connection:
        return Answer([_row(one) for one in await registries.select_registries(connection, context.vault)])


async def remove(context: Context, given: Named) -> Answer:
    """Forget a login; return it as it was."""
    async with transaction(context.pool) as connection:
        return Answer(_row(await registries.delete_registry(connection, context.vault, given.registry_id)))


PROCEDURES = [
    Procedure("registry.create", "mutation", Create, create, gives=RegistryRow),
    Procedure("registry.all", "query", Input, select_all, gives=list[RegistryRow]),
    Procedure("registry.remove", "mutation", Named, remove, gives=RegistryRow),
]
