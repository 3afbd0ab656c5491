"""Parse a body of any registry, for deploy tokens, which receive deliveries of all.

The registry is detected by the fields of the body. Nothing is verified here: the token is the proof, as for registries
that do not sign. Where a registry does not name its host, the host of the application's image is assumed.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from gateway.model.errors import InvalidInput, TooLarge
from gateway.model.events import Ignored, Notification
from gateway.model.reference import Reference
from gateway.sources import (
    acr,
    aliyun,
    artifactregistry,
    distribution,
    dockerhub,
    ecr,
    generic,
    gitea,
    github,
    gitlab,
    harbor,
    jfrog,
    nexus,
    quay,
    zot,
)
from gateway.sources._json import Part, decode_form, parse_value, strip_byte_order_mark
from gateway.sources._source import Request, Source, Trust

_NO_JSON = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
_PACKAGES = ("package", "registry_package")
# The prefix of zot's event types is configurable.
_ZOT = re.compile(r"(?:^|\.)(?:image|repository)\.(?:created|updated|deleted|lint_failed)$")
_GITLAB = frozenset({"pipeline", "build", "deployment"})
# An alias that no host matches, so that hosts are compared as the registry names them.
_NO_ALIAS = frozenset({"*"})


def _has(*names: str) -> Callable[[Part, Mapping[str, str]], bool]:
    return lambda body, _sent: all(name in body for name in names)


def _gitea(body: Part, sent: Mapping[str, str]) -> bool:
    return "package" in body and ("x-gitea-event" in sent or "x-forgejo-event" in sent)


def _github(body: Part, _sent: Mapping[str, str]) -> bool:
    return any(name in body for name in (*_PACKAGES, "zen"))


def _gitlab(body: Part, _sent: Mapping[str, str]) -> bool:
    return str(body.members.get("object_kind")) in _GITLAB


def _harbor(body: Part, _sent: Mapping[str, str]) -> bool:
    old = "event_type" in body and "events" in body
    return old or "event_data" in body or str(body.members.get("type", "")).startswith("harbor.")


def _acr(body: Part, _sent: Mapping[str, str]) -> bool:
    kind = str(body.members.get("eventType") or body.members.get("type") or "")
    action = body.members.get("action")
    return "Microsoft." in kind or "ImagePushed" in kind or ("target" in body and "action" in body) or action == "ping"


def _ecr(body: Part, _sent: Mapping[str, str]) -> bool:
    plain = "repository-name" in body and "action-type" in body
    # An input transformer sends a CloudEvent of its own form, so this source takes all that no source before it took.
    return "detail-type" in body or "specversion" in body or plain


def _zot(body: Part, sent: Mapping[str, str]) -> bool:
    kind = str(body.members.get("type") or sent.get("ce-type", ""))
    return _ZOT.search(kind) is not None


def _artifactregistry(body: Part, _sent: Mapping[str, str]) -> bool:
    message = body.members.get("message")
    return (isinstance(message, dict) and "data" in message) or str(body.members.get("action")) in {"INSERT", "DELETE"}


def _aliyun(body: Part, _sent: Mapping[str, str]) -> bool:
    repository = body.members.get("repository")
    return "push_data" in body and isinstance(repository, dict) and "region" in repository


def _quay(body: Part, _sent: Mapping[str, str]) -> bool:
    return not {"docker_url", "updated_tags", "usage_percent"}.isdisjoint(body.members)


def _nexus(body: Part, sent: Mapping[str, str]) -> bool:
    return "x-nexus-webhook-id" in sent or ("repositoryName" in body and "component" in body)


def _generic(body: Part, _sent: Mapping[str, str]) -> bool:
    if isinstance(body.members.get("image"), str):
        return True
    named = any(isinstance(body.members.get(name), str) for name in ("repository", "artifact", "name"))
    return named and ("tag" in body or "digest" in body)


#: each source with a test for its bodies; the first that passes is taken, and Gitea sends GitHub's headers too
_FORMS: tuple[tuple[Source, Callable[[Part, Mapping[str, str]], bool]], ...] = (
    (gitea.SOURCE, _gitea),
    (gitlab.SOURCE, _gitlab),
    (github.SOURCE, _github),
    (aliyun.SOURCE, _aliyun),
    (dockerhub.SOURCE, _has("push_data", "repository")),
    (harbor.SOURCE, _harbor),
    (distribution.SOURCE, _has("events")),
    (zot.SOURCE, _zot),
    (acr.SOURCE, _acr),
    (ecr.SOURCE, _ecr),
    (artifactregistry.SOURCE, _artifactregistry),
    (quay.SOURCE, _quay),
    (jfrog.SOURCE, _has("domain", "event_type")),
    (nexus.SOURCE, _nexus),
    (generic.SOURCE, _generic),
)


def parse(request: Request, image: Reference) -> Notification:
    """Return the push events, or a notification with `names_no_image`. Raises InvalidInput.

    `image` is the application's image. Its host is assumed for registries that do not name theirs, and the image itself
    for pipelines, which name none.
    """
    body = strip_byte_order_mark(decode_form(request.body)).strip()
    if not body or _is_not_json(body, request.headers):
        return Notification(names_no_image=True)
    source = _source_of(parse_value(body), request.headers)
    if source is None:
        return Notification(names_no_image=True)
    return _parsed(source, replace(request, body=strip_byte_order_mark(request.body)), image)


def origin(request: Request) -> Mapping[str, str] | None:
    """Return from which commit a body says that the image was built, also one that names no image, if it does.

    Raises InvalidInput for a body that is not understood.
    """
    body = strip_byte_order_mark(decode_form(request.body)).strip()
    source = _source_of(parse_value(body), request.headers) or generic.SOURCE
    return source.origin(replace(request, body=body), Trust(""))


def _source_of(loaded: object, sent: Mapping[str, str]) -> Source | None:
    first = loaded[0] if isinstance(loaded, list) and loaded else loaded
    if not isinstance(first, dict):
        return None
    part = Part(first)
    return next((source for source, fits in _FORMS if fits(part, sent)), None)


def _is_not_json(body: bytes, sent: Mapping[str, str]) -> bool:
    """Tell whether a body neither is JSON nor claims to be, as a form or a text that curl sends."""
    return not body.startswith((b"{", b"[")) and sent.get("content-type", "").lower().startswith(_NO_JSON)


def _parsed(source: Source, request: Request, image: Reference) -> Notification:
    settings = {"image": str(image)} if source is gitlab.SOURCE else {}
    trust = Trust("", image.repository.domain, _NO_ALIAS, settings)
    try:
        return source.parse(request, trust)
    except TooLarge:
        raise
    except InvalidInput as error:
        # The body may be of another program. It deploys nothing, and the inbox shows why.
        return Notification(ignored=(Ignored("", f"not understood, taken for one of {source.name}'s: {error}"),))
