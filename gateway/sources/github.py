"""GitHub Container Registry (ghcr.io): the `package` and `registry_package` events.

https://docs.github.com/en/webhooks/webhook-events-and-payloads#package

GitHub does not sign its headers, so the event is recognized by the body alone. One push causes both events, with
different delivery ids: the second joins the deployment that the first has queued.
"""

from collections.abc import Mapping

from gateway.model.commits import origin_of
from gateway.model.events import Ignored, Notification
from gateway.model.signatures import verify_hmac
from gateway.sources._events import (
    ParsedEvent,
    first_digest,
    ignored_event,
    is_image,
    notification,
    push_event,
    quote,
    split_address,
    split_tag,
)
from gateway.sources._json import Part, decode_form, parse_object
from gateway.sources._source import Request, Source, Trust, always_signed

_HEADER = "X-Hub-Signature-256"
_HOST = "ghcr.io"
_PULL = "docker pull "
# Webhooks of organisations send "create".
_PUBLISHING = frozenset({"", "published", "updated", "create"})


def verify(request: Request, trust: Trust) -> None:
    verify_hmac(request.headers.get(_HEADER.lower()), trust.secret, request.body, prefix="sha256=")


def parse(request: Request, trust: Trust) -> Notification:
    return notification([_parse_event(parse_object(decode_form(request.body)), trust)])


def origin(request: Request, _trust: Trust) -> Mapping[str, str] | None:
    body = parse_object(decode_form(request.body))
    package = body.part("package") or body.part("registry_package")
    version = package.part("package_version") or body.part("package_version")
    labels = version.part("container_metadata").part("labels")
    source = labels.text("source") or body.part("repository").text("html_url")
    return origin_of(source, labels.text("revision") or version.text("target_oid"))


def _parse_event(body: Part, trust: Trust) -> ParsedEvent:
    package = body.part("package") or body.part("registry_package")
    if not package:
        return Ignored("", "ping" if "zen" in body else "not a package event")
    version = package.part("package_version") or body.part("package_version")
    if not _is_container(package, version):
        return Ignored("", "not a container package")
    host, path, tag = _name(package, version)
    digest = _digest(version)
    reason = _ignore_reason(body, version)
    if reason:
        return ignored_event(reason, trust, host=host, path=path, tag=tag, digest=digest)
    return push_event(trust, host=host, path=path, tag=tag, digest=digest)


def _is_container(package: Part, version: Part) -> bool:
    # GitHub's own example of a container has the type "npm", and webhooks of organisations have no package_type.
    types = (package.part("registry").text("type"), package.text("package_type"), package.text("ecosystem"))
    return (
        "CONTAINER" in {kind.upper() for kind in types}
        or bool(version.part("container_metadata"))
        or version.text("installation_command").startswith(_PULL)
        or split_address(version.text("package_url"))[0] == _HOST
    )


def _name(package: Part, version: Part) -> tuple[str, str, str]:
    """Return host, path and tag. A tag that was added later is only in the metadata, not in the address."""
    host, path, tag = _address(package, version)
    tag_name = version.part("container_metadata").part("tag").text("name")
    return host, path.lower(), tag_name or tag or _tag_of_2019(version)


def _tag_of_2019(version: Part) -> str:
    # In 2019 the version was the tag. An address that ends in a colon means an untagged image.
    name = version.text("version")
    untagged = version.part("container_metadata") or version.text("package_url").endswith(":")
    return "" if untagged or ":" in name else name


def _address(package: Part, version: Part) -> tuple[str, str, str]:
    address = version.text("package_url") or version.text("installation_command").removeprefix(_PULL)
    if address:
        host, name = split_address(address)
        return host, *split_tag(name)
    namespace = package.text("namespace") or package.part("owner").text("login")
    path = namespace if "/" in namespace else f"{namespace}/{package.text('name')}"
    return _HOST, path, ""


def _digest(version: Part) -> str:
    tag = version.part("container_metadata").part("tag")
    return first_digest(version.text("version"), version.text("name"), tag.text("digest")) or ""


def _ignore_reason(body: Part, version: Part) -> str:
    action = body.text("action")
    if action not in _PUBLISHING:
        return f"not a push: {quote(action)}"
    manifest = version.part("container_metadata").part("manifest")
    media_type = manifest.part("config").text("media_type")
    return "" if is_image(media_type) else f"not an image: {quote(media_type)}"


SOURCE = Source(
    "github",
    title="GitHub",
    header=_HEADER,
    header_value=None,
    verify=verify,
    parse=parse,
    origin=origin,
    signed=always_signed,
    response_deadline=9.0,
)
