"""Google Artifact Registry and Container Registry, through a push subscription of Pub/Sub.

    wrapped      {message: {data: base64 of an unwrapped body, messageId}, subscription}
    unwrapped    {action: INSERT, digest: us-docker.pkg.dev/…@sha256:…, tag: us-docker.pkg.dev/…:1.2}

https://cloud.google.com/artifact-registry/docs/configure-notifications
https://cloud.google.com/pubsub/docs/authenticate-push-subscriptions

Google signs a token for any audience that a caller asks for. So the proof is either an audience that is the secret, or
the e-mail address of the service account.
"""

import base64
import binascii
from collections.abc import Mapping

from gateway.model.errors import InvalidInput, Unauthenticated
from gateway.model.events import Notification
from gateway.model.signatures import verify_token
from gateway.sources._events import (
    ParsedEvent,
    ignored_event,
    notification,
    push_event,
    quote,
    split_address,
    split_tag,
)
from gateway.sources._json import Part, parse_object
from gateway.sources._rsa import verify_id_token
from gateway.sources._source import Request, Source, Trust

_HEADER = "Authorization"
_KEYS = "https://www.googleapis.com/oauth2/v3/certs"
_ISSUERS = ("https://accounts.google.com", "accounts.google.com")
# An unwrapped message has its id only in this header. The token signs neither headers nor body, so a header is as
# trustworthy as the body.
_ID_HEADER = "x-goog-pubsub-message-id"


def keys(request: Request, _trust: Trust) -> list[str]:
    _token(request)
    return [_KEYS]


def verify(request: Request, trust: Trust) -> None:
    claims = verify_id_token(_token(request), request.keys.get(_KEYS, b""), issuers=_ISSUERS, at=request.at)
    settings = trust.settings
    verify_token(str(claims.get("aud")), settings.get("audience") or trust.secret)
    if settings.keys().isdisjoint({"audience", "email"}):
        return
    allowed, email = _emails(settings), claims.get("email")
    if not email or email not in allowed or claims.get("email_verified") is not True:
        raise Unauthenticated("this endpoint does not accept tokens of that service account")


def _token(request: Request) -> str:
    scheme, _, token = request.headers.get(_HEADER.lower(), "").partition(" ")
    if scheme.lower() != "bearer" or not token.isascii():
        raise Unauthenticated("the request has no token of Google: enable authentication on the push subscription")
    return token


def parse(request: Request, trust: Trust) -> Notification:
    body = parse_object(request.body)
    if "message" not in body:
        return notification([_parse_event(body, trust)], ids=[request.headers.get(_ID_HEADER, "")])
    message = body.part("message")
    try:
        data = base64.b64decode(message.text("data"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("message.data is not base64", field="message.data") from error
    return notification(
        [_parse_event(parse_object(data), trust)], ids=[message.text("messageId") or message.text("message_id")]
    )


def _parse_event(data: Part, trust: Trust) -> ParsedEvent:
    # Both are full image names. Artifact Registry sends a push of a tag twice, once without the tag.
    tagged, _, _ = data.text("tag").partition("@")
    _, _, digest = data.text("digest").partition("@")
    host, name = split_address(tagged or data.text("digest"))
    path, tag = split_tag(name)
    # Older names have domain-scoped projects as example.com:project.
    path = path.replace(":", "/")
    action = data.text("action")
    if action != "INSERT":
        return ignored_event(f"not a push: {quote(action)}", trust, host=host, path=path, tag=tag, digest=digest)
    return push_event(trust, host=host, path=path, tag=tag, digest=digest)


def _emails(settings: Mapping[str, str]) -> list[str]:
    return [email.strip() for email in settings.get("email", "").split(",")]


def check(settings: Mapping[str, str]) -> None:
    if "audience" in settings and "email" not in settings:
        raise InvalidInput("audience needs email: the service accounts whose tokens are accepted", field="settings")
    for email in _emails(settings) if "email" in settings else []:
        if "@" not in email:
            raise InvalidInput(f"{email!r} is not an e-mail address of a service account", field="settings")


SOURCE = Source(
    "artifactregistry",
    title="Google Artifact Registry",
    header=_HEADER,
    header_value=None,
    verify=verify,
    parse=parse,
    keys=keys,
    settings={
        "email": "the e-mail addresses of the service accounts whose tokens Pub/Sub sends, comma-separated.",
        "audience": "the audience of that token, if it is not the secret; needs email.",
    },
    check=check,
    always_accept=True,
)
