"""Docker Hub. It does not sign, and sends no digest: the unguessable path is the only proof.

https://docs.docker.com/docker-hub/repos/manage/webhooks/

The gateway never requests the `callback_url` in the body: Docker Hub no longer serves it, and it could be any address.
"""

from gateway.model.events import Notification
from gateway.model.reference import DOCKER_HUB
from gateway.sources._events import ignored_event, is_image, notification, push_event, quote
from gateway.sources._json import parse_object
from gateway.sources._source import Request, Source, Trust


def verify(request: Request, trust: Trust) -> None:
    """Accept every request to the path."""


def parse(request: Request, trust: Trust) -> Notification:
    body = parse_object(request.body)
    push = body.part("push_data")
    path, tag = body.part("repository").text("repo_name"), push.text("tag")
    event = push_event(trust, host=DOCKER_HUB, path=path, tag=tag)
    # This field is undocumented, and absent from most deliveries.
    media_type = push.text("media_type")
    if not is_image(media_type):
        reason = f"not an image: {quote(media_type)}"
        event = ignored_event(reason, trust, host=DOCKER_HUB, path=path, tag=tag)
    return notification([event])


SOURCE = Source(
    "dockerhub", title="Docker Hub", header=None, header_value=None, verify=verify, parse=parse, response_deadline=9.0
)
