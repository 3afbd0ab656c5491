"""Which login goes with which image. It performs no I/O."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlsplit

from gateway.errors import InvalidInput
from gateway.reference import DOCKER_HUB, Domain, Repository, parse_domain


@dataclass(frozen=True, slots=True)
class Credentials:
    """A login. The password is kept out of `repr`, and so out of logs."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Scope:
    """The images a login is for: all of a domain, or those below a path of it."""

    domain: Domain
    path: str = ""

    @classmethod
    def parse(cls, registry_url: str) -> "Scope":
        """Parse what people write for a registry; raises InvalidInput.

        `https://index.docker.io/v1/`, `docker.io` and "" are Docker Hub, `ghcr.io/acme` is a path of GHCR.
        """
        text = registry_url.strip()
        if not text:
            return cls(DOCKER_HUB)
        try:
            parts = urlsplit(text if "://" in text else f"//{text}")
        except ValueError as error:
            raise InvalidInput(f"{text!r} is not a registry's address: {error}") from error
        if parts.scheme not in {"", "http", "https"} or parts.query or parts.fragment or "@" in parts.netloc:
            raise InvalidInput(f"{text!r} is not a registry, as in ghcr.io or https://index.docker.io/v1/")
        path = parts.path.strip("/")
        # "v1" and "v2" are the API's versions, which `docker login` addresses carry, never a path of images.
        path = "" if path in {"v1", "v2"} else path
        domain = parse_domain(parts.netloc)
        if path:
            Repository.of(domain, path)
        return cls(domain, path)

    def covers(self, repository: Repository) -> bool:
        below = not self.path or (repository.path + "/").startswith(self.path + "/")
        return self.domain == repository.domain and below


@dataclass(frozen=True, slots=True)
class Registry:
    """A login that is kept for all applications."""

    registry_id: str
    registry_name: str
    registry_url: str
    registry_type: str
    image_prefix: str | None
    scope: Scope
    credentials: Credentials
    created_at: datetime


def choose(
    repository: Repository, own: tuple[Scope | None, Credentials] | None, kept: Iterable[Registry]
) -> Credentials | None:
    """Return the login for `repository`: the application's own where it fits, else the nearest kept one.

    An own login without a registry is meant for the image's own; one for another registry is never sent.
    """
    if own is not None:
        scope, credentials = own
        if scope is None or scope.covers(repository):
            return credentials
    fitting = [registry for registry in kept if registry.scope.covers(repository)]
    if not fitting:
        return None
    return max(fitting, key=lambda registry: (len(registry.scope.path), registry.created_at)).credentials
