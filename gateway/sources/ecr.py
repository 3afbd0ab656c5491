"""Amazon ECR: its events through an EventBridge API destination or an SNS topic.

    EventBridge   {detail-type: ECR Image Action, account, region, detail: {repository-name, …}}, one or an array
    InputPath     `detail` alone; the endpoint's host names the registry
    transformed   a CloudEvent
    SNS           any of these as text in an envelope that SNS signs; or raw, with the secret as from EventBridge

https://docs.aws.amazon.com/AmazonECR/latest/userguide/ecr-eventbridge.html
"""

from collections.abc import Mapping, Sequence

from gateway.model.errors import InvalidInput
from gateway.model.events import Ignored, Notification
from gateway.sources import _sns
from gateway.sources._events import (
    ParsedEvent,
    ignored_event,
    is_image,
    notification,
    push_event,
    quote,
    split_address,
    split_tag,
)
from gateway.sources._json import Part, parse_objects
from gateway.sources._shared_secret import verify_secret
from gateway.sources._source import Handshake, Request, Source, Trust

_HEADER = "x-api-key"
# The header in published examples of input transformers that make CloudEvents.
_OTHER_HEADER = "x-webhook-secret"

_ACTION = "ECR Image Action"
_PUSH = (_ACTION, "PUSH")
# The event of a replication names the region to which the image was copied. It deploys only at an endpoint with
# `--set replication=true`: at others the push has deployed already.
_REPLICATION = ("ECR Replication Action", "REPLICATE")


def keys(request: Request, trust: Trust) -> Sequence[str]:
    sns_message = _sns.parse_envelope(request)
    return () if sns_message is None else _sns.keys(sns_message, trust)


def verify(request: Request, trust: Trust) -> None:
    """Check the secret of an EventBridge connection, or the signature of SNS.

    Each of the three authorization types of a connection sends the secret.
    """
    sns_message = _sns.parse_envelope(request)
    if sns_message is None:
        verify_secret(request, trust, _HEADER, _OTHER_HEADER)
    else:
        _sns.verify(sns_message, request, trust)


def handshake(request: Request, trust: Trust) -> Handshake | None:
    sns_message = _sns.parse_envelope(request)
    return None if sns_message is None else _sns.handshake(sns_message, trust)


def parse(request: Request, trust: Trust) -> Notification:
    sns_message = _sns.parse_envelope(request)
    if sns_message is None:
        events = parse_objects(request.body)
        return notification(
            [_parse_event(event, trust) for event in events], ids=[event.text("id") for event in events]
        )
    return notification(_parse_sns_message(sns_message, trust), ids=[sns_message.text("MessageId")])


def _parse_sns_message(sns_message: Part, trust: Trust) -> list[ParsedEvent]:
    if sns_message.text("Type") != "Notification":
        return [Ignored("", f"not a push: {quote(sns_message.text('Type'))}")]
    try:
        events = parse_objects(sns_message.text("Message").encode())
        return [_parse_event(event, trust) for event in events]
    except InvalidInput as error:
        # A topic may carry other messages, and their publisher would not see an error.
        return [Ignored("", f"not understood: {error}")]


def check(settings: Mapping[str, str]) -> None:
    _sns.topics(settings)
    if settings.get("replication", "true") not in {"true", "false"}:
        raise InvalidInput("replication is true or false", field="settings")


def _parse_event(event: Part, trust: Trust) -> ParsedEvent:
    if "detail-type" in event:
        return _eventbridge(event, trust)
    if "specversion" in event:
        return _cloudevent(event, trust)
    if "repository-name" in event and "action-type" in event:
        return _detail(_ACTION, event, trust, host="")
    raise InvalidInput("neither an event of EventBridge (detail-type), nor its detail, nor a CloudEvent (specversion)")


def _eventbridge(event: Part, trust: Trust) -> ParsedEvent:
    host = _host(event.text("account"), event.text("region"))
    return _detail(event.text("detail-type"), event.part("detail"), trust, host=host)


def _detail(kind: str, detail: Part, trust: Trust, *, host: str) -> ParsedEvent:
    path, tag = detail.text("repository-name"), detail.text("image-tag")
    digest = detail.text("image-digest")
    if reason := _ignore_reason(kind, detail, trust):
        return ignored_event(reason, trust, host=host, path=path, tag=tag, digest=digest)
    return push_event(trust, host=host, path=path, tag=tag, digest=digest)


def _ignore_reason(kind: str, detail: Part, trust: Trust) -> str:
    # An archival has the same detail-type as a push. Failures of either name no image.
    action = detail.text("action-type")
    replicas = {_REPLICATION} if trust.settings.get("replication") == "true" else set()
    if (kind, action) not in {_PUSH} | replicas:
        return f"not a push: {quote(f'{kind} {action}'.strip())}"
    if detail.text("result") != "SUCCESS":
        return f"did not succeed: {quote(detail.text('result'))}"
    media_type = detail.text("artifact-media-type")
    return "" if is_image(media_type) else f"not an image: {quote(media_type)}"


def _cloudevent(event: Part, trust: Trust) -> ParsedEvent:
    details = event.part("data")
    subject_path, subject_tag = split_tag(event.text("subject"))
    path = details.text("repositoryName") or details.text("repository") or subject_path
    tag = details.text("imageTag") or details.text("tag") or subject_tag
    digest = details.text("imageDigest") or details.text("digest")
    host = _cloudevent_host(event.text("source"), details)
    if not event.text("type").lower().endswith(("push", "pushed")):
        reason = f"not a push: {quote(event.text('type'))}"
        return ignored_event(reason, trust, host=host, path=path, tag=tag, digest=digest)
    return push_event(trust, host=host, path=path, tag=tag, digest=digest)


def _cloudevent_host(source: str, details: Part) -> str:
    """Return the registry's host from `registryUrl`, else from the source, `urn:aws:ecr:REGION:ACCOUNT:…` or a URL."""
    words = source.split(":")
    if details.text("registryUrl"):
        return split_address(details.text("registryUrl"))[0]
    if words[0] in {"urn", "arn"} and words[2:3] == ["ecr"]:
        region, account = (*words[3:5], "", "")[:2]
        return _host(account or details.text("registryId"), region)
    return split_address(source)[0]


def _host(account: str, region: str) -> str:
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"{account}.dkr.ecr.{region}.{suffix}" if account and region else ""


SOURCE = Source(
    "ecr",
    title="Amazon ECR",
    header=_HEADER,
    header_value="{secret}",
    verify=verify,
    parse=parse,
    keys=keys,
    handshake=handshake,
    settings={
        "topic": "the ARNs of the SNS topics to accept, comma-separated.",
        "replication": "true: deploy when an image was replicated, from the region to which it was copied.",
    },
    check=check,
    honours_retry_after=True,
    no_retry_header="x-amz-sns-message-type",
)
