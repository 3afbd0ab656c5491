"""Amazon ECR, through an EventBridge API destination or an SNS topic.

    EventBridge   {detail-type: ECR Image Action, account, region, detail: {repository-name, …}}, one or several
    InputPath     what stands in `detail` alone: the endpoint's host says the rest
    transformed   a CloudEvent
    SNS           any of them as text, in an envelope that SNS signs; or raw, with the secret as from EventBridge

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
    quoted,
    split_address,
    split_tag,
)
from gateway.sources._json import Part, parse_objects
from gateway.sources._shared_secret import prove_secret
from gateway.sources._source import Handshake, Request, Source, Trust

_HEADER = "x-api-key"
# What examples of CloudEvents by input transformers send instead.
_OTHER_HEADER = "x-webhook-secret"

_ACTION = "ECR Image Action"
_PUSH = (_ACTION, "PUSH")
# Once replicated, an image can be pulled in the region it went to, which is the one the event names. That deploys
# only at an endpoint with `--set replication=true`: elsewhere the push has deployed already.
_REPLICATION = ("ECR Replication Action", "REPLICATE")


def keys(request: Request, trust: Trust) -> Sequence[str]:
    told = _sns.envelope(request)
    return () if told is None else _sns.keys(told, trust)


def verify(request: Request, trust: Trust) -> None:
    """EventBridge connections know three kinds of proof; each carries the secret. SNS signs instead."""
    told = _sns.envelope(request)
    if told is None:
        prove_secret(request, trust, _HEADER, _OTHER_HEADER)
    else:
        _sns.verify(told, request, trust)


def handshake(request: Request, trust: Trust) -> Handshake | None:
    told = _sns.envelope(request)
    return None if told is None else _sns.handshake(told, trust)


def parse(request: Request, trust: Trust) -> Notification:
    told = _sns.envelope(request)
    if told is None:
        events = parse_objects(request.body)
        return notification([_said(event, trust) for event in events], ids=[event.text("id") for event in events])
    return notification(_published(told, trust), ids=[told.text("MessageId")])


def _published(told: Part, trust: Trust) -> list[ParsedEvent]:
    if told.text("Type") != "Notification":
        return [Ignored("", f"not a push: {quoted(told.text('Type'))}")]
    try:
        events = parse_objects(told.text("Message").encode())
        return [_said(event, trust) for event in events]
    except InvalidInput as error:
        # A topic may carry anything; who publishes there learns nothing from a refusal.
        return [Ignored("", f"not understood: {error}")]


def check(settings: Mapping[str, str]) -> None:
    _sns.topics(settings)
    if settings.get("replication", "true") not in {"true", "false"}:
        raise InvalidInput("replication is true or false", field="settings")


def _said(event: Part, trust: Trust) -> ParsedEvent:
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
    if reason := _refusal(kind, detail, trust):
        return ignored_event(reason, trust, host=host, path=path, tag=tag, digest=digest)
    return push_event(trust, host=host, path=path, tag=tag, digest=digest)


def _refusal(kind: str, detail: Part, trust: Trust) -> str:
    # Archiving shares the detail-type of a push; failures of both carry no image.
    action = detail.text("action-type")
    replicas = {_REPLICATION} if trust.settings.get("replication") == "true" else set()
    if (kind, action) not in {_PUSH} | replicas:
        return f"not a push: {quoted(f'{kind} {action}'.strip())}"
    if detail.text("result") != "SUCCESS":
        return f"did not succeed: {quoted(detail.text('result'))}"
    media_type = detail.text("artifact-media-type")
    return "" if is_image(media_type) else f"not an image: {quoted(media_type)}"


def _cloudevent(event: Part, trust: Trust) -> ParsedEvent:
    details = event.part("data")
    subject_path, subject_tag = split_tag(event.text("subject"))
    path = details.text("repositoryName") or details.text("repository") or subject_path
    tag = details.text("imageTag") or details.text("tag") or subject_tag
    digest = details.text("imageDigest") or details.text("digest")
    host = _cloudevent_host(event.text("source"), details)
    if not event.text("type").lower().endswith(("push", "pushed")):
        reason = f"not a push: {quoted(event.text('type'))}"
        return ignored_event(reason, trust, host=host, path=path, tag=tag, digest=digest)
    return push_event(trust, host=host, path=path, tag=tag, digest=digest)


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
    return f"{account}.dkr.ecr.{region}.{suffix}" if account and region else ""


SOURCE = Source(
    "ecr",
    header=_HEADER,
    header_value="{secret}",
    verify=verify,
    parse=parse,
    keys=keys,
    handshake=handshake,
    settings={
        "topic": "the ARN of an SNS topic to believe; several by comma.",
        "replication": "true: deploy when an image has been replicated, from the region it went to.",
    },
    check=check,
    honours_retry_after=True,
    no_retry_header="x-amz-sns-message-type",
)
