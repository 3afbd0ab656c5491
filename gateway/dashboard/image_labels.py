"""What an image says about where it comes from, as links that are safe to show. It performs no I/O.

https://github.com/opencontainers/image-spec/blob/main/annotations.md
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, urlsplit

_PREFIX = "org.opencontainers.image."
_LONGEST = 200  # characters that are shown
_LONGEST_ADDRESS = 2000  # characters
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
#: where commits and tags are, below the address of a repository
_FORGES: Mapping[str, tuple[str, str]] = {
    "github.com": ("/commit/", "/tree/"),
    "gitlab.com": ("/-/commit/", "/-/tree/"),
    "codeberg.org": ("/commit/", "/src/tag/"),
    "bitbucket.org": ("/commits/", "/src/"),
}


@dataclass(frozen=True, slots=True)
class Label:
    """A label of an image. `address` is None where it leads nowhere."""

    name: Literal["version", "revision", "source"]
    text: str
    address: str | None


def read_labels(labels: Mapping[str, str]) -> list[Label]:
    """Return the version, the revision and the source of an image, as far as its labels name them.

    Whoever built the image chose them: only an http address is a link, and only what looks like a commit is one.
    """
    source, page = _address(labels.get(f"{_PREFIX}source")), _address(labels.get(f"{_PREFIX}url"))
    found: list[Label] = []
    if version := labels.get(f"{_PREFIX}version"):
        found.append(Label("version", version[:_LONGEST], _below(source, 1, version) or page))
    if revision := labels.get(f"{_PREFIX}revision"):
        commit = revision if _COMMIT.fullmatch(revision) else None
        found.append(Label("revision", revision[:_LONGEST], _below(source, 0, commit)))
    if stated := labels.get(f"{_PREFIX}source"):
        found.append(Label("source", stated[:_LONGEST], source))
    return found


def _address(text: str | None) -> str | None:
    """Return an absolute http address without a user name; None for any other text."""
    if not text or len(text) > _LONGEST_ADDRESS or not text.isprintable() or " " in text or "\\" in text:
        return None
    try:
        parts = urlsplit(text)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        return None
    fits = parts.scheme in {"http", "https"} and parts.hostname and "@" not in parts.netloc
    return text if fits and port_is_valid else None


def _below(source: str | None, which: int, name: str | None) -> str | None:
    """Return the address of a commit or a tag of a repository, on a forge that is known."""
    if source is None or not name or len(name) > _LONGEST:
        return None
    parts = urlsplit(source)
    paths = _FORGES.get(parts.hostname or "")
    if paths is None or parts.query or parts.fragment or name in {".", ".."}:
        return None
    return source.removesuffix("/").removesuffix(".git") + paths[which] + quote(name, safe="")
