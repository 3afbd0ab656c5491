"""Gitea and Forgejo, by the `package` event of their container registry.

https://docs.gitea.com/usage/webhooks and https://forgejo.org/docs/latest/user/webhooks/

Every manifest fires one, those inside a multi-arch image too: the version is then a digest. Unlike GitHub's,
the signature of a form is that of the JSON in it; without a secret its header is there, and empty.
"""

from gateway.model.events import Ignored, Notification
from gateway.model.signatures import verify_hmac
from gateway.sources._events import ParsedEvent, ignored_event, notification, push_event, quoted, split_address
from gateway.sources._json import Part, parse_object, unform
from gateway.sources._source import Request, Source, Trust, always

_HEADER = "X-Gitea-Signature"
_FORGEJO_HEADER = "X-Forgejo-Signature"


def verify(request: Request, trust: Trust) -> None:
    sent = request.headers.get(_HEADER.lower()) or request.headers.get(_FORGEJO_HEADER.lower())
    verify_hmac(sent, trust.secret, unform(request.body))


def parse(request: Request, trust: Trust) -> Notification:
    return notification([_said(parse_object(unform(request.body)), trust)])


def _said(body: Part, trust: Trust) -> ParsedEvent:
    if "package" not in body:
        return Ignored("", "not a package event")
    package, action = body.part("package"), body.text("action")
    if package.text("type") != "container":
        return Ignored("", f"not a container package: {quoted(package.text('type'))}")
    host, version = _host(body, package), package.text("version")
    owner = package.part("owner")
    # The owner keeps the case it was registered with, the registry's names are in lower case.
    path = f"{owner.text('login') or owner.text('username')}/{package.text('name')}".lower()
    if action != "created":
        return ignored_event(f"not a push: {quoted(action)}", trust, host=host, path=path, tag=version)
    return push_event(trust, host=host, path=path, tag=version)


def _host(body: Part, package: Part) -> str:
    addresses = (package, package.part("repository"), body.part("repository"), package.part("owner"))
    return next((split_address(one.text("html_url"))[0] for one in addresses if one.text("html_url")), "")


SOURCE = Source("gitea", header=_HEADER, header_value=None, verify=verify, parse=parse, signed=always)
