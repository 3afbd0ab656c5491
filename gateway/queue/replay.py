"""Replay a stored delivery as if it arrived now, for example after an application was created or a registry fixed."""

from dataclasses import replace
from uuid import uuid4

from gateway.model.endpoints import DEPLOY_SOURCE
from gateway.model.errors import InvalidInput
from gateway.model.reference import Reference
from gateway.queue import ingest
from gateway.queue.ingest import Receipt
from gateway.sources import SOURCES, Request, Trust, detect
from gateway.store import application_images, delivery_log, deploy_tokens, endpoints, queue
from gateway.store.database import Connection, Pool, statement, transaction
from gateway.store.encryption import Vault


async def replay(pool: Pool, vault: Vault, delivery_id: str) -> Receipt:
    """Store a copy of the delivery and enqueue what it causes.

    Raises NotFound, and InvalidInput when the delivery cannot be replayed.
    """
    async with statement(pool) as connection:
        delivery, body = await delivery_log.select_delivery(connection, delivery_id)
        if delivery.unauthenticated:
            raise InvalidInput(
                "this request was not authenticated, so it cannot be replayed: send it again with valid credentials"
            )
        if delivery.source == ingest.POLLED:
            raise InvalidInput(
                "this delivery was created by polling, so it cannot be replayed: deploy the application instead"
            )
        if delivery.endpoint_id is None:
            raise InvalidInput("the webhook of this delivery was deleted: create a webhook and send the event again")
        # It was authenticated when it was received.
        request = Request(delivery.headers, body, at=delivery.received_at)
        if delivery.source == DEPLOY_SOURCE:
            endpoint = await deploy_tokens.select_address(connection, vault, delivery.endpoint_id)
            notification = detect.parse(request, await _current_image(connection, endpoint.application_id or ""))
        else:
            endpoint = await endpoints.select_endpoint_by_id(connection, vault, delivery.endpoint_id)
            trust = Trust(endpoint.secret, endpoint.host, endpoint.aliases, endpoint.settings)
            notification = SOURCES[endpoint.source].parse(request, trust)
    replayed = replace(endpoint.filter_permitted(notification), event_id=f"replay:{uuid4()}")
    receipt = await ingest.ingest_delivery(
        pool, endpoint, body, replayed, headers=delivery.headers, replay_of=delivery_id
    )
    if receipt.deployments:
        async with transaction(pool) as connection:
            await queue.notify(connection)
    return receipt


async def _current_image(connection: Connection, application_id: str) -> Reference:
    image = await application_images.select_image(connection, application_id)
    if image is None:
        raise InvalidInput("the application has no image: set dockerImage", field="dockerImage")
    return Reference.parse(image)
