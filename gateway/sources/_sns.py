"""Amazon SNS: the envelope around a message that is published on a topic.

https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html

SNS signs messages for every AWS account. So a valid signature proves only the topic, and the endpoint's setting `topic`
lists the topics to accept.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from gateway.model.errors import InvalidInput, Unauthenticated
from gateway.sources._json import Part, parse_object
from gateway.sources._rsa import CertificateHash, verify_certificate_signature
from gateway.sources._source import Handshake, Request, Trust

_TOPIC = "TopicArn"
_KINDS = frozenset({"Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation"})
_NOTIFICATION = ("Message", "MessageId", "Subject", "Timestamp", _TOPIC, "Type")
_CONFIRMATION = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", _TOPIC, "Type")
_HASHES: Mapping[str, CertificateHash] = {"1": "SHA1", "2": "SHA256"}

# A region's name ends in its only digit. Without this rule sns.s3.amazonaws.com would match, anybody's bucket.
_ARN = re.compile(
    r"arn:(aws[a-z-]{0,16}):sns:([a-z]{2,8}(?:-[a-z]{1,16}){1,3}-[0-9]{1,2}):[0-9]{12}:[A-Za-z0-9_.-]{1,256}"
)
_CERTIFYING = re.compile(r"/SimpleNotificationService-[A-Za-z0-9]{1,64}\.pem")
_CONFIRMING = re.compile(r"/\?Action=ConfirmSubscription&[!-~]{1,1024}")
# SNS repeats a message for an hour at most.
_REPLAY_WINDOW = timedelta(minutes=75)


def parse_envelope(request: Request) -> Part | None:
    """Return the envelope, None for a body without one, as with raw message delivery."""
    if f'"{_TOPIC}"'.encode() not in request.body:
        return None
    try:
        body = parse_object(request.body)
        return body if body.text("Type") in _KINDS else None
    except InvalidInput:
        return None


def topics(settings: Mapping[str, str]) -> list[str]:
    """Return the ARNs of the topics that the endpoint accepts; raises InvalidInput for what is not an ARN."""
    named = [arn.strip() for arn in settings.get("topic", "").split(",") if arn.strip()]
    for arn in named:
        if not _ARN.fullmatch(arn):
            raise InvalidInput(
                f"{arn!r} is not a topic, as in arn:aws:sns:eu-central-1:111122223333:pushes", field="settings"
            )
    return named


def keys(message: Part, trust: Trust) -> Sequence[str]:
    """Return the address of the signing certificate; raises Unauthenticated unless SNS hosts it."""
    return [_address(message, "SigningCertURL", _CERTIFYING, trust)]


def verify(message: Part, request: Request, trust: Trust) -> None:
    """Raise Unauthenticated unless SNS signed the message for an accepted topic, and not long ago."""
    (address,) = keys(message, trust)
    algorithm = _HASHES.get(_text(message, "SignatureVersion"))
    if algorithm is None:
        raise Unauthenticated("the signature has an unknown version")
    verify_certificate_signature(
        _text(message, "Signature"), _signed(message), request.keys.get(address, b""), algorithm
    )
    if abs(_timestamp(message) - request.at) > _REPLAY_WINDOW:
        raise Unauthenticated("the message was signed too long ago, or in the future: compare the clocks")


def handshake(message: Part, trust: Trust) -> Handshake | None:
    """Confirm a subscription. A message that one has ended is not answered with a new subscription."""
    if message.text("Type") != "SubscriptionConfirmation":
        return None
    return Handshake(visit=_address(message, "SubscribeURL", _CONFIRMING, trust))


def _address(message: Part, name: str, path: re.Pattern[str], trust: Trust) -> str:
    """Return an address in the message; raises Unauthenticated unless it is SNS's in an accepted topic's region."""
    topic, address = _text(message, _TOPIC), _text(message, name)
    arn = _ARN.fullmatch(topic)
    if arn is None or topic not in topics(trust.settings):
        raise Unauthenticated("the endpoint does not accept this topic: set topic to its ARN")
    suffix = "amazonaws.com.cn" if arn[1] == "aws-cn" else "amazonaws.com"
    host = f"https://sns.{arn[2]}.{suffix}"
    if not address.startswith(host) or not path.fullmatch(address.removeprefix(host)):
        raise Unauthenticated(f"{name} is not an address of SNS in {arn[2]}")
    return address


def _signed(message: Part) -> bytes:
    names = _NOTIFICATION if message.text("Type") == "Notification" else _CONFIRMATION
    # The subject is optional, and signed where there is one.
    present = [name for name in names if message.members.get(name) is not None]
    return "".join(f"{name}\n{_text(message, name)}\n" for name in present).encode()


def _timestamp(message: Part) -> datetime:
    try:
        at = datetime.fromisoformat(_text(message, "Timestamp"))
    except ValueError as error:
        raise Unauthenticated("Timestamp is not a time") from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _text(message: Part, name: str) -> str:
    try:
        return message.text(name)
    except InvalidInput as error:
        raise Unauthenticated(str(error)) from error
