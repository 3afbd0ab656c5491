"""CNCF Distribution (`registry:2`, `registry:3`) and registries built on it: its notifications.

https://distribution.github.io/distribution/about/notifications/

The registry repeats a delivery until it is answered 2xx, and holds back all later ones. So a request that has proven
itself is always accepted.
"""

from gateway.model.events import Notification
from gateway.model.signatures import verify_credentials
from gateway.sources._events import ParsedEvent, ignored_event, notification, push_event, quote, split_address
from gateway.sources._json import Part, parse_object
from gateway.sources._source import Request, Source, Trust

_HEADER = "Authorization"
_BLOB = "application/octet-stream"


def verify(request: Request, trust: Trust) -> None:
    verify_credentials(request.headers, trust.secret)


def parse(request: Request, trust: Trust) -> Notification:
    events = parse_object(request.body).parts("events")
    return notification([_parse_event(event, trust) for event in events], ids=[event.text("id") for event in events])


def _parse_event(event: Part, trust: Trust) -> ParsedEvent:
    target = event.part("target")
    action, path, tag = event.text("action"), target.text("repository"), target.text("tag")
    host, digest = _host(event), target.text("digest")
    # The gateway's own requests for a tag arrive as pulls. If those deployed, each deployment would cause another.
    if action != "push":
        reason = f"not a push: {quote(action)}"
        return ignored_event(reason, trust, host=host, path=path, tag=tag, digest=digest)
    if _is_blob(target):
        return ignored_event("a blob", trust, host=host, path=path, tag=tag, digest=digest)
    return push_event(trust, host=host, path=path, tag=tag, digest=digest)


def _is_blob(target: Part) -> bool:
    return target.text("mediaType") == _BLOB or "/blobs/" in target.text("url")


def _host(event: Part) -> str:
    # The url honours a proxy's forwarding headers; request.host is the host that the proxy requested.
    return split_address(event.part("target").text("url"))[0] or event.part("request").text("host")


SOURCE = Source(
    "distribution",
    title="CNCF Distribution: registry:2, registry:3, your own",
    header=_HEADER,
    header_value="Bearer {secret}",
    verify=verify,
    parse=parse,
    always_accept=True,
    # By default the registry waits a second and repeats. A late answer serves those that are configured to wait longer.
    response_deadline=9.0,
)
