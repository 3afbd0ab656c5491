"""POST /webhooks/{source}/{token}: proven, parsed, stored, and only then answered."""

from typing import Any

import structlog
from aiohttp import web

from gateway import dispatch
from gateway.dispatch import Receipt
from gateway.errors import GatewayError, InvalidInput, NotFound
from gateway.metrics import DELIVERIES
from gateway.sources import SOURCES, Request, Source, Trust
from gateway.store import endpoints
from gateway.store.database import statement
from gateway.store.endpoints import Endpoint
from gateway.web.context import CONTEXT, Context
from gateway.web.notifier import tell

_LOG = structlog.get_logger()


async def receive(request: web.Request) -> web.Response:
    """Answer 202 when something was queued or joined, else 200; 4xx for what cannot be believed or understood."""
    name = request.match_info["source"]
    source = SOURCES.get(name)
    try:
        if source is None:
            raise NotFound("there is no such webhook")
        receipt, verdict = await _accept(request, source)
    except GatewayError as error:
        DELIVERIES.labels(name if source else "unknown", f"refused_{error.status}").inc()
        _LOG.info("Refused a webhook", source=name, status=error.status, reason=str(error))
        return _refusal(error)
    DELIVERIES.labels(source.name, verdict).inc()
    _LOG.info(
        "Accepted a webhook",
        delivery=receipt.delivery_id,
        source=source.name,
        verdict=verdict,
        duplicate_of=receipt.duplicate_of,
        deployments=[queued.deployment_id for queued in receipt.deployments],
        ignored=[f"{ignored.reference}: {ignored.reason}" for ignored in receipt.ignored],
    )
    return web.json_response(_shown(receipt), status=202 if receipt.deployments else 200)


async def _accept(request: web.Request, source: Source) -> tuple[Receipt, str]:
    context = request.app[CONTEXT]
    async with statement(context.pool) as connection:
        endpoint = await endpoints.select_endpoint(connection, context.vault, source.name, request.match_info["token"])
    trust = Trust(endpoint.secret, endpoint.host, endpoint.aliases, endpoint.settings)
    headers = {key.lower(): value for key, value in request.headers.items()}
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        if not source.never_refuse:
            raise
        source.verify(Request(headers, b""), trust)
        return await _reject(context, endpoint, b"", "larger than is accepted")
    asked = Request(headers, body)
    source.verify(asked, trust)
    try:
        notification = source.parse(asked, trust)
    except InvalidInput as error:
        if not source.never_refuse:
            raise
        return await _reject(context, endpoint, body, str(error))
    receipt = await dispatch.deliver(context.pool, endpoint, body, notification)
    if receipt.deployments:
        tell(request.app)
    return receipt, receipt.verdict


async def _reject(context: Context, endpoint: Endpoint, body: bytes, why: str) -> tuple[Receipt, str]:
    return await dispatch.reject(context.pool, endpoint, body, why), "rejected"


def _shown(receipt: Receipt) -> dict[str, Any]:
    return {
        "deliveryId": receipt.delivery_id,
        "duplicateOf": receipt.duplicate_of,
        "deployments": [
            {"deploymentId": queued.deployment_id, "applicationId": queued.application_id}
            for queued in receipt.deployments
        ],
        "ignored": [{"reference": ignored.reference, "reason": ignored.reason} for ignored in receipt.ignored],
    }


def _refusal(error: GatewayError) -> web.Response:
    code = type(error).__name__
    return web.json_response({"error": {"code": code, "message": str(error)}}, status=error.status)
