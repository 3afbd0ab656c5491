"""Azure Container Registry: its own webhooks, and its events through Event Grid.

    webhook       {id, action: push, target: {repository, tag, digest}, request: {host}}
    Event Grid    [{id, topic, subject, eventType: …ImagePushed, data: what the webhook says}, …]
    CloudEvents   the same with `source` and `type`, one or several

https://learn.microsoft.com/azure/container-registry/container-registry-webhook-reference
https://learn.microsoft.com/azure/event-grid/event-schema-container-registry

Neither signs. A webhook carries headers of the operator's choice; Event Grid can, or carries `?secret=` in its address.
"""

import re

from gateway.model.events import Notification
from gateway.sources._events import ParsedEvent, ignored_event, is_image, notification, push_event, quoted, split_tag
from gateway.sources._json import Part, parse_objects
from gateway.sources._shared_secret import prove_secret
from gateway.sources._source import Handshake, Request, Source, Trust

_HEADER = "Authorization"
_PUSHED = "imagepushed"
_VALIDATION = "Microsoft.EventGrid.SubscriptionValidationEvent"
_REGISTRY = re.compile(r"/registries/([A-Za-z0-9]{1,50})")
_ORIGIN = re.compile(r"[A-Za-z0-9.-]{1,255}")


def verify(request: Request, trust: Trust) -> None:
    prove_secret(request, trust)


def handshake(request: Request, _trust: Trust) -> Handshake | None:
    """Answer Event Grid, which sends nothing to an address that has not agreed to it."""
    if request.method == "OPTIONS":
        # https://github.com/cloudevents/spec/blob/main/cloudevents/http-webhook.md#4-abuse-protection
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
    return notification([_said(event, trust) for event in events], ids=[event.text("id") for event in events])


def _said(event: Part, trust: Trust) -> ParsedEvent:
    told = event.part("data") if "data" in event else event
    target = told.part("target")
    subject_path, subject_tag = split_tag(event.text("subject"))
    path, tag = target.text("repository") or subject_path, target.text("tag") or subject_tag
    host, digest = _host(event, told, trust), target.text("digest")
    if reason := _refusal(event, told):
        return ignored_event(reason, trust, host=host, path=path, tag=tag, digest=digest)
    return push_event(trust, host=host, path=path, tag=tag, digest=digest)


def _refusal(event: Part, told: Part) -> str:
    # With quarantine on, "push" is told once the scan has passed, and "quarantine" before.
    kind = event.text("eventType") or event.text("type") or told.text("action")
    if kind.rpartition(".")[2].lower() not in {"push", _PUSHED}:
        return f"not a push: {quoted(kind)}"
    media_type = told.part("target").text("mediaType")
    return "" if is_image(media_type) else f"not an image: {quoted(media_type)}"


def _host(event: Part, told: Part, trust: Trust) -> str:
    """Return the registry's host: told, or by its name in the topic unless the endpoint knows better."""
    host = told.part("request").text("host")
    if host or trust.host or told is event:
        return host
    registry = _REGISTRY.search(event.text("topic") or event.text("source"))
    return f"{registry[1]}.azurecr.io" if registry else ""


SOURCE = Source("acr", header=_HEADER, header_value="Bearer {secret}", verify=verify, parse=parse, handshake=handshake)
