"""The manifests of an index that an engine of some platform runs.

The engine reads an index in its own way: it takes names in any case, other names of architectures, and entries without
a platform; it prefers one variant of a processor to another, and takes a 32-bit image where it finds nothing better.
Scanners choose in another way. Whoever may push could write an index of which one image is verified, and another runs.
So `own_manifest` answers only where there can be no doubt, and `may_run` names all that the engine could choose.

    https://github.com/containerd/platforms    https://github.com/opencontainers/image-spec/blob/main/image-index.md
"""

from collections.abc import Mapping
from typing import Any

from gateway.gates._strict_json import Malformed, parse_object
from gateway.model.reference import Digest, is_digest
from gateway.registry.responses import MANIFESTS

_INDEX = frozenset({"schemaVersion", "mediaType", "artifactType", "manifests", "subject", "annotations"})
_ENTRY = frozenset({"mediaType", "digest", "size", "platform", "annotations"})
_PLATFORM = frozenset({"os", "architecture", "variant", "os.version", "os.features", "features"})
_SYSTEMS = frozenset({"linux", "windows", "darwin", "freebsd", "unknown"})
_ARCHITECTURES = frozenset(
    {"386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x", "unknown"}
)
#: what an engine of this platform runs where the index has nothing for the platform itself
_ALSO_RUNS = {"linux/amd64": "linux/386", "linux/arm64": "linux/arm"}
#: variants that every engine of this platform takes for its own, besides none
_COMMON_VARIANTS = {"linux/arm64": frozenset({"", "v8"}), "linux/arm": frozenset({"", "v5", "v6", "v7", "v8"})}
_MOST = 8  # images of one index that an engine may choose from


def own_manifest(index: bytes, platform: str) -> Digest | None:
    """Return the digest of the one manifest for the platform; None where there is none, more than one, or doubt."""
    try:
        entries = _entries(index)
    except Malformed:
        return None
    if not all(map(_is_plain, entries)):
        return None
    fitting = [one for one in entries if _name(one["platform"]) == platform]
    return Digest(fitting[0]["digest"]) if len(fitting) == 1 and _is_exact(fitting[0], platform) else None


def may_run(index: bytes, platform: str) -> tuple[Digest, ...]:
    """Return the digests of all images that an engine of the platform may choose, none where the index has none.

    Raises Malformed for an index that can be read in several ways, or that leaves too much open.
    """
    if (own := own_manifest(index, platform)) is not None:
        return (own,)
    wanted = {platform, _ALSO_RUNS.get(platform, platform)}
    found = dict.fromkeys(
        _digest(one) for one in _entries(index) if not _is_plain(one) or _name(one["platform"]) in wanted
    )
    if len(found) > _MOST:
        raise Malformed(f"has {len(found)} images that an engine for {platform} may choose from; {_MOST} are the most")
    return tuple(found)


def _entries(index: bytes) -> list[Mapping[str, Any]]:
    """Return the entries. Raises Malformed where another reader may find others, or read them in another way."""
    found = parse_object(index)
    entries = found.get("manifests")
    if not found.keys() <= _INDEX or not isinstance(entries, list):
        raise Malformed("is no plain index of images")
    for entry in entries:
        if not isinstance(entry, Mapping) or not _is_read_alike(entry, _ENTRY):
            raise Malformed("has an entry that can be read in several ways")
    return entries


def _is_read_alike(found: Mapping[str, Any], names: frozenset[str]) -> bool:
    """Tell whether readers that do not care for the case of names find the same members."""
    folded = {name.casefold() for name in names}
    return all(name in names or name.casefold() not in folded for name in found)


def _digest(entry: Mapping[str, Any]) -> Digest:
    digest = entry.get("digest")
    if not isinstance(digest, str) or not is_digest(digest):
        raise Malformed("has an entry without a digest")
    if entry.get("mediaType") not in MANIFESTS:
        raise Malformed(f"lists {digest}, which is not the manifest of one image")
    return Digest(digest)


def _is_plain(entry: Mapping[str, Any]) -> bool:
    """Tell whether all readers agree for which platform it is."""
    if not entry.keys() <= _ENTRY or not is_digest(str(entry.get("digest"))):
        return False
    named = entry.get("platform")
    return (
        isinstance(named, Mapping)
        and named.keys() <= _PLATFORM
        and _is_text_of(named.get("os"), _SYSTEMS)
        and _is_text_of(named.get("architecture"), _ARCHITECTURES)
    )


def _is_exact(entry: Mapping[str, Any], platform: str) -> bool:
    """Tell whether every engine of the platform takes this one before any other."""
    named = entry["platform"]
    return (
        entry.get("mediaType") in MANIFESTS
        and named.keys() <= {"os", "architecture", "variant"}
        and _is_text_of(named.get("variant", ""), _COMMON_VARIANTS.get(platform, frozenset({""})))
    )


def _is_text_of(value: object, texts: frozenset[str]) -> bool:
    return isinstance(value, str) and value in texts


def _name(platform: Mapping[str, object]) -> str:
    return f"{platform['os']}/{platform['architecture']}"
