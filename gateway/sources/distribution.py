"""CNCF Distribution (`registry:2`, `registry:3`) and what is built on it, by its notifications.

https://distribution.github.io/distribution/about/notifications/

It repeats an event until it is answered 2xx, for ever, and holds back all that follows: never refuse.
"""

from gateway.model.events import Notification
from gateway.model.signatures import verify_credentials
from gateway.sources._events import ParsedEvent, ignored_event, notification, push_event, quoted, split_address
from gateway.sources._json import Part, parse_object
from gateway.sources._source import Request, Source, Trust

_HEADER = "Authorization"
_BLOB = "application/octet-stream"


def verify(request: Request, trust: Trust) -> None:
    verify_credentials(request.headers, trust.secret)


def parse(request: Request, trust: Trust) -> Notification:
    events = parse_object(request.body).parts("events")
    return notification([_said(event, trust) for event in events], ids=[event.text("id") for event in events])


def _said(event: Part, trust: Trust) -> ParsedEvent:
    target = event.part("target")
    action, path, tag = event.text("action"), target.text("repository"), target.text("tag")
    host, digest = _host(event), target.text("digest")
    # A poller's HEAD of a tag arrives as a pull of it: taken for a push, deploys would feed themselves.
    if action != "push":
        reason = f"not a push: {quoted(action)}"
        return ignored_event(reason, trust, host=host, path=path, tag=tag, digest=digest)
    if _is_blob(target):
        return ignored_event("a blob", trust, host=host, path=path, tag=tag, digest=digest)
    return push_event(trust, host=host, path=path, tag=tag, digest=digest)


def _is_blob(target: Part) -> bool:
    return target.text("mediaType") == _BLOB or "/blobs/" in target.text("url")


def _host(event: Part) -> str:
    # The address honours the proxy's forwarding headers; the request's host is what the proxy called.
    return split_address(event.part("target").text("url"))[0] or event.part("request").text("host")


SOURCE = Source(
    "distribution",
    header=_HEADER,
    header_value="Bearer {secret}",
    verify=verify,
    parse=parse,
    always_accept=True,
    # By default it waits a second and comes again; one told to wait longer is rather answered late than sent away.
    response_deadline=9.0,
)
