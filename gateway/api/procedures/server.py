"""server.*: remote machines with a Docker Engine. Their credentials are never returned."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from gateway.admin import servers as admin
from gateway.admin.context import Context
from gateway.admin.engine_status import EngineStatus
from gateway.admin.inputs import Id, Input, Text
from gateway.api.procedures._pagination import Paged, paged
from gateway.api.procedures._response import Moment, Response
from gateway.api.rpc.procedure import Answer, Procedures
from gateway.model.errors import Conflict, InvalidInput
from gateway.model.servers import Access, Server
from gateway.store import servers
from gateway.store.database import transaction

if TYPE_CHECKING:
    from gateway.docker.engine.client import EngineIdentity

procedures = Procedures()

_Name = Annotated[str, StringConstraints(min_length=1, max_length=255, strip_whitespace=True)]
_Pem = Annotated[str, Field(max_length=100_000)]
_ACCESS = frozenset({"host", "tls_ca", "tls_cert", "tls_key", "ssh_key", "known_hosts"})


class _Given(Input):
    """An address with its credentials. Dokploy's `ipAddress`, `port` and `username` are an SSH address."""

    host: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    tls_ca: _Pem | None = None
    tls_cert: _Pem | None = None
    tls_key: _Pem | None = None
    ssh_key: _Pem | None = None
    known_hosts: _Pem | None = None
    ip_address: Annotated[str, Field(max_length=255)] | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    username: Annotated[str, Field(max_length=255)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("host") or not given.get("ipAddress"):
            return given
        user = f"{name}@" if (name := given.get("username")) else ""
        return {**given, "host": f"ssh://{user}{given['ipAddress']}:{given.get('port') or 22}"}

    def access(self) -> dict[str, str | None]:
        """Return the fields of the address and credentials that were sent."""
        return {name: getattr(self, name) for name in self.sent_fields() & _ACCESS}


class Create(_Given):
    name: _Name
    description: Text | None = None


class Update(_Given):
    server_id: Id
    name: _Name | None = None
    description: Text | None = None


class Trial(_Given):
    server_id: Id | None = None


class Named(Input):
    server_id: Id


class Identity(Response):
    """The Docker Engine at an address. All fields are null if no engine answers."""

    engine_id: str | None
    engine_name: str | None
    version: str | None
    platform: str | None
    swarm_manager: bool | None

    @classmethod
    def from_engine(cls, identity: "EngineIdentity") -> Self:
        return cls.make(identity, engine_name=identity.name)


class ServerRow(Identity):
    """A server, and what this gateway knows about its engine."""

    server_id: str
    name: str
    description: str
    host: str
    ip_address: str | None
    port: int | None
    username: str | None
    tls: bool
    ssh_key_id: None
    server_type: Literal["deploy"]
    server_status: Literal["active", "inactive"]
    status: Literal["ok", "unreachable", "unknown"]
    error: str | None
    same_as: Annotated[
        str | None,
        Field(description="An earlier address in the list that leads to the same engine. Null: there is none."),
    ]
    created_at: Moment
    organization_id: str

    @classmethod
    def from_server(cls, server: Server, hosts: Sequence[EngineStatus]) -> Self:
        """Return the row, with what this gateway knows of the engine."""
        address = server.access.address
        live = next((host for host in hosts if host.server_id == server.server_id), None)
        error = server.error if live is None else live.error
        identity = live.identity if live else None
        engine_id = identity.engine_id if identity else server.engine_id
        reached = error is None and engine_id is not None
        return cls.make(
            server,
            host=server.access.host,
            ip_address=address.published_host,
            port=address.port,
            username=address.user,
            tls=server.access.tls,
            server_status="active" if reached else "inactive",
            status="ok" if reached else "unreachable" if error else "unknown",
            error=error,
            same_as=_same_as(live, hosts),
            engine_id=engine_id,
            engine_name=identity.name if identity else None,
            version=identity.version if identity else None,
            platform=identity.platform if identity else None,
            swarm_manager=identity.swarm_manager if identity else None,
            organization_id="default",
        )


def _same_as(live: EngineStatus | None, hosts: Sequence[EngineStatus]) -> str | None:
    """Return the address before this one that leads to the same daemon, if there is one."""
    for host in hosts:
        if live is None or live.identity is None or host is live:
            return None
        if host.identity and host.identity.daemon == live.identity.daemon:
            return host.address
    return None


def _new_access(given: _Given) -> Access:
    if given.host is None:
        raise InvalidInput("host is required, for example ssh://deploy@10.0.0.5", field="host")
    return Access(given.host).with_changes(given.access())


@procedures.mutation("server.create", gives=ServerRow, raises=(Conflict,))
async def create(context: Context, given: Create) -> Answer:
    """Register a server by the address of its engine.

    The gateway does not install anything on it.
    """
    server = await admin.register(
        context.pool, context.vault, name=given.name, description=given.description or "", access=_new_access(given)
    )
    return Answer(ServerRow.from_server(server, context.rollouts.engines))


@procedures.query("server.all", gives=list[ServerRow])
async def select_all(context: Context, given: Paged) -> Answer:
    """List servers, newest first."""
    page = given.page
    async with transaction(context.pool) as connection:
        found = await servers.select_servers_page(connection, context.vault, page)
    hosts = context.rollouts.engines
    return paged(
        found, page, lambda one: (one.created_at, one.server_id), lambda one: ServerRow.from_server(one, hosts)
    )


@procedures.query("server.one", gives=ServerRow)
async def select_one(context: Context, given: Named) -> Answer:
    """Return a server."""
    async with transaction(context.pool) as connection:
        server = await servers.select_server(connection, context.vault, given.server_id)
    return Answer(ServerRow.from_server(server, context.rollouts.engines))


@procedures.mutation("server.update", gives=Literal[True], raises=(Conflict,))
async def update(context: Context, given: Update) -> Answer:
    """Update a server.

    Absent fields stay unchanged; null clears a field.
    """
    await admin.update(
        context.pool,
        context.vault,
        given.server_id,
        name=given.name,
        description=(given.description or "") if "description" in given.sent_fields() else None,
        access=given.access(),
    )
    return Answer(value=True)


@procedures.mutation("server.remove", gives=ServerRow, raises=(Conflict,))
async def remove(context: Context, given: Named) -> Answer:
    """Remove a server, and return it as it was.

    You cannot remove a server that has applications.
    """
    server = await admin.remove(context.pool, context.vault, given.server_id)
    return Answer(ServerRow.from_server(server, context.rollouts.engines))


@procedures.mutation("server.test", gives=Identity)
async def test(context: Context, given: Trial) -> Answer:
    """Test the engine of a new or a stored server.

    With serverId, the fields you send replace the stored ones for this test. Nothing is stored.
    """
    if given.server_id is None:
        return Answer(Identity.from_engine(await admin.identify_engine(_new_access(given))))
    async with transaction(context.pool) as connection:
        server = await servers.select_server(connection, context.vault, given.server_id)
    return Answer(Identity.from_engine(await admin.identify_engine(server.access_with_changes(given.access()))))


@procedures.query("server.validate", gives=Identity)
async def validate(context: Context, given: Named) -> Answer:
    """Test the engine of a stored server.

    It accepts no credentials, because the input of a query is part of its URL.
    """
    return await test(context, Trial(server_id=given.server_id))
