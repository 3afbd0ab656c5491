"""webhook.*: where registries may tell of pushes. Paths and secrets are shown once."""

import secrets
from datetime import timedelta
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input
from gateway.api.procedures._pagination import Paged, paged
from gateway.api.rpc.procedure import Answer, Moment, Procedures
from gateway.model.endpoints import Endpoint, parse_networks, parse_repository_glob
from gateway.model.errors import InvalidInput
from gateway.model.reference import parse_domain
from gateway.sources import SOURCES, Source
from gateway.store import endpoints
from gateway.store.database import Connection, statement, transaction
from gateway.store.encryption import Vault

procedures = Procedures()

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
    rate: Annotated[
        Annotated[int, Field(ge=1, le=1_000_000)] | None,
        Field(description="Requests a minute; null is as the gateway is set."),
    ] = None


class Named(Input):
    endpoint_id: Id


class Rotate(Named):
    secret: _Secret | None = None
    path: bool = False
    grace: Annotated[int, Field(ge=0, le=30 * DAY)] = DAY


class WebhookRow(TypedDict):
    """Where a registry may tell of pushes, without what is secret of it."""

    endpointId: str
    source: str
    name: str
    enabled: bool
    host: str | None
    aliases: list[str]
    settings: dict[str, str]
    repositories: list[str]
    networks: list[str]
    rate: Annotated[int | None, Field(description="Requests a minute; null is as the gateway is set.")]
    formerValidUntil: Annotated[Moment | None, Field(description="Until when what was rotated is accepted too.")]
    createdAt: Moment


_Header = Annotated[str | None, Field(description="What the secret or signature is sent in; null: the path is all.")]


class OpenedWebhook(TypedDict):
    """What its sender needs, the only time it is known."""

    endpointId: str
    source: str
    path: str
    secret: str
    header: _Header


class RotatedWebhook(TypedDict):
    """What its sender needs from now on, the only time it is known; null is what stays as it was."""

    endpointId: str
    source: str
    path: str | None
    secret: str | None
    header: _Header


def shown(endpoint: Endpoint) -> WebhookRow:
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
        "formerValidUntil": endpoint.former_until.isoformat() if endpoint.former_until else None,
        "createdAt": endpoint.created_at.isoformat(),
    }


def find_source(name: str) -> Source:
    """Raises InvalidInput."""
    if name not in SOURCES:
        raise InvalidInput(f"there is no source {name!r}; there are: {', '.join(sorted(SOURCES))}", field="source")
    return SOURCES[name]


async def open_endpoint(connection: Connection, vault: Vault, given: Create) -> OpenedWebhook:
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
    return {
        "endpointId": endpoint_id,
        "source": source.name,
        "path": _path(source, token),
        "secret": secret,
        "header": source.header_with(given.settings),
    }


async def rotate_endpoint(connection: Connection, vault: Vault, given: Rotate) -> RotatedWebhook:
    """Return what is new: the secret, or the path where it is asked for, or is the only secret there is."""
    endpoint = await endpoints.select_endpoint_by_id(connection, vault, given.endpoint_id)
    source, grace = find_source(endpoint.source), timedelta(seconds=given.grace)
    rotated: RotatedWebhook = {
        "endpointId": endpoint.endpoint_id,
        "source": source.name,
        "path": None,
        "secret": None,
        "header": source.header_with(endpoint.settings),
    }
    if given.path or source.header is None:
        token = await endpoints.rotate_token(connection, endpoint.endpoint_id, grace)
        return {**rotated, "path": _path(source, token)}
    secret = given.secret or secrets.token_urlsafe(32)
    await endpoints.rotate_secret(connection, vault, endpoint, secret, grace)
    return {**rotated, "secret": secret}


def _path(source: Source, token: str) -> str:
    return f"/webhooks/{source.name}/{token}"


@procedures.mutation("webhook.create", gives=OpenedWebhook)
async def create(context: Context, given: Create) -> Answer:
    """Open an endpoint for a registry; its path and secret are shown this once."""
    async with transaction(context.pool) as connection:
        return Answer(await open_endpoint(connection, context.vault, given))


@procedures.mutation("webhook.rotate", gives=RotatedWebhook)
async def rotate(context: Context, given: Rotate) -> Answer:
    """Give it a new secret, or path; the former goes on to be accepted for the grace."""
    async with transaction(context.pool) as connection:
        return Answer(await rotate_endpoint(connection, context.vault, given))


@procedures.query("webhook.all", gives=list[WebhookRow])
async def select_all(context: Context, given: Paged) -> Answer:
    """Return the endpoints of registries, newest first."""
    page = given.page
    async with statement(context.pool) as connection:
        found = await endpoints.select_endpoints(connection, context.vault, page)
    return paged(found, page, lambda one: (one.created_at, one.endpoint_id), shown)


@procedures.query("webhook.one", gives=WebhookRow)
async def select_one(context: Context, given: Named) -> Answer:
    """Return one."""
    async with statement(context.pool) as connection:
        return Answer(shown(await endpoints.select_endpoint_by_id(connection, context.vault, given.endpoint_id)))


@procedures.mutation("webhook.enable", gives=WebhookRow)
async def enable(context: Context, given: Named) -> Answer:
    """Let it deploy again."""
    return await _set_enabled(context, given, enabled=True)


@procedures.mutation("webhook.disable", gives=WebhookRow)
async def disable(context: Context, given: Named) -> Answer:
    """Let it deploy nothing until it is enabled."""
    return await _set_enabled(context, given, enabled=False)


async def _set_enabled(context: Context, given: Named, *, enabled: bool) -> Answer:
    async with transaction(context.pool) as connection:
        await endpoints.update_enabled(connection, given.endpoint_id, enabled=enabled)
        return Answer(shown(await endpoints.select_endpoint_by_id(connection, context.vault, given.endpoint_id)))


@procedures.mutation("webhook.remove", gives=WebhookRow)
async def remove(context: Context, given: Named) -> Answer:
    """Close it; return it as it was."""
    async with transaction(context.pool) as connection:
        removed = await endpoints.select_endpoint_by_id(connection, context.vault, given.endpoint_id)
        await endpoints.delete_endpoint(connection, given.endpoint_id)
    return Answer(shown(removed))
