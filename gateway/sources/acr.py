"""Azure Container Registry: its webhooks, and its events through Azure Event Grid.

    webhook       {id, action: push, target: {repository, tag, digest}, request: {host}}
    Event Grid    [{id, topic, subject, eventType: …ImagePushed, data: a webhook's body}, …]
    CloudEvents   the same with `source` and `type`, one or an array

https://learn.microsoft.com/azure/container-registry/container-registry-webhook-reference
https://learn.microsoft.com/azure/event-grid/event-schema-container-registry

Neither signs its requests. A webhook sends headers that the operator chooses. Event Grid can do so too, or has
`?secret=` in the address.
"""

import re

from gateway.model.events import Notification
from gateway.sources._events import ParsedEvent, ignored_event, is_image, notification, push_event, quote, split_tag
from gateway.sources._json import Part, parse_objects
from gateway.sources._shared_secret import verify_secret
from gateway.sources._source import Handshake, Request, Source, Trust

_HEADER = "Authorization"
_PUSHED = "imagepushed"
_VALIDATION = "Microsoft.EventGrid.SubscriptionValidationEvent"
_REGISTRY = re.compile(r"/registries/([A-Za-z0-9]{1,50})")
_ORIGIN = re.compile(r"[A-Za-z0-9.-]{1,255}")


def verify(request: Request, trust: Trust) -> None:
    verify_secret(request, trust)


def handshake(request: Request, _trust: Trust) -> Handshake | None:
    """Answer Event Grid, which sends events only to an address that has confirmed the subscription.

    https://github.com/cloudevents/spec/blob/main/cloudevents/http-webhook.md#4-abuse-protection
    """
    if request.method == "OPTIONS":
        origin = request.headers.get("webhook-request-origin", "")
        allowed = {"WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": "*"}
        return Handshake(headers=allowed) if _ORIGIN.fullmatch(origin) else None
    if _VALIDATION.encode() not in request.body:
        return None
    for event in parse_objects(request.body):
        if event.text("eventType") == _VALIDATION:
            return Handshake(body={"validationResponse": event.part("data").text("validationCode")})
    return None


def parse(request: Request, trust: Trust) -> Notification:
    events = parse_objects(request.body)
    return notification([_parse_event(event, trust) for event in events], ids=[event.text("id") for event in events])


def _parse_event(event: Part, trust: Trust) -> ParsedEvent:
    data = event.part("data") if "data" in event else event
    target = data.part("target")
    subject_path, subject_tag = split_tag(event.text("subject"))
    path, tag = target.text("repository") or subject_path, target.text("tag") or subject_tag
    host, digest = _host(event, data, trust), target.text("digest")
    if reason := _ignore_reason(event, data):
        return ignored_event(reason, trust, host=host, path=path, tag=tag, digest=digest)
    return push_event(trust, host=host, path=path, tag=tag, digest=digest)


def _ignore_reason(event: Part, data: Part) -> str:
    # With quarantine on, ACR sends "quarantine" at the push, and "push" once the scan has passed.
    kind = event.text("eventType") or event.text("type") or data.text("action")
    if kind.rpartition(".")[2].lower() not in {"push", _PUSHED}:
        return f"not a push: {quote(kind)}"
    media_type = data.part("target").text("mediaType")
    return "" if is_image(media_type) else f"not an image: {quote(media_type)}"


def _host(event: Part, data: Part, trust: Trust) -> str:
    """Return the registry's host: the event's own, else by the registry's name unless the endpoint has a host."""
    host = data.part("request").text("host")
    if host or trust.host or data is event:
        return host
    registry = _REGISTRY.search(event.text("topic") or event.text("source"))
    return f"{registry[1]}.azurecr.io" if registry else ""


SOURCE = Source(
    "acr",
    title="Azure Container Registry",
    header=_HEADER,
    header_value="Bearer {secret}",
    verify=verify,
    parse=parse,
    handshake=handshake,
)
