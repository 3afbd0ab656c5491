"""Servers: register one, change one, remove one, reach its engine."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gateway.model.errors import Code, Failed, InvalidInput, Postponed
from gateway.model.servers import Access, Server
from gateway.store import servers
from gateway.store.database import Pool, transaction
from gateway.store.encryption import Vault

if TYPE_CHECKING:
    from gateway.docker.engine.client import EngineIdentity


async def register(pool: Pool, vault: Vault, *, name: str, description: str, access: Access) -> Server:
    """Store the server without contacting it; raises InvalidInput where a certificate or key is not valid."""
    await _validate(access)
    async with transaction(pool) as connection:
        server = await servers.insert_server(connection, vault, name=name, description=description, access=access)
        await servers.notify(connection)
    return server


async def update(
    pool: Pool,
    vault: Vault,
    named: str,
    *,
    name: str | None,
    description: str | None,
    access: Mapping[str, str | None],
) -> Server:
    """Change the server, and return it as it was. A name or description of None stays; so do absent keys of `access`.

    Raises NotFound, or InvalidInput where a certificate or key is not valid.
    """
    async with transaction(pool) as connection:
        server = await servers.select_server(connection, vault, named)
        wanted = server.access_with_changes(access)
        await _validate(wanted)
        await servers.update_server(
            connection,
            vault,
            server.server_id,
            name=name or server.name,
            description=server.description if description is None else description,
            access=wanted,
        )
        await servers.notify(connection)
    return server


async def remove(pool: Pool, vault: Vault, named: str) -> Server:
    """Remove a server that has no applications, and return it as it was; raises NotFound, or Conflict."""
    async with transaction(pool) as connection:
        server = await servers.select_server(connection, vault, named)
        await servers.delete_server(connection, server.server_id)
        await servers.notify(connection)
    return server


async def _validate(access: Access) -> None:
    """Raises InvalidInput where a certificate or key is not valid. Nothing is contacted."""
    from gateway.docker.engine.client import connect

    async with connect(access):
        pass


async def identify_engine(access: Access) -> "EngineIdentity":
    """Connect to the engine, and return its identity; raises InvalidInput saying why it cannot be reached."""
    from gateway.docker.engine.client import connect

    async with connect(access) as engine:
        try:
            return await engine.identify()
        except (Postponed, Failed) as error:
            unreachable = error.reason.code is Code.ENGINE_UNREACHABLE
            advice = ". Start the engine or correct the address." if unreachable else ""
            where = "" if access.host in str(error) else f"{access.host}: "
            raise InvalidInput(f"{where}{error}{advice}") from error
