"""Google Artifact Registry and Container Registry, through a push subscription of Pub/Sub.

    wrapped      {message: {data: base64 of what follows, messageId}, subscription}
    unwrapped    {action: INSERT, digest: us-docker.pkg.dev/…@sha256:…, tag: us-docker.pkg.dev/…:1.2}

https://cloud.google.com/artifact-registry/docs/configure-notifications
https://cloud.google.com/pubsub/docs/authenticate-push-subscriptions

Anybody can have Google sign a token for any audience. So either the audience is the secret, which nobody else knows,
or the e-mail address of the service account is what proves.
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
    quoted,
    split_address,
    split_tag,
)
from gateway.sources._json import Part, parse_object
from gateway.sources._rsa import prove_id_token
from gateway.sources._source import Request, Source, Trust

_HEADER = "Authorization"
_KEYS = "https://www.googleapis.com/oauth2/v3/certs"
_ISSUERS = ("https://accounts.google.com", "accounts.google.com")
# Where a message is not wrapped, its id is in the headers alone. The token signs neither headers nor body, so one is
# as good as the other.
_ID_HEADER = "x-goog-pubsub-message-id"


def keys(request: Request, _trust: Trust) -> list[str]:
    _token(request)
    return [_KEYS]


def verify(request: Request, trust: Trust) -> None:
    claims = prove_id_token(_token(request), request.keys.get(_KEYS, b""), issuers=_ISSUERS, at=request.at)
    settings = trust.settings
    verify_token(str(claims.get("aud")), settings.get("audience") or trust.secret)
    if settings.keys().isdisjoint({"audience", "email"}):
        return
    allowed, email = _emails(settings), claims.get("email")
    if not email or email not in allowed or claims.get("email_verified") is not True:
        raise Unauthenticated("the token is of a service account that this endpoint does not name")


def _token(request: Request) -> str:
    scheme, _, token = request.headers.get(_HEADER.lower(), "").partition(" ")
    if scheme.lower() != "bearer" or not token.isascii():
        raise Unauthenticated("a token of Google is needed: let the subscription authenticate")
    return token


def parse(request: Request, trust: Trust) -> Notification:
    body = parse_object(request.body)
    if "message" not in body:
        return notification([_said(body, trust)], ids=[request.headers.get(_ID_HEADER, "")])
    message = body.part("message")
    try:
        told = base64.b64decode(message.text("data"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("message.data is not base64", field="message.data") from error
    return notification(
        [_said(parse_object(told), trust)], ids=[message.text("messageId") or message.text("message_id")]
    )


def _said(told: Part, trust: Trust) -> ParsedEvent:
    # Both are whole names. A push with a tag is told twice, once without it.
    tagged, _, _ = told.text("tag").partition("@")
    _, _, digest = told.text("digest").partition("@")
    host, name = split_address(tagged or told.text("digest"))
    path, tag = split_tag(name)
    # Projects of a domain were written example.com:project once.
    path = path.replace(":", "/")
    action = told.text("action")
    if action != "INSERT":
        return ignored_event(f"not a push: {quoted(action)}", trust, host=host, path=path, tag=tag, digest=digest)
    return push_event(trust, host=host, path=path, tag=tag, digest=digest)


def _emails(settings: Mapping[str, str]) -> list[str]:
    return [email.strip() for email in settings.get("email", "").split(",")]


def check(settings: Mapping[str, str]) -> None:
    if "audience" in settings and "email" not in settings:
        raise InvalidInput("an audience that others may know needs email: whose tokens are believed", field="settings")
    for email in _emails(settings) if "email" in settings else []:
        if "@" not in email:
            raise InvalidInput(f"{email!r} is no e-mail address of a service account", field="settings")


SOURCE = Source(
    "artifactregistry",
    header=_HEADER,
    header_value=None,
    verify=verify,
    parse=parse,
    keys=keys,
    settings={
        "email": "the e-mail address of the service account whose token Pub/Sub sends; several by comma.",
        "audience": "the audience of that token, where it is not the secret; it needs email.",
    },
    check=check,
    always_accept=True,
)
