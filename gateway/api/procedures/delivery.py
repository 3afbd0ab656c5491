"""delivery.*: the inbox: the stored deliveries, what the gateway made of each, and their replay."""

from base64 import b64encode
from typing import Annotated, Any, Self

from pydantic import Field

from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input
from gateway.api.procedures._pagination import ShortPaged, headers
from gateway.api.procedures._response import Moment, Response
from gateway.api.rpc.procedure import Answer, Procedures
from gateway.model.deliveries import Delivery, Verdict
from gateway.model.deployments import Status
from gateway.queue import replay
from gateway.store import delivery_log
from gateway.store.database import statement

procedures = Procedures()


class Filter(ShortPaged):
    endpoint_id: Id | None = None
    source: Annotated[str, Field(max_length=64)] | None = None
    verdict: Verdict | None = None


class Named(Input):
    delivery_id: Id


class IgnoredReference(Response):
    """A reference that deploys nothing, and the reason."""

    reference: str
    reason: str


class CausedDeployment(Response):
    """A deployment that a delivery caused or joined."""

    deployment_id: str
    application_id: str
    state: Status


class DeliveryRow(Response):
    """A delivery, and what the gateway made of it."""

    delivery_id: str
    endpoint_id: str | None
    source: str
    received_at: Moment
    verdict: Verdict
    ignored: list[IgnoredReference]
    duplicate_of: str | None
    replay_of: str | None
    proven: Annotated[bool, Field(description="Whether the sender was authenticated.")]
    times: Annotated[int, Field(description="Number of identical rejected requests that this row stands for.")]
    deployments: list[CausedDeployment]
    size: Annotated[int, Field(alias="bytes")]

    @classmethod
    def from_delivery(cls, delivery: Delivery, **more: Any) -> Self:
        return cls.make(
            delivery,
            ignored=[IgnoredReference.make(one) for one in delivery.ignored],
            proven=not delivery.unauthenticated,
            deployments=[CausedDeployment.make(one, state=one.status) for one in delivery.caused],
            **more,
        )


class WholeDelivery(DeliveryRow):
    """A delivery with its headers and its body."""

    headers: dict[str, str]
    body: Annotated[str | None, Field(description="Null if the body is not text.")]
    body_base64: str

    @classmethod
    def with_body(cls, delivery: Delivery, body: bytes) -> Self:
        try:
            text: str | None = body.decode()
        except UnicodeDecodeError:
            text = None
        return cls.from_delivery(
            delivery, headers=dict(delivery.headers), body=text, body_base64=b64encode(body).decode()
        )


@procedures.query("delivery.all", gives=list[DeliveryRow])
async def select_all(context: Context, given: Filter) -> Answer:
    """List deliveries, newest first."""
    page = given.page
    async with statement(context.pool) as connection:
        found, following = await delivery_log.select_inbox(
            connection, endpoint_id=given.endpoint_id, source=given.source, verdict=given.verdict, page=page
        )
    return Answer([DeliveryRow.from_delivery(one) for one in found], headers=headers(following))


@procedures.query("delivery.one", gives=WholeDelivery)
async def select_one(context: Context, given: Named) -> Answer:
    """Return a delivery with its headers and its body."""
    async with statement(context.pool) as connection:
        return Answer(WholeDelivery.with_body(*await delivery_log.select_delivery(connection, given.delivery_id)))


@procedures.mutation("delivery.replay", gives=DeliveryRow)
async def replay_one(context: Context, given: Named) -> Answer:
    """Replay a delivery: handle it once more.

    Its verdict does not matter, but its sender must have been authenticated. The answer is the new delivery.
    """
    receipt = await replay.replay(context.pool, context.vault, given.delivery_id)
    async with statement(context.pool) as connection:
        delivery, _ = await delivery_log.select_delivery(connection, receipt.delivery_id)
    return Answer(DeliveryRow.from_delivery(delivery), changed=bool(receipt.deployments))
