"""The commit from which an image was built, as its labels, a push or a call name it. It performs no I/O.

Whoever builds an image, pushes it or has it deployed chooses what they say: they are believed only as far as the
alert's own host and repositories.
https://github.com/opencontainers/image-spec/blob/main/annotations.md
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from yarl import URL

SOURCE = "org.opencontainers.image.source"
REVISION = "org.opencontainers.image.revision"

_REVISION = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_SSH = re.compile(r"(?:[A-Za-z0-9_.-]+@)?([A-Za-z0-9.-]+):(?!//)(.+)")
_LONGEST = 2000  # characters
_MOST_PARTS = 20


def origin_of(source: object, revision: object) -> dict[str, str] | None:
    """Return what somebody says of an image's origin in the form of its labels; None unless it names a commit.

    Only the commit is taken over: what else stands in an address may be too strange to be stored.

    >>> origin_of("git@github.com:acme/web.git", "a" * 40)[SOURCE]
    'https://github.com/acme/web'
    """
    if not isinstance(source, str) or not isinstance(revision, str):
        return None
    commit = parse_commit({SOURCE: source, REVISION: revision})
    return None if commit is None else {SOURCE: f"https://{commit.host}/{commit.path}", REVISION: commit.revision}


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit of a repository. `host` has a port only where the address of the source has one of the web."""

    host: str
    path: str
    revision: str

    @property
    def owner(self) -> str:
        return self.path.partition("/")[0]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def parse_commit(labels: Mapping[str, str]) -> Commit | None:
    """Return the commit that the labels name, None where they name none in full.

    >>> parse_commit({SOURCE: "git@github.com:acme/web.git", REVISION: "a" * 40}).path
    'acme/web'
    """
    source, revision = labels.get(SOURCE, "").strip(), labels.get(REVISION, "").strip().lower()
    if not _REVISION.fullmatch(revision) or len(source) > _LONGEST:
        return None
    place = _place(source)
    if place is None:
        return None
    host, path = place
    parts = path.strip("/").removesuffix(".git").split("/")
    if not 2 <= len(parts) <= _MOST_PARTS or not all(_PART.fullmatch(one) and ".." not in one for one in parts):  # noqa: PLR2004
        return None
    return Commit(host.lower(), "/".join(parts), revision)


def _place(source: str) -> tuple[str, str] | None:
    if "://" not in source:
        found = _SSH.fullmatch(source)
        return None if found is None else (found[1], found[2])
    try:
        url = URL(source.removeprefix("git+"))
        host, port, path = url.host_subcomponent, url.port, url.raw_path
    except ValueError:
        return None
    if not host:
        return None
    if url.scheme in {"http", "https"}:
        return host if url.is_default_port() else f"{host}:{port}", path
    return (host, path) if url.scheme in {"ssh", "git"} else None


def is_of_host(commit: Commit, address: URL) -> bool:
    """Tell whether the commit is at the host of this address."""
    host = (address.host_subcomponent or "").lower()
    own = host if address.is_default_port() else f"{host}:{address.port}"
    return commit.host == own


def is_among(commit: Commit, repositories: Sequence[str]) -> bool:
    """Tell whether the repository is one of these, which may have `*`; without any, all are."""
    path = commit.path.lower()
    return not repositories or any(fnmatchcase(path, one.lower()) for one in repositories)
