"""registry.*: registry logins. Each image uses the login that matches its address. Secrets are never returned.

Creating or changing one never contacts the registry: `registry.testRegistry` does.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input
from gateway.admin.registries import changed, log_in, parse_registration
from gateway.api.procedures._pagination import Paged, paged
from gateway.api.procedures._response import Moment, Response
from gateway.api.rpc.procedure import Answer, Procedures
from gateway.model.ecr import AwsIdentity
from gateway.model.errors import InvalidInput
from gateway.model.registries import Credentials, Registry, RegistryType
from gateway.store import registries
from gateway.store.database import transaction

procedures = Procedures()

_Name = Annotated[str, StringConstraints(min_length=1, max_length=255, strip_whitespace=True)]
_Short = Annotated[str, StringConstraints(max_length=255, strip_whitespace=True)]
_Secret = Annotated[str, Field(max_length=65_536)]
_AWS_FIELDS = ("Region", "AccessKeyId", "SecretAccessKey", "Profile", "RoleArn", "ExternalId")


class _Given(Input):
    """A registry login. The fields for AWS may also have the prefix `aws`."""

    registry_url: Annotated[str, Field(max_length=512)] | None = Field(
        None,
        description="Address, for example ghcr.io, registry.example.com:5000/team or "
        "https://index.docker.io/v1/. If it is absent: Docker Hub.",
    )
    username: _Short | None = None
    password: _Secret | None = Field(None, description="Password, token, or the whole text of a key file.")
    registry_type: RegistryType | None = Field(
        None, description="`cloud`: user name and password. `ecr`: Amazon ECR, with an AWS identity."
    )
    image_prefix: _Short | None = None
    ca_certificate: Annotated[str, Field(max_length=100_000)] | None = Field(
        None, description="PEM certificates to trust for this registry, in addition to those of the system."
    )
    region: _Short | None = Field(None, description="`ecr`: AWS region. Required if the address does not contain it.")
    access_key_id: _Short | None = Field(
        None, description="`ecr`: access key. Without it and without `profile`: the role of the machine."
    )
    secret_access_key: _Secret | None = None
    profile: _Short | None = Field(None, description="`ecr`: profile in the gateway's AWS configuration.")
    role_arn: Annotated[str, StringConstraints(max_length=2048, strip_whitespace=True)] | None = Field(
        None, description="`ecr`: role to assume."
    )
    external_id: Annotated[str, Field(max_length=1224)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        named = {name[0].lower() + name[1:]: given[f"aws{name}"] for name in _AWS_FIELDS if f"aws{name}" in given}
        return {**named, **given}

    def fields(self) -> dict[str, Any]:
        """Return the fields that were sent, by their snake_case names."""
        return {name: getattr(self, name) for name in self.sent_fields()}


class Create(_Given):
    registry_name: _Name


class Update(_Given):
    registry_id: Id
    registry_name: _Name | None = None


class Test(_Given):
    registry_name: _Short | None = None


class Named(Input):
    registry_id: Id


class RegistryRow(Response):
    """A registry login for all applications, without its secrets."""

    registry_id: str
    registry_name: str
    image_prefix: str | None
    username: str
    registry_url: str
    registry_type: Literal["cloud", "ecr"]
    ca_certificate: str | None
    region: str | None
    access_key_id: str | None
    profile: str | None
    role_arn: str | None
    external_id: str | None
    created_at: Moment
    organization_id: str

    @classmethod
    def from_registry(cls, registry: Registry) -> Self:
        aws = registry.login if isinstance(registry.login, AwsIdentity) else None
        username = registry.login.username if isinstance(registry.login, Credentials) else ""
        return cls.make(
            registry,
            username="AWS" if aws else username,
            registry_type=registry.registry_type.value,
            ca_certificate=registry.ca_certificates,
            region=aws.region if aws else None,
            access_key_id=(aws.access_key_id or None) if aws else None,
            profile=aws.profile if aws else None,
            role_arn=aws.role_arn if aws else None,
            external_id=aws.external_id if aws else None,
            organization_id="default",
        )


@procedures.mutation("registry.create", gives=RegistryRow)
async def create(context: Context, given: Create) -> Answer:
    """Store a login for all images of a registry, or of a path in it.

    The gateway does not contact the registry.
    """
    registration = parse_registration(given.fields())
    async with transaction(context.pool) as connection:
        registry = await registries.insert_registry(connection, context.vault, registration)
    return Answer(RegistryRow.from_registry(registry))


@procedures.query("registry.all", gives=list[RegistryRow])
async def select_all(context: Context, given: Paged) -> Answer:
    """List registry logins, newest first, without their secrets."""
    page = given.page
    async with transaction(context.pool) as connection:
        found = await registries.select_registries_page(connection, context.vault, page)
    return paged(found, page, lambda one: (one.created_at, one.registry_id), RegistryRow.from_registry)


@procedures.query("registry.one", gives=RegistryRow)
async def select_one(context: Context, given: Named) -> Answer:
    """Return a registry login, without its secrets."""
    async with transaction(context.pool) as connection:
        return Answer(
            RegistryRow.from_registry(await registries.select_registry(connection, context.vault, given.registry_id))
        )


@procedures.mutation("registry.update", gives=Literal[True])
async def update(context: Context, given: Update) -> Answer:
    """Update a registry login.

    Absent fields stay unchanged; null clears a field. Nodes of a Swarm get the change with the next deployment.
    """
    sent = given.fields()
    del sent["registry_id"]
    if not sent:
        raise InvalidInput("No values to set")
    if "registry_name" in sent and sent["registry_name"] is None:
        raise InvalidInput("a registry has a name", field="registryName")
    async with transaction(context.pool) as connection:
        found = await registries.select_registry(connection, context.vault, given.registry_id)
        await registries.update_registry(connection, context.vault, found.registry_id, changed(found, sent))
    return Answer(value=True)


@procedures.mutation("registry.remove", gives=RegistryRow)
async def remove(context: Context, given: Named) -> Answer:
    """Remove a registry login, and return it as it was."""
    async with transaction(context.pool) as connection:
        return Answer(
            RegistryRow.from_registry(await registries.delete_registry(connection, context.vault, given.registry_id))
        )


@procedures.mutation("registry.testRegistry", gives=Literal[True])
async def test(context: Context, given: Test) -> Answer:
    """Test the login you send.

    It is not stored. If the test fails, the error says what failed and what to do.
    """
    registration = parse_registration({**given.fields(), "registry_name": given.registry_name or "as sent"})
    await log_in(context.registry, registration)
    return Answer(value=True)


@procedures.mutation("registry.testRegistryById", gives=Literal[True])
async def test_by_id(context: Context, given: Named) -> Answer:
    """Test a stored login.

    If the test fails, the error says what failed and what to do.
    """
    async with transaction(context.pool) as connection:
        registry = await registries.select_registry(connection, context.vault, given.registry_id)
    await log_in(context.registry, registry)
    return Answer(value=True)
