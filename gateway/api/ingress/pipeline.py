"""What every way in of pushes has in common: a body read within bounds, and stored before it is answered."""

from datetime import UTC, datetime
from typing import Any

import structlog
from aiohttp import web

from gateway.api.context import CONTEXT
from gateway.api.ingress.repository_locks import TURNS
from gateway.api.notify import tell
from gateway.api.request_body import read_body
from gateway.model.deliveries import redact_headers
from gateway.model.endpoints import Endpoint
from gateway.model.errors import GatewayError, InvalidInput
from gateway.model.events import Notification
from gateway.queue import ingest
from gateway.queue.ingest import Receipt
from gateway.sources import Request

_LOG = structlog.get_logger()

TRY_AGAIN = 5  # seconds until a database that is away may be back
_LOGGED = 20  # of what a delivery caused, the first; the inbox has them all


async def read(request: web.Request) -> tuple[Request, GatewayError | None]:
    """Return what was sent, and why its body could not be had."""
    body = b""
    flaw: GatewayError | None = None
    try:
        body = await read_body(request)
    except InvalidInput as error:
        flaw = error
    return Request(headers_of(request), body, request.method, dict(request.query), datetime.now(UTC)), flaw


def headers_of(request: web.Request) -> dict[str, str]:
    return {name.lower(): value for name, value in request.headers.items()}


async def deliver(
    application: web.Application, endpoint: Endpoint, asked: Request, notification: Notification
) -> Receipt:
    headers = redact_headers(asked.headers, endpoint.secrets)
    async with application[TURNS].take(str(event.repository) for event in notification.events):
        receipt = await ingest.deliver(application[CONTEXT].pool, endpoint, asked.body, notification, headers=headers)
    if receipt.deployments:
        tell(application)
    _LOG.info(
        "Accepted a webhook",
        delivery=receipt.delivery_id,
        source=endpoint.source,
        verdict=receipt.verdict,
        duplicate_of=receipt.duplicate_of,
        deployments=[queued.deployment_id for queued in receipt.deployments[:_LOGGED]],
        ignored=[f"{ignored.reference}: {ignored.reason}" for ignored in receipt.ignored[:_LOGGED]],
    )
    return receipt


def shown(receipt: Receipt) -> dict[str, Any]:
    return {
        "deliveryId": receipt.delivery_id,
        "duplicateOf": receipt.duplicate_of,
        "deployments": [
            {"deploymentId": queued.deployment_id, "applicationId": queued.application_id}
            for queued in receipt.deployments
        ],
        "ignored": [{"reference": ignored.reference, "reason": ignored.reason} for ignored in receipt.ignored],
    }
