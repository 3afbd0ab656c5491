"""Harbor, in each of the shapes its versions send.

    Default       {type: PUSH_ARTIFACT, event_data: {resources, repository}}; before 2.0 its type is pushImage
    CloudEvents   {specversion, type: harbor.artifact.pushed, data: {resources, repository}}
    1.8           {event_type: pushImage, events: [{full_name, tag}]}, which names no host

https://goharbor.io/docs/main/working-with-projects/project-configuration/configure-webhooks/

What arrives by replication or through a proxy cache is told as a push too. Adding a tag to an image is not told.
"""

from gateway.model.errors import InvalidInput
from gateway.model.events import Notification
from gateway.model.reference import split_domain
from gateway.model.signatures import verify_credentials
from gateway.sources._events import ParsedEvent, ignored_event, notification, push_event, quoted, split_tag
from gateway.sources._json import Part, parse_object
from gateway.sources._source import Request, Source, Trust

_HEADER = "Authorization"
_PUSHES = frozenset({"push_artifact", "pushimage", "harbor.artifact.pushed"})


def verify(request: Request, trust: Trust) -> None:
    """Harbor sends what stands in its field "Auth Header", as it stands there."""
    verify_credentials(request.headers, trust.secret)


def parse(request: Request, trust: Trust) -> Notification:
    body = parse_object(request.body)
    if "event_type" in body:
        return notification([_oldest(body.text("event_type"), event, trust) for event in body.parts("events")])
    kind, told = body.text("type"), body.part("event_data") or body.part("data")
    if not kind:
        raise InvalidInput('neither of Harbor\'s formats "Default" and "CloudEvents": choose one in the webhook policy')
    repository = told.part("repository").text("repo_full_name")
    said = [_said(kind, resource, repository, trust) for resource in told.parts("resources")]
    return notification(
        said or [ignored_event(_refusal(kind) or "no resources", trust, host="", path=repository)],
        ids=[body.text("id")],
    )


def _said(kind: str, resource: Part, repository: str, trust: Trust) -> ParsedEvent:
    name, tag = split_tag(resource.text("resource_url").rpartition("://")[2])
    host, path = split_domain(name)
    return _told(
        kind, trust, host=host, path=path or repository, tag=tag or resource.text("tag"), digest=resource.text("digest")
    )


def _oldest(kind: str, event: Part, trust: Trust) -> ParsedEvent:
    path = event.text("full_name") or f"{event.text('project')}/{event.text('repo_name')}"
    return _told(kind, trust, host="", path=path, tag=event.text("tag"))


def _told(kind: str, trust: Trust, *, host: str, path: str, tag: str, digest: str = "") -> ParsedEvent:
    if reason := _refusal(kind):
        return ignored_event(reason, trust, host=host, path=path, tag=tag, digest=digest)
    return push_event(trust, host=host, path=path, tag=tag, digest=digest)


def _refusal(kind: str) -> str:
    return "" if kind.lower() in _PUSHES else f"not a push: {quoted(kind)}"


SOURCE = Source("harbor", header=_HEADER, header_value="{secret}", verify=verify, parse=parse, response_deadline=2.5)
