"""What a body says was pushed, whichever registry wrote it: for an address that takes them all.

Which registry it is, its form tells: nobody has to say so. The address is the proof, as with a registry that signs
nothing. Of one that does not tell its host, the image's is meant; what is told is compared.
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
from gateway.sources._json import Part, parse_value, unform, unmarked
from gateway.sources._source import Request, Source, Trust

_NO_JSON = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
_PACKAGES = ("package", "registry_package")
# What stands before it can be configured.
_ZOT = re.compile(r"(?:^|\.)(?:image|repository)\.(?:created|updated|deleted|lint_failed)$")
_GITLAB = frozenset({"pipeline", "build", "deployment"})
# Hosts are compared as they are told: nothing is called so.
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
    # What an input transformer writes is a CloudEvent that nobody else's form fits.
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


#: each registry and the form by which it is known, the first that fits; Gitea sends GitHub's headers too
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
    """Return what was pushed, or that nothing is named; raises InvalidInput for what is no JSON.

    `image` is what the address stands for: of a registry that tells no host, and of a pipeline that tells no image.
    """
    body = unmarked(unform(request.body)).strip()
    if not body or _says_it_is_none(body, request.headers):
        return Notification(unnamed=True)
    loaded = parse_value(body)
    first = loaded[0] if isinstance(loaded, list) and loaded else loaded
    if isinstance(first, dict):
        part = Part(first)
        for source, fits in _FORMS:
            if fits(part, request.headers):
                return _parsed(source, replace(request, body=unmarked(request.body)), image)
    return Notification(unnamed=True)


def _says_it_is_none(body: bytes, sent: Mapping[str, str]) -> bool:
    """Tell whether a body is no JSON and does not pretend to be any, as a form or a text that curl sends."""
    return not body.startswith((b"{", b"[")) and sent.get("content-type", "").lower().startswith(_NO_JSON)


def _parsed(source: Source, request: Request, image: Reference) -> Notification:
    settings = {"image": str(image)} if source is gitlab.SOURCE else {}
    trust = Trust("", image.repository.domain, _NO_ALIAS, settings)
    try:
        return source.parse(request, trust)
    except TooLarge:
        raise
    except InvalidInput as error:
        # One part of what it says may well be beside the point; nothing is made of it.
        return Notification(ignored=(Ignored("", f"not understood, taken for one of {source.name}'s: {error}"),))
