"""What a delivery said is done again, as if it came now: after an application was made, or its registry was mended."""

from dataclasses import replace
from uuid import uuid4

from gateway.model.endpoints import DEPLOY_SOURCE
from gateway.model.errors import InvalidInput
from gateway.model.reference import Reference
from gateway.queue import ingest
from gateway.queue.ingest import Receipt
from gateway.sources import SOURCES, Request, Trust, detect
from gateway.store import applications, delivery_log, deploy_tokens, endpoints, queue
from gateway.store.database import Connection, Pool, statement, transaction
from gateway.store.encryption import Vault


async def replay(pool: Pool, vault: Vault, delivery_id: str) -> Receipt:
    """Store it anew and queue what it causes; raises NotFound, or InvalidInput for what cannot be done again."""
    async with statement(pool) as connection:
        delivery, body = await delivery_log.select_delivery(connection, delivery_id)
        if delivery.unauthenticated:
            raise InvalidInput("a request that has not proven itself is not done again: send it anew, proven")
        if delivery.source == ingest.POLLED:
            raise InvalidInput("nobody has told this, it was found; deploy the application instead")
        if delivery.endpoint_id is None:
            raise InvalidInput("the webhook it came to is no more: make one, and send it anew")
        # It has proven itself when it came; nothing it may say has changed since.
        asked = Request(delivery.headers, body, at=delivery.received_at)
        if delivery.source == DEPLOY_SOURCE:
            endpoint = await deploy_tokens.select_address(connection, vault, delivery.endpoint_id)
            notification = detect.parse(asked, await _image(connection, endpoint.application_id or ""))
        else:
            endpoint = await endpoints.select_endpoint_by_id(connection, vault, delivery.endpoint_id)
            trust = Trust(endpoint.secret, endpoint.host, endpoint.aliases, endpoint.settings)
            notification = SOURCES[endpoint.source].parse(asked, trust)
    again = replace(endpoint.filter_permitted(notification), event_id=f"replay:{uuid4()}")
    receipt = await ingest.ingest_delivery(pool, endpoint, body, again, headers=delivery.headers, replay_of=delivery_id)
    if receipt.deployments:
        async with transaction(pool) as connection:
            await queue.notify(connection)
    return receipt


async def _image(connection: Connection, application_id: str) -> Reference:
    image = await applications.select_image(connection, application_id)
    if image is None:
        raise InvalidInput("the application has no image any more: set dockerImage", field="dockerImage")
    return Reference.parse(image)
