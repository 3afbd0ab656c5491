"""Replay a stored delivery as if it arrived now, for example after an application was created or a registry fixed."""

from dataclasses import replace
from uuid import uuid4

from gateway.model.errors import InvalidInput
from gateway.queue import ingest
from gateway.queue.ingest import Receipt
from gateway.queue.stored import parse_stored
from gateway.store import delivery_log, queue
from gateway.store.database import Pool, statement, transaction
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
        endpoint, notification = await parse_stored(connection, vault, delivery, body)
    replayed = replace(endpoint.filter_permitted(notification), event_id=f"replay:{uuid4()}")
    receipt = await ingest.ingest_delivery(
        pool, endpoint, body, replayed, headers=delivery.headers, replay_of=delivery_id
    )
    if receipt.deployments:
        async with transaction(pool) as connection:
            await queue.notify(connection)
    return receipt
