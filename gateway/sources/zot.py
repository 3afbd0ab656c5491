"""zot, by the CloudEvents of its events extension, binary (in headers) or structured (in the body).

https://zotregistry.dev/latest/articles/events/

Nothing of it is signed, so its headers are as good as its body. An upload that its lint refuses looks like one
that succeeded but for the event's type.
"""

from gateway.model.errors import InvalidInput
from gateway.model.events import Ignored, Notification
from gateway.model.signatures import verify_credentials
from gateway.sources._events import (
    ParsedEvent,
    ignored_event,
    is_image,
    notification,
    push_event,
    quoted,
    split_address,
)
from gateway.sources._json import Part, parse_object
from gateway.sources._source import Request, Source, Trust

_HEADER = "Authorization"
_OTHER_HEADER = "x-api-key"
# What stands before it can be configured.
_PUSH = "image.updated"


def verify(request: Request, trust: Trust) -> None:
    verify_credentials(request.headers, trust.secret, trust.settings.get("header", _OTHER_HEADER).lower())


def parse(request: Request, trust: Trust) -> Notification:
    body = parse_object(request.body)
    if "specversion" in body:
        event, told = body, body.part("data")
    else:
        event, told = Part({name: request.headers.get(f"ce-{name}") for name in ("id", "type", "source")}, "ce"), body
    if not event.text("type"):
        raise InvalidInput("neither a CloudEvent, nor headers of one (Ce-Type)")
    return notification([_said(event, told, trust)], ids=[event.text("id")])


def _said(event: Part, told: Part, trust: Trust) -> ParsedEvent:
    path, tag, digest = told.text("name"), told.text("reference"), told.text("digest")
    if not path:
        return Ignored("", f"not a push: {quoted(event.text('type'))}")
    host = _host(event.text("source"))
    reason = _refusal(event, told)
    if reason:
        return ignored_event(reason, trust, host=host, path=path, tag=tag, digest=digest)
    return push_event(trust, host=host, path=path, tag=tag, digest=digest)


def _host(source: str) -> str:
    # Its default is the project's name, no address.
    return split_address(source)[0] if "://" in source else ""


def _refusal(event: Part, told: Part) -> str:
    if not f".{event.text('type')}".endswith(f".{_PUSH}"):
        return f"not a push: {quoted(event.text('type'))}"
    manifest = parse_object(told.text("manifest").encode()) if told.text("manifest") else Part({})
    if manifest.part("subject"):
        return "attached to an image, none itself"
    kinds = [manifest.text("artifactType"), manifest.part("config").text("mediaType"), told.text("mediaType")]
    return next((f"not an image: {quoted(kind)}" for kind in kinds if not is_image(kind)), "")


SOURCE = Source(
    "zot",
    header=_HEADER,
    header_value="Bearer {secret}",
    verify=verify,
    parse=parse,
    settings={"header": f"the header of your own that carries the secret, without credentials ({_OTHER_HEADER})."},
    chosen_header=lambda settings: settings.get("header", _HEADER),
)
