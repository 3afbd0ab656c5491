"""Parse stored deliveries again: to replay one, and to find the commit from which an image was built."""

from collections.abc import Mapping

from gateway.model.deliveries import Delivery
from gateway.model.endpoints import DEPLOY_SOURCE, Endpoint
from gateway.model.errors import DatabaseUnavailable, GatewayError, InvalidInput
from gateway.model.events import Notification
from gateway.model.reference import Reference
from gateway.sources import SOURCES, Request, Trust, detect
from gateway.store import application_images, delivery_log, deploy_tokens, endpoints
from gateway.store.database import Connection
from gateway.store.encryption import Vault

_NEWEST = 5  # deliveries of a deployment


async def parse_stored(
    connection: Connection, vault: Vault, delivery: Delivery, body: bytes
) -> tuple[Endpoint, Notification]:
    """Parse a delivery that was authenticated when it was received. Raises InvalidInput, and NotFound."""
    request = Request(delivery.headers, body, at=delivery.received_at)
    endpoint_id = delivery.endpoint_id or ""
    if delivery.source == DEPLOY_SOURCE:
        endpoint = await deploy_tokens.select_address(connection, vault, endpoint_id)
        return endpoint, detect.parse(request, await _current_image(connection, endpoint.application_id or ""))
    endpoint = await endpoints.select_endpoint_by_id(connection, vault, endpoint_id)
    if (source := SOURCES.get(endpoint.source)) is None:
        raise InvalidInput(f"this version does not know the source {endpoint.source!r} of this delivery")
    return endpoint, source.parse(request, _trust(endpoint))


def _trust(endpoint: Endpoint) -> Trust:
    return Trust(endpoint.secret, endpoint.host, endpoint.aliases, endpoint.settings)


async def _current_image(connection: Connection, application_id: str) -> Reference:
    image = await application_images.select_image(connection, application_id)
    if image is None:
        raise InvalidInput("the application has no image: set dockerImage", field="dockerImage")
    return Reference.parse(image)


async def find_origin(
    connection: Connection, vault: Vault, deployment_id: str, digest: str | None
) -> Mapping[str, str] | None:
    """Return the origin of an image that the newest delivery names that caused its deployment. None if none names it.

    A delivery about an image with another digest does not count.
    """
    for delivery, body in await delivery_log.select_of_deployment(connection, deployment_id, most=_NEWEST):
        try:
            endpoint, said = await parse_stored(connection, vault, delivery, body)
            if digest and said.events and all(one.digest not in {None, digest} for one in said.events):
                continue
            request = Request(delivery.headers, body, at=delivery.received_at)
            if delivery.source == DEPLOY_SOURCE:
                origin = detect.origin(request)
            else:
                origin = SOURCES[endpoint.source].origin(request, _trust(endpoint))
        except DatabaseUnavailable:
            raise
        except GatewayError:
            continue  # the delivery cannot be parsed any more, for example after a change of the webhook
        if origin is not None:
            return origin
    return None
