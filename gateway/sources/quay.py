"""Quay, quay.io and self-hosted. It does not sign, and sends no digest: the unguessable path is the only proof.

https://docs.quay.io/guides/notifications.html

The body does not name its event. Only that of a push has `updated_tags`. Quay disables a webhook that fails three times
in a row, so every request that can be read is accepted.
"""

from gateway.model.events import Notification
from gateway.sources._events import ignored_event, notification, push_event, split_address
from gateway.sources._json import Part, parse_object
from gateway.sources._source import Request, Source, Trust

_HOST = "quay.io"
_TAGS = "updated_tags"


def verify(request: Request, trust: Trust) -> None:
    """Accept every request to the path."""


def parse(request: Request, trust: Trust) -> Notification:
    body = parse_object(request.body)
    tags, (host, path) = body.texts(_TAGS), _name(body, trust)
    if not tags:
        return notification([ignored_event(f"not a push: {_kind(body)}", trust, host=host, path=path)])
    return notification([push_event(trust, host=host, path=path, tag=tag) for tag in tags], timeless=True)


def _kind(body: Part) -> str:
    kinds = {_TAGS: "no tags", "build_id": "a build", "vulnerability": "a scan", "usage_percent": "a quota"}
    return next((kind for field, kind in kinds.items() if field in body), "another event")


def _name(body: Part, trust: Trust) -> tuple[str, str]:
    host, path = split_address(body.text("docker_url"))
    return host or ("" if trust.host else _HOST), path or body.text("repository")


SOURCE = Source(
    "quay",
    title="Quay",
    header=None,
    header_value=None,
    verify=verify,
    parse=parse,
    always_accept=True,
    response_deadline=9.0,
)
