r"""Image names, validated and normalised by parsing.

    reference   := repository [":" tag] ["@" digest]
    repository  := [domain "/"] path
    domain      := host [":" port]                  has a "." or ":" or upper case, or is "localhost"
    path        := component ("/" component)*       lower case
    component   := [a-z0-9]+ (separator [a-z0-9]+)*
    separator   := "." | "_" | "__" | "-"+
    tag         := [A-Za-z0-9_][A-Za-z0-9_.-]{0,127}
    digest      := "sha256:" hex{64}

See https://github.com/distribution/reference. Names are normalised like Docker does: `nginx` is
`docker.io/library/nginx`, `index.docker.io` is `docker.io`, and a name alone means `:latest`.

>>> str(Reference.parse("nginx"))
'docker.io/library/nginx:latest'
>>> Reference.parse("reg:5000/app").repository.domain
'reg:5000'
>>> Reference.parse("app:16").tag
'16'
"""

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NewType, Self

from gateway.model.errors import InvalidInput

Domain = NewType("Domain", str)
Tag = NewType("Tag", str)
Digest = NewType("Digest", str)

# Docker Hub's index had its own host name; since 2015 its images are named docker.io.
DOCKER_HUB = Domain("docker.io")
_HUB_ALIASES = frozenset({"index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
LATEST = Tag("latest")

_MAX_NAME_LENGTH = 255
_MAX_TAG_LENGTH = 128
_MAX_PORT = 65_535
_MAX_REFERENCE_LENGTH = len("/") + 2 * _MAX_NAME_LENGTH + len(":") + _MAX_TAG_LENGTH + len("@sha256:") + 64

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::(?P<port>[0-9]{{1,5}}))?")
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_REPOSITORY = "at most 255 lower-case letters and digits, parted by single . _ - or /"
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@lru_cache(maxsize=1024)
def parse_domain(text: str) -> Domain:
    """Return the canonical domain of a registry's host name. Raises InvalidInput."""
    lowered = text.lower()
    # A bare word before a "/" is a user of Docker Hub, so no image could be named on such a host.
    named = "." in text or ":" in text or lowered == "localhost"
    found = _DOMAIN.fullmatch(text) if named and len(text) <= _MAX_NAME_LENGTH else None
    if found is None or int(found["port"] or 0) > _MAX_PORT:
        # A word in upper case can be no user of Docker Hub either: most likely one was meant.
        also = "" if text == lowered or not text.isalnum() else f"; a repository's name has {_REPOSITORY}"
        raise InvalidInput(
            f"{text[:_MAX_NAME_LENGTH]!r} is not a registry's host name, as in ghcr.io or registry:5000{also}"
        )
    return DOCKER_HUB if lowered in _HUB_ALIASES else Domain(lowered)


def split_domain(name: str) -> tuple[str, str]:
    """Split `[domain/]path`. The domain is empty if the name has none, which means Docker Hub."""
    head, slash, tail = name.partition("/")
    named = slash and ("." in head or ":" in head or head == "localhost" or head != head.lower())
    return (head, tail) if named else ("", name)


def is_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None


def parse_tag(text: str) -> Tag:
    if not is_tag(text):
        raise InvalidInput(f"{text[:_MAX_TAG_LENGTH]!r} is not a tag: letters, digits and . _ -, at most 128")
    return Tag(text)


def is_digest(text: str) -> bool:
    return text.startswith("sha256:") and _DIGEST.fullmatch(text) is not None


def parse_digest(text: str) -> Digest:
    if not is_digest(text):
        raise InvalidInput(f"{text[:80]!r} is not a digest: sha256: and 64 hexadecimal digits, lower case")
    return Digest(text)


def replace_tag(name: str, tag: Tag) -> str:
    """Replace the tag or digest of an image's name, without normalising the name.

    >>> replace_tag("reg:5000/app:1@sha256:" + 64 * "a", Tag("2"))
    'reg:5000/app:2'
    """
    head, slash, last = name.partition("@")[0].rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}:{tag}"


@lru_cache(maxsize=4096)
def _canonical(domain: str, path: str) -> tuple[Domain, str]:
    canonical = parse_domain(domain)
    if canonical == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    # The length is checked first, so that matching cannot become slow.
    if len(path) > _MAX_NAME_LENGTH or not _PATH.fullmatch(path):
        raise InvalidInput(f"{path[:_MAX_NAME_LENGTH]!r} is not the name of a repository: {_REPOSITORY}")
    return canonical, path


@dataclass(frozen=True, slots=True, order=True)
class Repository:
    """A repository by its full name `domain/path`, never the short form."""

    domain: Domain
    path: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a name without tag or digest. Raises InvalidInput."""
        domain, path = split_domain(text)
        return cls.of(domain or DOCKER_HUB, path)

    @classmethod
    def of(cls, domain: str, path: str) -> Self:
        """Combine domain and path, which registries send separately. Raises InvalidInput."""
        return cls(*_canonical(domain, path))

    def __str__(self) -> str:
        return f"{self.domain}/{self.path}"


@dataclass(frozen=True, slots=True)
class Reference:
    """An image by tag, by digest, or by both (then the digest decides)."""

    repository: Repository
    tag: Tag | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a name as users write it. Raises InvalidInput."""
        if not text or len(text) > _MAX_REFERENCE_LENGTH:
            raise InvalidInput("the name of an image is needed, for example ghcr.io/acme/app:1.2")
        name, at, digest = text.partition("@")
        head, slash, last = name.rpartition("/")
        last, colon, tag = last.partition(":")
        return cls(
            repository=Repository.parse(head + slash + last),
            tag=parse_tag(tag) if colon else (None if at else LATEST),
            digest=parse_digest(digest) if at else None,
        )

    def with_digest(self, digest: Digest) -> Self:
        return replace(self, digest=digest)

    def without_digest(self) -> Self:
        return replace(self, digest=None)

    @property
    def pinned(self) -> bool:
        return self.digest is not None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"
