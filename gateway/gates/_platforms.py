"""The manifest of an index that an engine of some platform runs, where there can be no doubt about it.

The engine reads an index in its own way: it takes names in any case, other names of architectures, and entries without
a platform. Whoever may push could write one that is read here in one way and there in another. So an index is only read
if each part of it is plain.
"""

from collections.abc import Mapping

from gateway.gates._strict_json import Malformed, parse_object
from gateway.model.reference import Digest, is_digest

_INDEX = frozenset({"schemaVersion", "mediaType", "artifactType", "manifests", "subject", "annotations"})
_ENTRY = frozenset({"mediaType", "digest", "size", "platform", "annotations"})
_PLATFORM = frozenset({"os", "architecture", "variant", "os.version", "os.features", "features"})
_SYSTEMS = frozenset({"linux", "windows", "darwin", "freebsd", "unknown"})
_ARCHITECTURES = frozenset(
    {"386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x", "unknown"}
)


def own_manifest(index: bytes, platform: str) -> Digest | None:
    """Return the digest of the one manifest for the platform; None where there is none, more than one, or doubt."""
    try:
        found = parse_object(index)
    except Malformed:
        return None
    entries = found.get("manifests")
    if not found.keys() <= _INDEX or not isinstance(entries, list) or not all(map(_is_plain, entries)):
        return None
    fitting = [one["digest"] for one in entries if _name(one["platform"]) == platform]
    return Digest(fitting[0]) if len(fitting) == 1 else None


def _is_plain(entry: object) -> bool:
    if not isinstance(entry, Mapping) or not entry.keys() <= _ENTRY or not is_digest(str(entry.get("digest"))):
        return False
    named = entry.get("platform")
    return (
        isinstance(named, Mapping)
        and named.keys() <= _PLATFORM
        and named.get("os") in _SYSTEMS
        and named.get("architecture") in _ARCHITECTURES
    )


def _name(platform: Mapping[str, object]) -> str:
    return f"{platform['os']}/{platform['architecture']}"
