"""Sonatype Nexus Repository 3: the component events of its docker repositories.

https://help.sonatype.com/en/webhooks.html

Nexus sends neither the host nor the digest: set the endpoint's host to the one from which clients pull.
"""

from collections.abc import Mapping

from gateway.model.events import Ignored, Notification
from gateway.model.signatures import verify_hmac
from gateway.sources._events import ParsedEvent, ignored_event, notification, push_event, quote
from gateway.sources._json import Part, parse_object
from gateway.sources._source import Request, Source, Trust, always_signed
from gateway.sources._template import check_template, render

_HEADER = "X-Nexus-Webhook-Signature"
_PATH = "{image}"
_WORDS = frozenset({"repository", "image"})
_PUSHES = frozenset({"CREATED", "UPDATED"})


def verify(request: Request, trust: Trust) -> None:
    verify_hmac(request.headers.get(_HEADER.lower()), trust.secret, request.body, algorithm="sha1")


def parse(request: Request, trust: Trust) -> Notification:
    body = parse_object(request.body)
    components = [body.part("component")] if "component" in body else body.parts("components")
    if not components:
        return notification([Ignored("", "not a component event")])
    return notification([_parse_event(body, component, trust) for component in components])


def _parse_event(body: Part, component: Part, trust: Trust) -> ParsedEvent:
    if component.text("format") != "docker":
        return Ignored("", f"not an image: {quote(component.text('format'))}")
    words = {"repository": body.text("repositoryName"), "image": component.text("name")}
    path, tag = render(trust.settings.get("path", _PATH), words), component.text("version")
    action = body.text("action")
    if action not in _PUSHES:
        return ignored_event(f"not a push: {quote(action)}", trust, host="", path=path, tag=tag)
    return push_event(trust, host="", path=path, tag=tag)


def check(settings: Mapping[str, str]) -> None:
    check_template(settings.get("path", _PATH), _WORDS)


SOURCE = Source(
    "nexus",
    title="Nexus",
    header=_HEADER,
    header_value=None,
    verify=verify,
    signed=always_signed,
    parse=parse,
    settings={
        "path": f"an image's path as clients write it after the host ({_PATH}); {{repository}}/{{image}} with "
        "path-based routing."
    },
    check=check,
)
