"""webhook.*: the webhooks through which registries report pushes. Paths and secrets are shown once."""

from typing import Annotated, Self

from pydantic import Field

from gateway.admin.context import Context
from gateway.admin.endpoints import (
    CreateEndpoint,
    RotateEndpoint,
    UpdateEndpoint,
    create_endpoint,
    rotate_endpoint,
    update_endpoint,
)
from gateway.admin.inputs import Id, Input
from gateway.api.procedures._pagination import Paged, paged
from gateway.api.procedures._response import Moment, Response
from gateway.api.rpc.procedure import Answer, Procedures
from gateway.model.endpoints import Endpoint
from gateway.store import endpoints
from gateway.store.database import statement, transaction

procedures = Procedures()


class Named(Input):
    endpoint_id: Id


class WebhookRow(Response):
    """A webhook, without its path and its secret."""

    endpoint_id: str
    source: str
    name: str
    enabled: bool
    host: str | None
    aliases: list[str]
    settings: dict[str, str]
    repositories: list[str]
    networks: list[str]
    rate: Annotated[int | None, Field(description="Requests per minute. Null: the gateway's setting.")]
    former_valid_until: Annotated[
        Moment | None, Field(description="Time until which the replaced path or secret stays valid.")
    ]
    created_at: Moment

    @classmethod
    def from_endpoint(cls, endpoint: Endpoint) -> Self:
        return cls.make(
            endpoint,
            aliases=sorted(endpoint.aliases),
            settings=dict(endpoint.settings),
            repositories=list(endpoint.repositories),
            networks=[str(network) for network in endpoint.networks],
            former_valid_until=endpoint.former_until,
        )


_Header = Annotated[
    str | None, Field(description="Header with the secret or the signature. Null: only the path is secret.")
]


class OpenedWebhook(Response):
    """A new webhook, with its path and its secret. Both are shown once."""

    endpoint_id: str
    source: str
    path: str
    secret: str
    header: _Header


class RotatedWebhook(Response):
    """The new path or secret of a webhook, shown once. Null: it did not change."""

    endpoint_id: str
    source: str
    path: str | None
    secret: str | None
    header: _Header


@procedures.mutation("webhook.create", gives=OpenedWebhook)
async def create(context: Context, given: CreateEndpoint) -> Answer:
    """Create a webhook.

    Path and secret are shown once.
    """
    async with transaction(context.pool) as connection:
        made = await create_endpoint(connection, context.vault, given)
    return Answer(OpenedWebhook.make(made))


@procedures.mutation("webhook.update", gives=WebhookRow)
async def update(context: Context, given: UpdateEndpoint) -> Answer:
    """Update a webhook, and return it.

    Absent fields stay unchanged; null clears a field. Its source never changes; webhook.rotate replaces its path or
    secret.
    """
    async with transaction(context.pool) as connection:
        await update_endpoint(connection, context.vault, given)
        return Answer(
            WebhookRow.from_endpoint(
                await endpoints.select_endpoint_by_id(connection, context.vault, given.endpoint_id)
            )
        )


@procedures.mutation("webhook.rotate", gives=RotatedWebhook)
async def rotate(context: Context, given: RotateEndpoint) -> Answer:
    """Replace the secret or the path of a webhook.

    The previous one stays valid for the grace period. The new one is shown once.
    """
    async with transaction(context.pool) as connection:
        made = await rotate_endpoint(connection, context.vault, given)
    return Answer(RotatedWebhook.make(made))


@procedures.query("webhook.all", gives=list[WebhookRow])
async def select_all(context: Context, given: Paged) -> Answer:
    """List webhooks, newest first, without their paths and secrets."""
    page = given.page
    async with statement(context.pool) as connection:
        found = await endpoints.select_endpoints(connection, context.vault, page)
    return paged(found, page, lambda one: (one.created_at, one.endpoint_id), WebhookRow.from_endpoint)


@procedures.query("webhook.one", gives=WebhookRow)
async def select_one(context: Context, given: Named) -> Answer:
    """Return a webhook, without its path and its secret."""
    async with statement(context.pool) as connection:
        return Answer(
            WebhookRow.from_endpoint(
                await endpoints.select_endpoint_by_id(connection, context.vault, given.endpoint_id)
            )
        )


@procedures.mutation("webhook.enable", gives=WebhookRow)
async def enable(context: Context, given: Named) -> Answer:
    """Enable a webhook."""
    return await _set_enabled(context, given, enabled=True)


@procedures.mutation("webhook.disable", gives=WebhookRow)
async def disable(context: Context, given: Named) -> Answer:
    """Disable a webhook.

    It deploys nothing until you enable it.
    """
    return await _set_enabled(context, given, enabled=False)


async def _set_enabled(context: Context, given: Named, *, enabled: bool) -> Answer:
    async with transaction(context.pool) as connection:
        await endpoints.update_enabled(connection, given.endpoint_id, enabled=enabled)
        return Answer(
            WebhookRow.from_endpoint(
                await endpoints.select_endpoint_by_id(connection, context.vault, given.endpoint_id)
            )
        )


@procedures.mutation("webhook.remove", gives=WebhookRow)
async def remove(context: Context, given: Named) -> Answer:
    """Remove a webhook, and return it as it was."""
    async with transaction(context.pool) as connection:
        removed = await endpoints.select_endpoint_by_id(connection, context.vault, given.endpoint_id)
        await endpoints.delete_endpoint(connection, given.endpoint_id)
    return Answer(WebhookRow.from_endpoint(removed))
