"""zot: the CloudEvents of its events extension, in binary mode (headers) or structured mode (body).

https://zotregistry.dev/latest/articles/events/

zot does not sign, so its headers are as trustworthy as its body. An upload that zot's lint rejects differs from a
successful one only by the event's type.
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
    quote,
    split_address,
)
from gateway.sources._json import Part, parse_object
from gateway.sources._source import Request, Source, Trust

_HEADER = "Authorization"
_OTHER_HEADER = "x-api-key"
# The prefix of the event type is configurable.
_PUSH = "image.updated"


def verify(request: Request, trust: Trust) -> None:
    verify_credentials(request.headers, trust.secret, trust.settings.get("header", _OTHER_HEADER).lower())


def parse(request: Request, trust: Trust) -> Notification:
    body = parse_object(request.body)
    if "specversion" in body:
        event, data = body, body.part("data")
    else:
        event, data = Part({name: request.headers.get(f"ce-{name}") for name in ("id", "type", "source")}, "ce"), body
    if not event.text("type"):
        raise InvalidInput("the body is not a CloudEvent, and the headers have no Ce-Type")
    return notification([_parse_event(event, data, trust)], ids=[event.text("id")])


def _parse_event(event: Part, data: Part, trust: Trust) -> ParsedEvent:
    path, tag, digest = data.text("name"), data.text("reference"), data.text("digest")
    if not path:
        return Ignored("", f"not a push: {quote(event.text('type'))}")
    host = _host(event.text("source"))
    reason = _ignore_reason(event, data)
    if reason:
        return ignored_event(reason, trust, host=host, path=path, tag=tag, digest=digest)
    return push_event(trust, host=host, path=path, tag=tag, digest=digest)


def _host(source: str) -> str:
    # The default source is the project's name and not an address.
    return split_address(source)[0] if "://" in source else ""


def _ignore_reason(event: Part, data: Part) -> str:
    if not f".{event.text('type')}".endswith(f".{_PUSH}"):
        return f"not a push: {quote(event.text('type'))}"
    manifest = parse_object(data.text("manifest").encode()) if data.text("manifest") else Part({})
    if manifest.part("subject"):
        return "attached to an image, none itself"
    kinds = [manifest.text("artifactType"), manifest.part("config").text("mediaType"), data.text("mediaType")]
    return next((f"not an image: {quote(kind)}" for kind in kinds if not is_image(kind)), "")


SOURCE = Source(
    "zot",
    title="zot",
    header=_HEADER,
    header_value="Bearer {secret}",
    verify=verify,
    parse=parse,
    settings={"header": f"a header of your choice with the secret, if zot sends no credentials ({_OTHER_HEADER})."},
    chosen_header=lambda settings: settings.get("header", _HEADER),
)
