"""domain.*: the domains of an application. The gateway stores them. Your own reverse proxy routes requests."""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field
from pydantic.alias_generators import to_snake

from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input
from gateway.api.procedures._response import Moment, Response
from gateway.api.rpc.procedure import Answer, Procedures
from gateway.store import applications, domains
from gateway.store.database import transaction
from gateway.store.domains import Domain

procedures = Procedures()

_Host = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[^\s/:@?#]+$")]
_Path = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^/\S*$")]
_Certificate = Literal["letsencrypt", "none", "custom"]


class _Sent(Input):
    path: _Path = "/"
    port: Annotated[int, Field(ge=1, le=65535)] | None = 3000
    https: bool = False
    certificate_type: _Certificate = "none"
    custom_cert_resolver: Annotated[str, Field(max_length=255)] | None = None
    internal_path: _Path = "/"
    strip_path: bool = False


class Create(_Sent):
    application_id: Id
    host: _Host
    #: only applications are here
    domain_type: Literal["application"] | None = None


class Named(Input):
    domain_id: Id


class Update(_Sent, Named):
    host: _Host | None = None


class OfApplication(Input):
    application_id: Id


class Generate(Input):
    app_name: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-zA-Z0-9._-]+$")]


class DomainRow(Response):
    """A domain of an application."""

    domain_id: str
    host: str
    path: str
    port: int | None
    https: bool
    certificate_type: _Certificate
    custom_cert_resolver: str | None
    internal_path: str
    strip_path: bool
    application_id: str
    created_at: Moment
    unique_config_key: int
    domain_type: Literal["application"]
    service_name: None
    compose_id: None
    preview_deployment_id: None

    @classmethod
    def from_domain(cls, domain: Domain) -> Self:
        columns = {to_snake(name): value for name, value in domain.columns.items()}
        return cls.make(domain, unique_config_key=domain.number, **columns)


_COLUMNS = set(_Sent.model_fields)


@procedures.mutation("domain.create", gives=DomainRow)
async def create(context: Context, given: Create) -> Answer:
    """Create a domain of an application.

    The gateway does not route requests by it.
    """
    columns = given.model_dump(by_alias=True, include=_COLUMNS)
    async with transaction(context.pool) as connection:
        await applications.require_live(connection, given.application_id)
        return Answer(
            DomainRow.from_domain(await domains.insert_domain(connection, given.application_id, given.host, columns))
        )


@procedures.query("domain.one", gives=DomainRow)
async def select_one(context: Context, given: Named) -> Answer:
    """Return a domain."""
    async with transaction(context.pool) as connection:
        return Answer(DomainRow.from_domain(await domains.select_domain(connection, given.domain_id)))


@procedures.query("domain.byApplicationId", gives=list[DomainRow])
async def select_of_application(context: Context, given: OfApplication) -> Answer:
    """List the domains of an application."""
    async with transaction(context.pool) as connection:
        await applications.require_live(connection, given.application_id)
        return Answer(
            [DomainRow.from_domain(one) for one in await domains.select_domains(connection, given.application_id)]
        )


@procedures.mutation("domain.update", gives=DomainRow)
async def update(context: Context, given: Update) -> Answer:
    """Update a domain, and return it.

    Absent fields stay unchanged.
    """
    columns = given.model_dump(by_alias=True, include=_COLUMNS, exclude_unset=True)
    async with transaction(context.pool) as connection:
        return Answer(
            DomainRow.from_domain(
                await domains.update_domain(connection, given.domain_id, host=given.host, columns=columns)
            )
        )


@procedures.mutation("domain.delete", gives=DomainRow)
async def delete(context: Context, given: Named) -> Answer:
    """Delete a domain, and return it as it was."""
    async with transaction(context.pool) as connection:
        return Answer(DomainRow.from_domain(await domains.delete_domain(connection, given.domain_id)))


@procedures.mutation("domain.generateDomain", gives=str)
async def generate(context: Context, given: Generate) -> Answer:
    """Return a host name for an application, under the gateway's own host name.

    Add it to your DNS.
    """
    own = urlsplit(context.settings.public_url or "").hostname or "localhost"
    return Answer(f"{given.app_name}.{own}")
