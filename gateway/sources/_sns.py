"""Amazon SNS, as an envelope around what somebody publishes on a topic.

https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html

Every AWS account can have a message signed, so a right signature proves nothing but the topic it names: which topics
are ours is what the endpoint's setting `topic` says.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm

from gateway.model.errors import InvalidInput, Unauthenticated
from gateway.sources._json import Part, parse_object
from gateway.sources._rsa import prove_certified
from gateway.sources._source import Handshake, Request, Trust

_TOPIC = "TopicArn"
_KINDS = frozenset({"Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation"})
_NOTIFICATION = ("Message", "MessageId", "Subject", "Timestamp", _TOPIC, "Type")
_CONFIRMATION = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", _TOPIC, "Type")
_HASHES: Mapping[str, HashAlgorithm] = {"1": SHA1(), "2": SHA256()}  # noqa: S303 - version 1 is

# No region's name has a digit but at its end: sns.s3.amazonaws.com would be a bucket of anybody's.
_ARN = re.compile(
    r"arn:(aws[a-z-]{0,16}):sns:([a-z]{2,8}(?:-[a-z]{1,16}){1,3}-[0-9]{1,2}):[0-9]{12}:[A-Za-z0-9_.-]{1,256}"
)
_CERTIFYING = re.compile(r"/SimpleNotificationService-[A-Za-z0-9]{1,64}\.pem")
_CONFIRMING = re.compile(r"/\?Action=ConfirmSubscription&[!-~]{1,1024}")
# A message is repeated for an hour at most.
_REPLAY_WINDOW = timedelta(minutes=75)


def envelope(request: Request) -> Part | None:
    """Return the envelope; None where this is none, as with raw delivery."""
    if f'"{_TOPIC}"'.encode() not in request.body:
        return None
    try:
        body = parse_object(request.body)
        return body if body.text("Type") in _KINDS else None
    except InvalidInput:
        return None


def topics(settings: Mapping[str, str]) -> list[str]:
    """Return the ARNs of the topics that are believed; raises InvalidInput for what is none."""
    named = [arn.strip() for arn in settings.get("topic", "").split(",") if arn.strip()]
    for arn in named:
        if not _ARN.fullmatch(arn):
            raise InvalidInput(
                f"{arn!r} is no topic, as in arn:aws:sns:eu-central-1:111122223333:pushes", field="settings"
            )
    return named


def keys(told: Part, trust: Trust) -> Sequence[str]:
    """Return the address of the certificate, on the host of a topic that is ours; raises Unauthenticated."""
    return [_address(told, "SigningCertURL", _CERTIFYING, trust)]


def verify(told: Part, request: Request, trust: Trust) -> None:
    """Raise Unauthenticated unless a topic of ours signed it, not too long ago."""
    (address,) = keys(told, trust)
    algorithm = _HASHES.get(_text(told, "SignatureVersion"))
    if algorithm is None:
        raise Unauthenticated("the signature is of a version that is not known")
    prove_certified(_text(told, "Signature"), _signed(told), request.keys.get(address, b""), algorithm)
    if abs(_timestamp(told) - request.at) > _REPLAY_WINDOW:
        raise Unauthenticated("this was signed too long ago, or ahead: compare the clocks")


def handshake(told: Part, trust: Trust) -> Handshake | None:
    """Confirm a subscription. That one has ended is no reason to subscribe again."""
    if told.text("Type") != "SubscriptionConfirmation":
        return None
    return Handshake(visit=_address(told, "SubscribeURL", _CONFIRMING, trust))


def _address(told: Part, name: str, path: re.Pattern[str], trust: Trust) -> str:
    """Return an address that it names, where that is SNS's own in the region of a topic that is ours."""
    topic, address = _text(told, _TOPIC), _text(told, name)
    arn = _ARN.fullmatch(topic)
    if arn is None or topic not in topics(trust.settings):
        raise Unauthenticated("this is of a topic that the endpoint does not name: set topic to its ARN")
    suffix = "amazonaws.com.cn" if arn[1] == "aws-cn" else "amazonaws.com"
    host = f"https://sns.{arn[2]}.{suffix}"
    if not address.startswith(host) or not path.fullmatch(address.removeprefix(host)):
        raise Unauthenticated(f"{name} is no address of SNS in {arn[2]}")
    return address


def _signed(told: Part) -> bytes:
    names = _NOTIFICATION if told.text("Type") == "Notification" else _CONFIRMATION
    # A subject is signed where there is one.
    present = [name for name in names if told.members.get(name) is not None]
    return "".join(f"{name}\n{_text(told, name)}\n" for name in present).encode()


def _timestamp(told: Part) -> datetime:
    try:
        at = datetime.fromisoformat(_text(told, "Timestamp"))
    except ValueError as error:
        raise Unauthenticated("Timestamp is not a time") from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _text(told: Part, name: str) -> str:
    try:
        return told.text(name)
    except InvalidInput as error:
        raise Unauthenticated(str(error)) from error
