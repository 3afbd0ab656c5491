"""webhook.*: where registries may tell of pushes. Paths and secrets are shown once."""

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from gateway.admin.context import Context
from gateway.admin.endpoints import (
    CreatedEndpoint,
    CreateEndpoint,
    RotatedEndpoint,
    RotateEndpoint,
    create_endpoint,
    rotate_endpoint,
)
from gateway.admin.inputs import Id, Input
from gateway.api.procedures._pagination import Paged, paged
from gateway.api.rpc.procedure import Answer, Moment, Procedures
from gateway.model.endpoints import Endpoint
from gateway.store import endpoints
from gateway.store.database import statement, transaction

procedures = Procedures()


class Named(Input):
    endpoint_id: Id


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


def opened(endpoint: CreatedEndpoint) -> OpenedWebhook:
    return {
        "endpointId": endpoint.endpoint_id,
        "source": endpoint.source,
        "path": endpoint.path,
        "secret": endpoint.secret,
        "header": endpoint.header,
    }


def rotated(endpoint: RotatedEndpoint) -> RotatedWebhook:
    return {
        "endpointId": endpoint.endpoint_id,
        "source": endpoint.source,
        "path": endpoint.path,
        "secret": endpoint.secret,
        "header": endpoint.header,
    }


@procedures.mutation("webhook.create", gives=OpenedWebhook)
async def create(context: Context, given: CreateEndpoint) -> Answer:
    """Open an endpoint for a registry; its path and secret are shown this once."""
    async with transaction(context.pool) as connection:
        made = await create_endpoint(connection, context.vault, given)
    return Answer(opened(made))


@procedures.mutation("webhook.rotate", gives=RotatedWebhook)
async def rotate(context: Context, given: RotateEndpoint) -> Answer:
    """Give it a new secret, or path; the former goes on to be accepted for the grace."""
    async with transaction(context.pool) as connection:
        made = await rotate_endpoint(connection, context.vault, given)
    return Answer(rotated(made))


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
