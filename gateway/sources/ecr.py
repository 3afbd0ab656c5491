"""Amazon ECR through an EventBridge API destination: its events as they are, or transformed into CloudEvents.

https://docs.aws.amazon.com/AmazonECR/latest/userguide/ecr-eventbridge.html
"""

from gateway.errors import InvalidInput
from gateway.events import Notification
from gateway.signatures import prove_credentials
from gateway.sources._json import Part, parse_objects
from gateway.sources._pushes import (
    Said,
    is_image,
    not_a_push,
    notification,
    pushed,
    quoted,
    split_address,
    split_tag,
)
from gateway.sources._source import Request, Source, Trust

_HEADER = "x-api-key"
# What examples of CloudEvents by input transformers send instead.
_OTHER_HEADER = "x-webhook-secret"

_PUSH = ("ECR Image Action", "PUSH")
# Once replicated, an image can be pulled in the region it went to, which is the one the event names. That deploys
# only at an endpoint with `--set replication=true`: elsewhere the push has deployed already.
_REPLICATION = ("ECR Replication Action", "REPLICATE")


def verify(request: Request, trust: Trust) -> None:
    """EventBridge connections know three kinds of proof; each carries the secret."""
    prove_credentials(request.headers, trust.secret, _HEADER, _OTHER_HEADER)


def parse(request: Request, trust: Trust) -> Notification:
    events = parse_objects(request.body)
    return notification([_said(event, trust) for event in events], ids=[event.text("id") for event in events])


def _said(event: Part, trust: Trust) -> Said:
    if "detail-type" in event:
        return _eventbridge(event, trust)
    if "specversion" in event:
        return _cloudevent(event, trust)
    raise InvalidInput("neither an EventBridge event (detail-type) nor a CloudEvent (specversion)")


def _eventbridge(event: Part, trust: Trust) -> Said:
    detail = event.part("detail")
    host = _host(event.text("account"), event.text("region"))
    path, tag = detail.text("repository-name"), detail.text("image-tag")
    digest = detail.text("image-digest")
    reason = _refusal(event, detail, trust)
    if reason:
        return not_a_push(reason, trust, host=host, path=path, tag=tag, digest=digest)
    return pushed(trust, host=host, path=path, tag=tag, digest=digest)


def _refusal(event: Part, detail: Part, trust: Trust) -> str:
    # Archiving shares the detail-type of a push; failures of both carry no image.
    kind, action = event.text("detail-type"), detail.text("action-type")
    replicas = {_REPLICATION} if trust.settings.get("replication") == "true" else set()
    if (kind, action) not in {_PUSH} | replicas:
        return f"not a push: {quoted(f'{kind} {action}'.strip())}"
    if detail.text("result") != "SUCCESS":
        return f"did not succeed: {quoted(detail.text('result'))}"
    media_type = detail.text("artifact-media-type")
    return "" if is_image(media_type) else f"not an image: {quoted(media_type)}"


def _cloudevent(event: Part, trust: Trust) -> Said:
    details = event.part("data")
    subject_path, subject_tag = split_tag(event.text("subject"))
    path = details.text("repositoryName") or details.text("repository") or subject_path
    tag = details.text("imageTag") or details.text("tag") or subject_tag
    digest = details.text("imageDigest") or details.text("digest")
    host = _cloudevent_host(event.text("source"), details)
    if not event.text("type").lower().endswith(("push", "pushed")):
        reason = f"not a push: {quoted(event.text('type'))}"
        return not_a_push(reason, trust, host=host, path=path, tag=tag, digest=digest)
    return pushed(trust, host=host, path=path, tag=tag, digest=digest)


def _cloudevent_host(source: str, details: Part) -> str:
    """Return the host: told outright, or by `urn:aws:ecr:REGION:ACCOUNT:…`, or by the source's address."""
    words = source.split(":")
    if details.text("registryUrl"):
        return split_address(details.text("registryUrl"))[0]
    if words[0] in {"urn", "arn"} and words[2:3] == ["ecr"]:
        region, account = (*words[3:5], "", "")[:2]
        return _host(account or details.text("registryId"), region)
    return split_address(source)[0]


def _host(account: str, region: str) -> str:
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"{account}.dkr.ecr.{region}.{suffix}"


SOURCE = Source(
    "ecr",
    header=_HEADER,
    header_value="{secret}",
    verify=verify,
    parse=parse,
    settings={"replication": "true: deploy when an image has been replicated, from the region it went to."},
    honours_retry_after=True,
)
