"""POST /api/deploy/{refreshToken}: an application's own address. Whoever knows it may have the application deployed.

A body that names an image deploys it where the application follows it, and nothing otherwise; one that names none, or
no body, deploys what is configured. What a link does when it is only looked at, GET, deploys nothing.
"""

import math
import time
from typing import Any
from uuid import uuid4

import structlog
from aiohttp import web

from gateway.admin.context import Context
from gateway.api.context import CONTEXT
from gateway.api.ingress.deadline import in_time
from gateway.api.ingress.pipeline import TRY_AGAIN, deliver, read, shown
from gateway.api.ingress.rate_limit import GATES
from gateway.api.metrics import DELIVERIES
from gateway.model.applications import Application
from gateway.model.deliveries import redact_headers
from gateway.model.endpoints import DEPLOY_SOURCE, Endpoint
from gateway.model.errors import GatewayError, InvalidInput, NotFound, Throttled, Unavailable
from gateway.model.events import Notification
from gateway.queue import ingest
from gateway.queue.ingest import Receipt
from gateway.sources import Request, detect
from gateway.store import applications, endpoints
from gateway.store.database import transaction

_LOG = structlog.get_logger()
_PATIENCE = 9.0  # seconds within which it is answered; the senders that wait for less try again
_PING = {"message": "Ping received, webhook is active"}


class _Refused(InvalidInput):
    """It knows the address, and deploys nothing."""


async def receive(request: web.Request) -> web.Response:
    """Answer 200 with what was caused or why nothing was, 4xx for what cannot be believed or understood."""
    if request.method != "POST":
        return web.json_response({"message": "POST to this address"}, status=405, headers={"Allow": "POST"})
    try:
        gates = request.app[GATES]
        gate = gates.at(request.path)
        gate.count()
        if request.headers.get("X-GitHub-Event") == "ping":
            return web.json_response(_PING)
        began = time.monotonic()
        known = _known(request.app[CONTEXT], request.match_info["token"])
        endpoint, application = await in_time(request.app, _PATIENCE, gate.through(known))
        asked, flaw = await read(request)
        if flaw is not None:
            raise flaw
        gate = gates.open(request.path, rate=None)
        work = _accept(request.app, endpoint, application, asked)
        receipt = await in_time(request.app, _PATIENCE - (time.monotonic() - began), gate.through(work))
    except GatewayError as error:
        return _refused(error)
    DELIVERIES.labels(DEPLOY_SOURCE, receipt.verdict).inc()
    headers = {"X-Deployment-Id": receipt.deployments[0].deployment_id} if receipt.deployments else {}
    return web.json_response({"message": _message(receipt), **shown(receipt)}, headers=headers)


def _refused(error: GatewayError) -> web.Response:
    status, headers = int(error.status), {}
    if isinstance(error, Throttled | Unavailable):
        seconds = error.retry_after if isinstance(error, Throttled) else TRY_AGAIN
        headers["Retry-After"] = str(math.ceil(seconds))
    DELIVERIES.labels(DEPLOY_SOURCE, f"refused_{status}").inc()
    _LOG.info("Refused a webhook", source=DEPLOY_SOURCE, status=status, reason=str(error))
    return web.json_response({"message": str(error)}, status=status, headers=headers)


async def _known(context: Context, token: str) -> tuple[Endpoint, Application]:
    """Raises NotFound."""
    async with transaction(context.pool) as connection:
        try:
            endpoint = await endpoints.select_endpoint(connection, context.vault, DEPLOY_SOURCE, token)
            await applications.select_live(connection, endpoint.application_id or "")
        except NotFound as error:
            raise NotFound("Application Not Found") from error
        application = await applications.select_application(connection, context.vault, endpoint.application_id or "")
    return endpoint, application


async def _accept(application: web.Application, endpoint: Endpoint, addressed: Application, asked: Request) -> Receipt:
    """Store it with what it causes; raises InvalidInput for what can cause nothing, which is stored too."""
    try:
        notification = _understood(addressed, asked)
    except InvalidInput as error:
        headers = redact_headers(asked.headers, endpoint.secrets)
        await ingest.reject(application[CONTEXT].pool, endpoint, asked.body, str(error), headers=headers)
        raise
    return await deliver(application, endpoint, asked, notification)


def _understood(addressed: Application, asked: Request) -> Notification:
    if not addressed.auto_deploy:
        raise _Refused("Automatic deployments are disabled for this application")
    if addressed.reference is None:
        raise _Refused("Application Docker Image Name Not Found: set dockerImage with application.saveDockerProvider")
    notification = detect.parse(asked, addressed.reference)
    if notification.unnamed:
        # Nothing tells one such call from the next: none is a duplicate, and it joins what waits.
        return Notification(unnamed=True, event_id=f"call:{uuid4()}")
    return notification


def _message(receipt: Receipt) -> str:
    if receipt.deployments:
        return "Application deployed successfully"
    if receipt.duplicate_of:
        return "This was told already, and is dealt with"
    reasons: dict[str, Any] = dict.fromkeys(
        f"{one.reference}: {one.reason}" if one.reference else one.reason for one in receipt.ignored
    )
    return "Nothing is deployed. " + "; ".join(reasons)
