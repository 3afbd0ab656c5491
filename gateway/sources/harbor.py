"""Harbor, in the formats of all its versions.

    Default       {type: PUSH_ARTIFACT, event_data: {resources, repository}}; pushImage before Harbor 2.0
    CloudEvents   {specversion, type: harbor.artifact.pushed, data: {resources, repository}}
    1.8           {event_type: pushImage, events: [{full_name, tag}]}, without a host

https://goharbor.io/docs/main/working-with-projects/project-configuration/configure-webhooks/

Harbor also reports images that arrive by replication or through a proxy cache as pushes. It does not report a tag that
is added to an image.
"""

from gateway.model.errors import InvalidInput
from gateway.model.events import Notification
from gateway.model.reference import split_domain
from gateway.model.signatures import verify_credentials
from gateway.sources._events import ParsedEvent, ignored_event, notification, push_event, quote, split_tag
from gateway.sources._json import Part, parse_object
from gateway.sources._source import Request, Source, Trust

_HEADER = "Authorization"
_PUSHES = frozenset({"push_artifact", "pushimage", "harbor.artifact.pushed"})


def verify(request: Request, trust: Trust) -> None:
    """Check the secret. Harbor sends the value of the policy's field "Auth Header" unchanged in Authorization."""
    verify_credentials(request.headers, trust.secret)


def parse(request: Request, trust: Trust) -> Notification:
    body = parse_object(request.body)
    if "event_type" in body:
        return notification(
            [_parse_event_of_1_8(body.text("event_type"), event, trust) for event in body.parts("events")]
        )
    kind, data = body.text("type"), body.part("event_data") or body.part("data")
    if not kind:
        raise InvalidInput('not in Harbor\'s format "Default" or "CloudEvents": choose one in the webhook policy')
    repository = data.part("repository").text("repo_full_name")
    events = [_parse_resource(kind, resource, repository, trust) for resource in data.parts("resources")]
    return notification(
        events or [ignored_event(_ignore_reason(kind) or "no resources", trust, host="", path=repository)],
        ids=[body.text("id")],
    )


def _parse_resource(kind: str, resource: Part, repository: str, trust: Trust) -> ParsedEvent:
    name, tag = split_tag(resource.text("resource_url").rpartition("://")[2])
    host, path = split_domain(name)
    return _event(
        kind, trust, host=host, path=path or repository, tag=tag or resource.text("tag"), digest=resource.text("digest")
    )


def _parse_event_of_1_8(kind: str, event: Part, trust: Trust) -> ParsedEvent:
    path = event.text("full_name") or f"{event.text('project')}/{event.text('repo_name')}"
    return _event(kind, trust, host="", path=path, tag=event.text("tag"))


def _event(kind: str, trust: Trust, *, host: str, path: str, tag: str, digest: str = "") -> ParsedEvent:
    if reason := _ignore_reason(kind):
        return ignored_event(reason, trust, host=host, path=path, tag=tag, digest=digest)
    return push_event(trust, host=host, path=path, tag=tag, digest=digest)


def _ignore_reason(kind: str) -> str:
    return "" if kind.lower() in _PUSHES else f"not a push: {quote(kind)}"


SOURCE = Source(
    "harbor", title="Harbor", header=_HEADER, header_value="{secret}", verify=verify, parse=parse, response_deadline=2.5
)
