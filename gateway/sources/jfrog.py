"""JFrog Artifactory: the webhooks of its docker domain.

https://jfrog.com/help/r/jfrog-platform-administration-documentation/webhooks

A pull through a remote repository also causes `pushed`: the tag has moved in Artifactory, as after a push.
"""

from collections.abc import Mapping

from gateway.model.errors import Unauthenticated
from gateway.model.events import Ignored, Notification
from gateway.model.signatures import verify_hmac, verify_token
from gateway.sources._events import ParsedEvent, ignored_event, notification, push_event, quote, split_address
from gateway.sources._json import Part, parse_object
from gateway.sources._source import Request, Source, Trust
from gateway.sources._template import check_template, render

_HEADER = "X-JFrog-Event-Auth"
_PATH = "{repository}/{image}"
_WORDS = frozenset({"repository", "image"})
_PUSHES = frozenset({"pushed", "promoted"})
# A repository of this type may hold charts and other artifacts, too. The event does not say which.
_OCI = "oci"


def verify(request: Request, trust: Trust) -> None:
    """Check the header: it has the secret, or, with "use secret for payload signing", the body's signature."""
    sent = request.headers.get(_HEADER.lower())
    try:
        verify_hmac(sent, trust.secret, request.body)
    except Unauthenticated:
        verify_token(sent, trust.secret)


def signed(request: Request, trust: Trust) -> bool:
    return request.headers.get(_HEADER.lower()) != trust.secret


def parse(request: Request, trust: Trust) -> Notification:
    return notification([_parse_event(parse_object(request.body), trust)], timeless=True)


def _parse_event(body: Part, trust: Trust) -> ParsedEvent:
    domain, event, data = body.text("domain"), body.text("event_type"), body.part("data")
    if domain != "docker":
        return Ignored("", f"not a docker event: {quote(f'{domain} {event}'.strip())}")
    if _is_test(data):
        return Ignored("", "a test: its names are made up")
    host = split_address(body.text("jpd_origin"))[0]
    # Folders of manifests inside a multi-arch image are named by the digest, with __ for the colon.
    tag = data.text("tag").replace("sha256__", "sha256:")
    words = {"repository": data.text("repo_key"), "image": _image(data)}
    path = render(trust.settings.get("path", _PATH), words)
    digest = f"sha256:{data.text('sha256')}"
    if event not in _PUSHES:
        return ignored_event(f"not a push: {quote(event)}", trust, host=host, path=path, tag=tag, digest=digest)
    if data.text("image_type") == _OCI and trust.settings.get("oci") != "true":
        reason = "not an image, or set oci=true where this repository holds images"
        return ignored_event(reason, trust, host=host, path=path, tag=tag, digest=digest)
    return push_event(trust, host=host, path=path, tag=tag, digest=digest)


def _is_test(data: Part) -> bool:
    return data.text("sha256") == "sample_checksum" or data.text("repo_key") == "sample_repo"


def _image(data: Part) -> str:
    """Return `[folder/]image`. Only the path has the folder: `folder/image/tag/manifest.json`."""
    folders = data.text("path").strip("/").split("/")[:-2]
    return "/".join(folders) or data.text("image_name")


def check(settings: Mapping[str, str]) -> None:
    check_template(settings.get("path", _PATH), _WORDS)


SOURCE = Source(
    "jfrog",
    title="JFrog Artifactory",
    header=_HEADER,
    header_value="{secret}",
    verify=verify,
    signed=signed,
    parse=parse,
    settings={
        "path": f"an image's path as clients write it after the host ({_PATH}); {{image}} where the host names the "
        "repository, virtual/{image} where clients pull from a virtual one.",
        "oci": "true: pushes to OCI repositories are images, not charts.",
    },
    check=check,
)
