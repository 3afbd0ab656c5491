"""What a registry's answers say. It performs no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.errors import Code, InvalidInput, Postponed
from gateway.reference import Digest, Domain, parse_digest

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
FOUND, CHALLENGED, FORBIDDEN, MISSING = 200, 401, 403, 404


@dataclass(frozen=True, slots=True)
class Answer:
    """What a registry answers, whatever it is."""

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
    """Return the platforms of an index, without attestations, which call themselves unknown/unknown."""
    try:
        manifests: list[dict[str, Any]] = orjson.loads(body)["manifests"]
        named = [manifest.get("platform") or {} for manifest in manifests]
        found = {f"{platform.get('os')}/{platform.get('architecture')}" for platform in named}
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return frozenset()
    return frozenset(found - {"unknown/unknown", "None/None"})


def config_digest(body: bytes) -> Digest | None:
    """Return where the manifest of one image keeps its configuration."""
    try:
        return parse_digest(orjson.loads(body)["config"]["digest"])
    except (orjson.JSONDecodeError, KeyError, TypeError, InvalidInput):
        return None


def platform(body: bytes) -> str | None:
    """Return the platform that an image's configuration names."""
    try:
        config = orjson.loads(body)
        named = [str(config[name]) for name in ("os", "architecture")]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return "/".join(named) if all(named) else None


def tags(body: bytes) -> list[str]:
    try:
        return [str(tag) for tag in orjson.loads(body)["tags"] or ()]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return []


def token(at: Domain, body: bytes) -> str:
    try:
        answer = orjson.loads(body)
        return str(answer.get("token") or answer["access_token"])
    except (orjson.JSONDecodeError, KeyError, AttributeError) as error:
        raise Postponed(Code.REGISTRY_UNREACHABLE, f"the token service {at} answers no token") from error
