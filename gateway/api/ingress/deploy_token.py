"""POST /api/deploy/{token}: the deploy token of one application. Whoever knows the token can have it deployed.

A request whose body names an image deploys that image if a subscription of the application matches it, and nothing
otherwise. A request whose body names no image, or is empty, deploys the configured image. GET deploys nothing, since
browsers and chat programs fetch links to preview them.
"""

from typing import Any
from uuid import uuid4

from aiohttp import web

from gateway.api.context import CONTEXT
from gateway.api.ingress.pipeline import Answer, Ingress, process, receipt_body, retry_after
from gateway.model.applications import Application
from gateway.model.endpoints import DEPLOY_SOURCE, Endpoint
from gateway.model.errors import GatewayError, InvalidInput, NotFound, Throttled, Unavailable
from gateway.model.events import Notification
from gateway.queue.ingest import Receipt
from gateway.sources import Request, detect
from gateway.store import applications, endpoints
from gateway.store.database import transaction

_DEADLINE = 9.0  # seconds; senders that wait for less repeat the request


async def receive(request: web.Request) -> web.Response:
    """Respond 200 with what was queued or why nothing was, and 4xx to a request that is rejected."""
    if request.method != "POST":
        return web.json_response(
            {"message": "Send a POST request to this address"}, status=405, headers={"Allow": "POST"}
        )
    return await process(_DeployRequest(request))


class _DeployRequest(Ingress):
    """One request to a deploy token. The token is the proof; `gateway.sources.detect` recognizes the body."""

    name = DEPLOY_SOURCE
    deadline = _DEADLINE
    #: set by `find_endpoint`
    application: Application

    async def find_endpoint(self) -> Endpoint:
        context, token = self.app[CONTEXT], self.request.match_info["token"]
        async with transaction(context.pool) as connection:
            try:
                endpoint = await endpoints.select_endpoint(connection, context.vault, DEPLOY_SOURCE, token)
                application_id = endpoint.application_id or ""
                await applications.require_live(connection, application_id)
            except NotFound as error:
                raise NotFound("Application Not Found") from error
            self.application = await applications.select_application(connection, context.vault, application_id)
        return endpoint

    async def verify(self, endpoint: Endpoint, received: Request) -> Answer | None:
        _ = endpoint
        if received.headers.get("x-github-event") == "ping":
            return Answer(200, {"message": "Ping received, webhook is active"}, verdict=None)
        return None

    def parse(self, endpoint: Endpoint, received: Request) -> Notification:
        _ = endpoint
        if not self.application.auto_deploy:
            raise InvalidInput("Automatic deployments are disabled for this application")
        if self.application.reference is None:
            raise InvalidInput(
                "Application Docker Image Name Not Found: set dockerImage with application.saveDockerProvider"
            )
        notification = detect.parse(received, self.application.reference)
        if notification.names_no_image:
            # Nothing tells such calls apart. So none is a duplicate: it joins the queued deployment.
            return Notification(names_no_image=True, event_id=f"call:{uuid4()}")
        return notification

    def accepted(self, receipt: Receipt) -> Answer:
        headers = {"X-Deployment-Id": receipt.deployments[0].deployment_id} if receipt.deployments else {}
        return Answer(200, {"message": _message(receipt), **receipt_body(receipt)}, receipt.verdict, headers)

    def rejected(self, error: GatewayError) -> Answer:
        headers = retry_after(error) if isinstance(error, Throttled | Unavailable) else {}
        return Answer(int(error.status), {"message": str(error)}, f"refused_{int(error.status)}", headers)


def _message(receipt: Receipt) -> str:
    if receipt.deployments:
        return "Application deployed successfully"
    if receipt.duplicate_of:
        return "This push was received already, and nothing more is deployed for it"
    reasons: dict[str, Any] = dict.fromkeys(
        f"{one.reference}: {one.reason}" if one.reference else one.reason for one in receipt.ignored
    )
    return "Nothing is deployed. " + "; ".join(reasons)
