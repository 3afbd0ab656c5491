"""JFrog Artifactory, by the webhooks of its docker domain.

https://jfrog.com/help/r/jfrog-platform-administration-documentation/webhooks

A pull through a remote repository tells `pushed` too: the tag has moved there, as after a push.
"""

from collections.abc import Mapping

from gateway.model.errors import Unauthenticated
from gateway.model.events import Ignored, Notification
from gateway.model.signatures import verify_hmac, verify_token
from gateway.sources._events import ParsedEvent, ignored_event, notification, push_event, quoted, split_address
from gateway.sources._json import Part, parse_object
from gateway.sources._source import Request, Source, Trust
from gateway.sources._template import check_template, fill

_HEADER = "X-JFrog-Event-Auth"
_PATH = "{repository}/{image}"
_WORDS = frozenset({"repository", "image"})
_PUSHES = frozenset({"pushed", "promoted"})
# Repositories of this kind hold charts and other artifacts as well, and the event does not say which one it is.
_OCI = "oci"


def verify(request: Request, trust: Trust) -> None:
    """The header carries the secret, or, with "use secret for payload signing", the body's signature."""
    sent = request.headers.get(_HEADER.lower())
    try:
        verify_hmac(sent, trust.secret, request.body)
    except Unauthenticated:
        verify_token(sent, trust.secret)


def signed(request: Request, trust: Trust) -> bool:
    return request.headers.get(_HEADER.lower()) != trust.secret


def parse(request: Request, trust: Trust) -> Notification:
    return notification([_said(parse_object(request.body), trust)], timeless=True)


def _said(body: Part, trust: Trust) -> ParsedEvent:
    domain, event, told = body.text("domain"), body.text("event_type"), body.part("data")
    if domain != "docker":
        return Ignored("", f"not a docker event: {quoted(f'{domain} {event}'.strip())}")
    if _is_test(told):
        return Ignored("", "a test: its names are made up")
    host = split_address(body.text("jpd_origin"))[0]
    # Manifests inside a multi-arch image lie in folders named by their digest, where a colon cannot stand.
    tag = told.text("tag").replace("sha256__", "sha256:")
    words = {"repository": told.text("repo_key"), "image": _image(told)}
    path = fill(trust.settings.get("path", _PATH), words)
    digest = f"sha256:{told.text('sha256')}"
    if event not in _PUSHES:
        return ignored_event(f"not a push: {quoted(event)}", trust, host=host, path=path, tag=tag, digest=digest)
    if told.text("image_type") == _OCI and trust.settings.get("oci") != "true":
        reason = "not an image, or set oci=true where this repository holds images"
        return ignored_event(reason, trust, host=host, path=path, tag=tag, digest=digest)
    return push_event(trust, host=host, path=path, tag=tag, digest=digest)


def _is_test(told: Part) -> bool:
    return told.text("sha256") == "sample_checksum" or told.text("repo_key") == "sample_repo"


def _image(told: Part) -> str:
    """Return `[folder/]image`: the folder stands only in the path, `folder/image/tag/manifest.json`."""
    folders = told.text("path").strip("/").split("/")[:-2]
    return "/".join(folders) or told.text("image_name")


def check(settings: Mapping[str, str]) -> None:
    check_template(settings.get("path", _PATH), _WORDS)


SOURCE = Source(
    "jfrog",
    header=_HEADER,
    header_value="{secret}",
    verify=verify,
    signed=signed,
    parse=parse,
    settings={
        "path": f"how clients name an image after the host ({_PATH}); {{image}} where the host tells the repository, "
        "virtual/{image} where they pull from a virtual one.",
        "oci": "true: what is pushed to an OCI repository is an image, not a chart.",
    },
    check=check,
)
