"""webhook.*: where registries may tell of pushes. Paths and secrets are shown once."""

import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any

from pydantic import Field

from gateway.endpoints import Endpoint, parse_networks, parse_repository_glob
from gateway.errors import InvalidInput
from gateway.reference import parse_domain
from gateway.sources import SOURCES, Source
from gateway.store import endpoints
from gateway.store.database import Connection, statement, transaction
from gateway.store.vault import Vault
from gateway.web.context import Context
from gateway.web.procedures._procedure import Answer, Id, Input, Procedure

DAY = 86_400  # seconds

_Secret = Annotated[str, Field(min_length=1, max_length=4096)]
_Words = Annotated[tuple[str, ...], Field(max_length=200)]


class Create(Input):
    source: str
    name: Annotated[str, Field(max_length=255)] = ""
    secret: _Secret | None = None
    host: str | None = None
    aliases: _Words = ()
    settings: dict[str, str] = Field(default_factory=dict)
    repositories: _Words = ()
    networks: _Words = ()
    rate: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


class Named(Input):
    endpoint_id: Id


class Rotate(Named):
    secret: _Secret | None = None
    path: bool = False
    grace: Annotated[int, Field(ge=0, le=30 * DAY)] = DAY


def shown(endpoint: Endpoint) -> dict[str, Any]:
    """Return all but what is secret."""
    return {
        "endpointId": endpoint.endpoint_id,
        "source": endpoint.source,
        "name": endpoint.name,
        "enabled": endpoint.enabled,
        "host": endpoint.host,
        "aliases": sorted(endpoint.aliases),
        "settings": dict(endpoint.settings),
        "repositories": list(endpoint.repositories),
        "networks": [str(network) for network in endpoint.networks],
        "rate": endpoint.rate,
        "formerValidUntil": endpoint.former_until and endpoint.former_until.isoformat(),
        "createdAt": endpoint.created_at.isoformat(),
    }


def find_source(name: str) -> Source:
    """Raises InvalidInput."""
    if name not in SOURCES:
        raise InvalidInput(f"there is no source {name!r}; there are: {', '.join(sorted(SOURCES))}", field="source")
    return SOURCES[name]


async def open_endpoint(connection: Connection, vault: Vault, given: Create) -> dict[str, Any]:
    """Return what its sender needs, the only time it is known; raises InvalidInput."""
    source = find_source(given.source)
    source.check_settings(given.settings)
    if given.aliases and not given.host:
        raise InvalidInput("an alias stands for the registry's public host: give host too", field="aliases")
    secret = given.secret or secrets.token_urlsafe(32)
    endpoint_id, token = await endpoints.insert_endpoint(
        connection,
        vault,
        source=source.name,
        name=given.name or source.name,
        secret=secret,
        host=parse_domain(given.host) if given.host else None,
        aliases=given.aliases,
        settings=given.settings,
        repositories=[parse_repository_glob(one) for one in given.repositories],
        networks=parse_networks(given.networks),
        rate=given.rate,
    )
    return _opened(source, endpoint_id, token, secret, given.settings)


async def rotate_endpoint(connection: Connection, vault: Vault, given: Rotate) -> dict[str, Any]:
    """Return what is new: the secret, or the path where it is asked for, or is the only secret there is."""
    endpoint = await endpoints.select_endpoint_by_id(connection, vault, given.endpoint_id)
    source, grace = find_source(endpoint.source), timedelta(seconds=given.grace)
    if given.path or source.header is None:
        token = await endpoints.rotate_token(connection, endpoint.endpoint_id, grace)
        return _opened(source, endpoint.endpoint_id, token, None, endpoint.settings)
    secret = given.secret or secrets.token_urlsafe(32)
    await endpoints.rotate_secret(connection, vault, endpoint, secret, grace)
    return _opened(source, endpoint.endpoint_id, None, secret, endpoint.settings)


def _opened(
    source: Source, endpoint_id: str, token: str | None, secret: str | None, settings: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "endpointId": endpoint_id,
        "source": source.name,
        "path": token and f"/webhooks/{source.name}/{token}",
        "secret": secret,
        "header": source.header_with(settings),
    }


async def create(context: Context, given: Create) -> Answer:
    async with transaction(context.pool) as connection:
        return Answer(await open_endpoint(connection, context.vault, given))


async def rotate(context: Context, given: Rotate) -> Answer:
    async with transaction(context.pool) as connection:
        return Answer(await rotate_endpoint(connection, context.vault, given))


async def select_all(context: Context, _given: Input) -> Answer:
    async with statement(context.pool) as connection:
        return Answer([shown(one) for one in await endpoints.select_endpoints(connection, context.vault)])


async def select_one(context: Context, given: Named) -> Answer:
    async with statement(context.pool) as connection:
        return Answer(shown(await endpoints.select_endpoint_by_id(connection, context.vault, given.endpoint_id)))


async def enable(context: Context, given: Named) -> Answer:
    return await _set_enabled(context, given, enabled=True)


async def disable(context: Context, given: Named) -> Answer:
    return await _set_enabled(context, given, enabled=False)


async def _set_enabled(context: Context, given: Named, *, enabled: bool) -> Answer:
    async with transaction(context.pool) as connection:
        await endpoints.update_enabled(connection, given.endpoint_id, enabled=enabled)
        return Answer(shown(await endpoints.select_endpoint_by_id(connection, context.vault, given.endpoint_id)))


async def remove(context: Context, given: Named) -> Answer:
    async with transaction(context.pool) as connection:
        removed = await endpoints.select_endpoint_by_id(connection, context.vault, given.endpoint_id)
        await endpoints.delete_endpoint(connection, given.endpoint_id)
    return Answer(shown(removed))


PROCEDURES = [
    Procedure("webhook.create", "mutation", Create, create),
    Procedure("webhook.rotate", "mutation", Rotate, rotate),
    Procedure("webhook.all", "query", Input, select_all),
    Procedure("webhook.one", "query", Named, select_one),
    Procedure("webhook.enable", "mutation", Named, enable),
    Procedure("webhook.disable", "mutation", Named, disable),
    Procedure("webhook.remove", "mutation", Named, remove),
]
