"""What a registry lists of signatures and attestations. It performs no I/O.

Whoever may push to the repository decides what is listed: nothing of it is trusted.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson
from yarl import URL

from gateway.model.errors import Code, Postponed, Reason
from gateway.model.reference import Digest, is_digest
from gateway.registry import errors
from gateway.registry.errors import Subject
from gateway.registry.responses import INDEXES, MANIFESTS, MAX_MANIFEST, Answer

_MAX_ANNOTATIONS = 128 * 1024  # characters, of one signature

_ANNOTATIONS = frozenset(
    {
        "dev.cosignproject.cosign/signature",
        "dev.sigstore.cosign/certificate",
        "dev.sigstore.cosign/chain",
        "dev.sigstore.cosign/bundle",
    }
)
_JSON = "application/json"
_PREDICATE = "dev.sigstore.bundle.predicateType"
#: what a manifest with signatures or attestations may call itself
_MAY_SIGN = re.compile(r"sigstore|cosign|dsse|in-toto|oci\.empty|image\.config|container\.image|octet-stream")
_NEXT = re.compile(r'<([^<>]{1,2000})>\s*;[^,]*\brel="?next"?')


class Form(StrEnum):
    """How something is stored."""

    #: a text in the format of simple signing; its signature is an annotation
    SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
    #: a DSSE envelope
    ENVELOPE = "application/vnd.dsse.envelope.v1+json"
    #: a Sigstore bundle, of any version
    BUNDLE = "application/vnd.dev.sigstore.bundle"

    def is_media_type(self, text: str) -> bool:
        return text.startswith(self) if self is Form.BUNDLE else text == self


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to look for: the tag's suffix, the forms, the largest size in bytes, and likely predicates of bundles."""

    suffix: str
    forms: frozenset[Form]
    max_size: int
    predicates: frozenset[str]


SIGNATURES = Wanted(
    "sig", frozenset({Form.SIMPLE, Form.BUNDLE}), 1024**2, frozenset({"https://sigstore.dev/cosign/sign/v1"})
)
ATTESTATIONS = Wanted(
    "att",
    frozenset({Form.ENVELOPE, Form.BUNDLE}),
    MAX_MANIFEST,
    frozenset({"https://slsa.dev/provenance/v1", "https://slsa.dev/provenance/v0.2"}),
)


@dataclass(frozen=True, slots=True)
class Stored:
    """A signature or attestation as the registry has it. `place` says where it was found."""

    form: Form
    content: bytes
    annotations: Mapping[str, str]
    place: str


@dataclass(frozen=True, slots=True)
class Attached:
    """What was found. With `faults` or `left_out` there may be more."""

    stored: tuple[Stored, ...] = ()
    #: requests that the registry did not answer as it should
    faults: tuple[Reason, ...] = ()
    #: how many were not read, since there are too many
    left_out: int = 0
    #: seconds, if the registry named a time
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """A layer that may be wanted."""

    form: Form
    digest: Digest
    size: int
    annotations: Mapping[str, str]
    place: str


def parse_manifest(answer: Answer, subject: Subject, expected: Digest | None) -> Mapping[str, Any]:
    """Return the manifest or index in a successful response; raises Postponed where it is none, or not that one.

    What has the expected, or declared, digest is what somebody pushed: if it is odd, the registry is not to blame.
    """
    declared = answer.headers.get("Docker-Content-Digest", "")
    named = expected or (declared if is_digest(declared) else None)
    if named is not None:
        check_digest(answer.body, named, subject)
    try:
        found = orjson.loads(answer.body)
    except orjson.JSONDecodeError as error:
        raise errors.not_a_manifest(subject, answer) from error
    shape = {"manifests"} if answer.media_type in INDEXES else {"layers"} if answer.media_type in MANIFESTS else None
    if not isinstance(found, dict) or (named is None and {"manifests", "layers"} & found.keys() != shape):
        raise errors.not_a_manifest(subject, answer)
    return found


def parse_referrers(answer: Answer, subject: Subject) -> list[Mapping[str, Any]]:
    """Return the entries that the referrers API lists, but for those of another type; raises Postponed for rubbish.

    Some registries call the list plain JSON.
    """
    try:
        found = orjson.loads(answer.body) if answer.media_type in {*INDEXES, _JSON} else None
    except orjson.JSONDecodeError as error:
        raise errors.not_a_manifest(subject, answer) from error
    if not isinstance(found, dict) or not isinstance(found.get("manifests", ""), list | None) or "layers" in found:
        raise errors.not_a_manifest(subject, answer)
    return [entry for entry in objects(found["manifests"]) if may_sign(entry)]


def check_digest(content: bytes, digest: str, subject: Subject) -> None:
    """Raise Postponed unless the content has this digest: it was truncated or changed on the way."""
    if hashlib.sha256(content).hexdigest() != digest.removeprefix("sha256:"):
        raise Postponed(Code.REGISTRY_UNREACHABLE, f"{subject.domain} answers with other content than {digest}")


def next_query(answer: Answer) -> dict[str, str]:
    """Return the query of the next page; its address is that of this one, whatever the registry says."""
    found = _NEXT.search(answer.headers.get("Link", "")[:4096])
    try:
        return dict(URL(found[1]).query) if found else {}
    except ValueError:
        return {}


def objects(listed: object) -> list[Mapping[str, Any]]:
    """Return the objects of a list; empty for anything else."""
    return [entry for entry in listed if isinstance(entry, Mapping)] if isinstance(listed, list) else []


def digest_of(entry: Mapping[str, Any]) -> Digest | None:
    """Return the digest in a descriptor, None where it has no valid one."""
    named = entry.get("digest")
    return Digest(named) if isinstance(named, str) and is_digest(named) else None


def may_sign(entry: Mapping[str, Any]) -> bool:
    """Tell whether a listed manifest calls itself nothing that excludes signatures."""
    kind = entry.get("artifactType")
    return not isinstance(kind, str) or not kind or _MAY_SIGN.search(kind) is not None


def likely_first(entries: Iterable[Mapping[str, Any]], wanted: Wanted) -> list[Digest]:
    """Return the digests so that, of too many, those are read first that are likely wanted; those listed last first."""

    def rank(entry: Mapping[str, Any]) -> int:
        annotations = entry.get("annotations")
        predicate = annotations.get(_PREDICATE) if isinstance(annotations, Mapping) else None
        if isinstance(predicate, str) and predicate in wanted.predicates:
            return 0
        return 1 if predicate is None and may_sign(entry) else 2

    latest_first = list(entries)
    latest_first.reverse()
    ordered = sorted(latest_first, key=rank)
    return list(dict.fromkeys(digest for entry in ordered if (digest := digest_of(entry))))


def wanted_layers(manifest: Mapping[str, Any], wanted: Wanted, place: str) -> Iterator[Listed]:
    """Yield the layers that may be wanted, the last ones first. What is larger than any of those is none."""
    for layer in reversed(objects(manifest.get("layers"))):
        kind, size, digest, annotations = (layer.get(name) for name in ("mediaType", "size", "digest", "annotations"))
        form = next((one for one in wanted.forms if isinstance(kind, str) and one.is_media_type(kind)), None)
        digest = digest_of(layer)
        if form is None or digest is None or not isinstance(size, int) or not 0 < size <= wanted.max_size:
            continue
        texts = annotations if isinstance(annotations, Mapping) else {}
        kept = {name: text for name in _ANNOTATIONS if isinstance(text := texts.get(name), str)}
        if sum(map(len, kept.values())) <= _MAX_ANNOTATIONS:
            yield Listed(form, digest, size, kept, place)
