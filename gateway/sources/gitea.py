"""Gitea and Forgejo: the `package` event of their container registry.

https://docs.gitea.com/usage/webhooks and https://forgejo.org/docs/latest/user/webhooks/

Every manifest causes an event, also those inside a multi-arch image, whose version is a digest. Unlike GitHub, they
sign the JSON inside a form, not the form. Without a secret, the signature header is present and empty.
"""

from gateway.model.events import Ignored, Notification
from gateway.model.signatures import verify_hmac
from gateway.sources._events import ParsedEvent, ignored_event, notification, push_event, quote, split_address
from gateway.sources._json import Part, decode_form, parse_object
from gateway.sources._source import Request, Source, Trust, always_signed

_HEADER = "X-Gitea-Signature"
_FORGEJO_HEADER = "X-Forgejo-Signature"


def verify(request: Request, trust: Trust) -> None:
    sent = request.headers.get(_HEADER.lower()) or request.headers.get(_FORGEJO_HEADER.lower())
    verify_hmac(sent, trust.secret, decode_form(request.body))


def parse(request: Request, trust: Trust) -> Notification:
    return notification([_parse_event(parse_object(decode_form(request.body)), trust)])


def _parse_event(body: Part, trust: Trust) -> ParsedEvent:
    if "package" not in body:
        return Ignored("", "not a package event")
    package, action = body.part("package"), body.text("action")
    if package.text("type") != "container":
        return Ignored("", f"not a container package: {quote(package.text('type'))}")
    host, version = _host(body, package), package.text("version")
    owner = package.part("owner")
    # The owner's name may have capitals; the registry's names are in lower case.
    path = f"{owner.text('login') or owner.text('username')}/{package.text('name')}".lower()
    if action != "created":
        return ignored_event(f"not a push: {quote(action)}", trust, host=host, path=path, tag=version)
    return push_event(trust, host=host, path=path, tag=version)


def _host(body: Part, package: Part) -> str:
    addresses = (package, package.part("repository"), body.part("repository"), package.part("owner"))
    return next((split_address(one.text("html_url"))[0] for one in addresses if one.text("html_url")), "")


SOURCE = Source(
    "gitea", title="Gitea, Forgejo", header=_HEADER, header_value=None, verify=verify, parse=parse, signed=always_signed
)
