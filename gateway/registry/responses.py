"""Parse registry responses: manifests, indexes, image configurations, tags, tokens. It performs no I/O."""

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.model.errors import Code, InvalidInput, Postponed
from gateway.model.reference import Digest, Domain, is_tag, parse_digest

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
FOUND, CHALLENGED, FORBIDDEN, MISSING = 200, 401, 403, 404
MAX_MANIFEST = 4 * 1024**2  # bytes; https://github.com/opencontainers/distribution-spec sets this limit

_MAX_TAGS = 5000  # of one page that are read
_TOKEN = re.compile(r"[!-~]{1,65536}")
_MANIFEST_KEYS = frozenset({"schemaVersion", "manifests", "config", "layers", "fsLayers"})
_CONFIGS = frozenset(
    {
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
        "application/octet-stream",  # older registries
    }
)
_EMPTY = "application/vnd.oci.empty.v1+json"
_LAYER = re.compile(r"\btar\b|\.rootfs\.|octet-stream")


@dataclass(frozen=True, slots=True)
class Answer:
    """A registry's response, of any status."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def denies(self) -> bool:
        return self.status in {CHALLENGED, FORBIDDEN}

    @property
    def media_type(self) -> str:
        return self.headers.get("Content-Type", "").partition(";")[0].strip()


def platforms(body: bytes) -> frozenset[str]:
    """Return the platforms of an index, without attestations, whose platform is unknown/unknown."""
    try:
        manifests: list[dict[str, Any]] = orjson.loads(body)["manifests"]
        named = [manifest.get("platform") or {} for manifest in manifests]
        found = {f"{platform.get('os')}/{platform.get('architecture')}" for platform in named}
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return frozenset()
    return frozenset(found - {"unknown/unknown", "None/None"})


def config_digest(body: bytes) -> Digest | None:
    """Return the digest of the configuration in the manifest of one image."""
    try:
        return parse_digest(orjson.loads(body)["config"]["digest"])
    except (orjson.JSONDecodeError, KeyError, TypeError, InvalidInput):
        return None


def platform(body: bytes) -> str | None:
    """Return the platform in an image's configuration."""
    try:
        config = orjson.loads(body)
        named = [str(config[name]) for name in ("os", "architecture")]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return "/".join(named) if all(named) else None


def tags(body: bytes) -> list[str] | None:
    """Return the tags of a page, up to a limit; None where the body is no list of tags."""
    try:
        listed = orjson.loads(body)["tags"] or ()
        return [tag for tag in listed[:_MAX_TAGS] if isinstance(tag, str) and is_tag(tag)]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None


def token(service: Domain, body: bytes) -> str:
    """Return the token in a token service's response; raises Postponed where there is none."""
    try:
        answer = orjson.loads(body)
        found = answer.get("token") or answer["access_token"]
    except (orjson.JSONDecodeError, KeyError, AttributeError) as error:
        raise Postponed(Code.REGISTRY_UNREACHABLE, f"the token service {service} answers without a token") from error
    if not isinstance(found, str) or not _TOKEN.fullmatch(found):
        raise Postponed(Code.REGISTRY_UNREACHABLE, f"the token service {service} answers with an invalid token")
    return found


# -- manifests


def manifest(answer: Answer) -> dict[str, Any] | None:
    """Return the manifest or index in a response; None for a page, an empty body, or any other document."""
    try:
        found = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) and not _MANIFEST_KEYS.isdisjoint(found) else None


def digest(answer: Answer) -> Digest | None:
    """Return the digest of a manifest: the declared one where it may differ from the body's, else the body's."""
    own = parse_digest(f"sha256:{hashlib.sha256(answer.body).hexdigest()}")
    declared = answer.headers.get("Docker-Content-Digest", "")
    if not declared:
        return own
    # The digest of an old manifest with a signature in it leaves out the signature.
    whole = answer.media_type in {*INDEXES, *MANIFESTS} and len(answer.body) < MAX_MANIFEST
    try:
        return own if whole and parse_digest(declared) != own else parse_digest(declared)
    except InvalidInput:
        return own


def artifact(found: Mapping[str, Any]) -> str | None:
    """Return the type of a manifest that is no image: a chart, a signature, another artifact; None for an image."""
    listed = found.get("manifests")
    if isinstance(listed, list):
        return (
            None if any(map(_is_runnable, listed)) else _text(found.get("artifactType")) or "an index without an image"
        )
    config, layers = found.get("config"), found.get("layers")
    kind = _text(config.get("mediaType")) if isinstance(config, Mapping) else ""
    if kind and kind not in _CONFIGS:
        return _text(found.get("artifactType")) if kind == _EMPTY and found.get("artifactType") else kind
    if not isinstance(layers, list) or not layers:
        return None
    kinds = [_text(layer.get("mediaType")) for layer in layers if isinstance(layer, Mapping)]
    return None if any(not one or _LAYER.search(one) for one in kinds) else next(iter(kinds), None)


def _is_runnable(entry: object) -> bool:
    if not isinstance(entry, Mapping) or entry.get("artifactType"):
        return False
    named = entry.get("platform")
    return not (isinstance(named, Mapping) and {named.get("os"), named.get("architecture")} == {"unknown"})


def has_zstd(found: Mapping[str, Any]) -> bool:
    """Tell whether a layer is compressed with zstd."""
    layers = found.get("layers")
    kinds = (
        [layer.get("mediaType") for layer in layers if isinstance(layer, Mapping)] if isinstance(layers, list) else []
    )
    return any(_text(kind).endswith(("+zstd", ".zstd")) for kind in kinds)


def child(found: Mapping[str, Any], platform: str) -> Digest | None:
    """Return the digest of the manifest that an index has for a platform."""
    listed = found.get("manifests")
    for entry in listed if isinstance(listed, list) else ():
        named = entry.get("platform") if isinstance(entry, Mapping) else None
        if isinstance(named, Mapping) and f"{named.get('os')}/{named.get('architecture')}" == platform:
            try:
                return parse_digest(_text(entry.get("digest")))
            except InvalidInput:
                return None
    return None


def first_child(found: Mapping[str, Any]) -> Digest | None:
    """Return the digest of the first image of an index, None for what is no index."""
    listed = found.get("manifests")
    for entry in listed if isinstance(listed, list) else ():
        if isinstance(entry, Mapping) and _is_runnable(entry) and entry.get("mediaType") not in INDEXES:
            try:
                return parse_digest(_text(entry.get("digest")))
            except InvalidInput:
                return None
    return None


def labels(body: bytes, names: Collection[str]) -> dict[str, str]:
    """Return those of these labels that an image's configuration has."""
    try:
        return texts(orjson.loads(body)["config"]["Labels"], names)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return {}


def texts(found: object, names: Collection[str]) -> dict[str, str]:
    """Return those of these fields that are texts."""
    return {one: text for one in names if isinstance(found, Mapping) and isinstance(text := found.get(one), str)}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
