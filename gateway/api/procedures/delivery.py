"""delivery.*: what registries have told, what was made of it, and doing it again."""

from base64 import b64encode
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input
from gateway.api.procedures._pagination import ShortPaged, headers
from gateway.api.rpc.procedure import Answer, Moment, Procedures
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


class IgnoredReference(TypedDict):
    """What deploys nothing, and why."""

    reference: str
    reason: str


class CausedDeployment(TypedDict):
    """A deployment that a delivery caused or joined."""

    deploymentId: str
    applicationId: str
    state: Status


class DeliveryRow(TypedDict):
    """What came to a webhook, and what became of it."""

    deliveryId: str
    endpointId: str | None
    source: str
    receivedAt: Moment
    verdict: Verdict
    ignored: list[IgnoredReference]
    duplicateOf: str | None
    replayOf: str | None
    proven: Annotated[bool, Field(description="Its sender proved itself.")]
    times: Annotated[int, Field(description="How many refusals it stands for.")]
    deployments: list[CausedDeployment]
    bytes: int


class WholeDelivery(DeliveryRow):
    """A delivery with what came."""

    headers: dict[str, str]
    body: Annotated[str | None, Field(description="Null where it is no text.")]
    bodyBase64: str


def shown(delivery: Delivery) -> DeliveryRow:
    return {
        "deliveryId": delivery.delivery_id,
        "endpointId": delivery.endpoint_id,
        "source": delivery.source,
        "receivedAt": delivery.received_at.isoformat(),
        "verdict": delivery.verdict,
        "ignored": [{"reference": one.reference, "reason": one.reason} for one in delivery.ignored],
        "duplicateOf": delivery.duplicate_of,
        "replayOf": delivery.replay_of,
        "proven": not delivery.unauthenticated,
        "times": delivery.times,
        "deployments": [
            {"deploymentId": one.deployment_id, "applicationId": one.application_id, "state": one.status}
            for one in delivery.caused
        ],
        "bytes": delivery.size,
    }


def shown_whole(delivery: Delivery, body: bytes) -> WholeDelivery:
    """Return it with what came; `body` is null where it is no text, `bodyBase64` is always there."""
    try:
        text: str | None = body.decode()
    except UnicodeDecodeError:
        text = None
    return {
        **shown(delivery),
        "headers": dict(delivery.headers),
        "body": text,
        "bodyBase64": b64encode(body).decode(),
    }


@procedures.query("delivery.all", gives=list[DeliveryRow])
async def select_all(context: Context, given: Filter) -> Answer:
    """Return what came to webhooks, newest first."""
    page = given.page
    async with statement(context.pool) as connection:
        found, following = await delivery_log.select_inbox(
            connection, endpoint_id=given.endpoint_id, source=given.source, verdict=given.verdict, page=page
        )
    return Answer([shown(one) for one in found], headers=headers(following))


@procedures.query("delivery.one", gives=WholeDelivery)
async def select_one(context: Context, given: Named) -> Answer:
    """Return one with what came."""
    async with statement(context.pool) as connection:
        return Answer(shown_whole(*await delivery_log.select_delivery(connection, given.delivery_id)))


@procedures.mutation("delivery.replay", gives=DeliveryRow)
async def do_again(context: Context, given: Named) -> Answer:
    """Do again what a delivery caused, whatever became of it the first time."""
    receipt = await replay.replay(context.pool, context.vault, given.delivery_id)
    async with statement(context.pool) as connection:
        delivery, _ = await delivery_log.select_delivery(connection, receipt.delivery_id)
    return Answer(shown(delivery), changed=bool(receipt.deployments))
