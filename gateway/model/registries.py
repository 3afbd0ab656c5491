"""Registries: credentials, trusted certificates, and which image they belong to. It performs no I/O."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self, TypeAlias, TypeVar
from urllib.parse import urlsplit

from gateway.model.ecr import AwsIdentity, region_of
from gateway.model.errors import Code, Failed, InvalidInput, Unavailable
from gateway.model.reference import DOCKER_HUB, Domain, Repository, parse_domain

T = TypeVar("T")

_API_VERSION = re.compile(r"^v[12]/")
# Host names that users copy from the address bar of a browser.
_HUB_PAGES = frozenset({"hub.docker.com", "www.docker.com", "docker.com"})
_DEFAULT_PORTS = {"https": ":443", "http": ":80"}


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and password. The password is left out of `repr`, and so out of logs."""

    username: str
    password: str = field(repr=False)
    #: None: they do not expire
    expires_at: datetime | None = None


def parse_credentials(username: str, password: str) -> Credentials:
    """Strip what was typed or pasted: like `docker login --password-stdin`, drop a line break after the password."""
    return Credentials(username.strip(), password.rstrip("\r\n"))


#: Returns the credentials for a registry, None for anonymous access. Given credentials that the registry has denied, it
#: returns other ones, or None where there are none.
CredentialsProvider: TypeAlias = Callable[[Credentials | None], Awaitable[Credentials | None]]


async def anonymous(_refused: Credentials | None) -> None:
    """Provide no login: the registry is asked anonymously."""


async def call_with_credentials(obtain: CredentialsProvider, act: Callable[[Credentials | None], Awaitable[T]]) -> T:
    """Call `act` with credentials. If they are denied and `obtain` has other ones by then, call it once more."""
    credentials = await obtain(None)
    try:
        return await act(credentials)
    except Failed as error:
        if error.reason.code is not Code.DENIED or credentials is None:
            raise
        other = await obtain(credentials)
        if other is None:
            raise
    return await act(other)


@dataclass(frozen=True, slots=True)
class RegistryScope:
    """The images that credentials are for: all of a domain, or those below a path of it."""

    domain: Domain
    path: str = ""

    @classmethod
    def parse(cls, registry_url: str) -> Self:
        """Parse a registry as users write it. Raises InvalidInput.

        `https://index.docker.io/v1/`, `docker.io` and "" are Docker Hub, `ghcr.io/acme` is a path of GHCR.
        """
        text = registry_url.strip()
        if not text:
            return cls(DOCKER_HUB)
        try:
            parts = urlsplit(text if "://" in text else f"//{text}")
        except ValueError as error:
            # The message repeats neither it nor the parser's error: both may contain a password.
            raise InvalidInput(
                "that is not a registry's address, for example ghcr.io or https://index.docker.io/v1/"
            ) from error
        if "@" in parts.netloc:  # not repeated here, as a password may stand in it
            raise InvalidInput("a registry's address cannot contain credentials: give username and password separately")
        if parts.scheme not in {"", "http", "https"} or parts.query or parts.fragment:
            raise InvalidInput(f"{text!r} is not a registry, for example ghcr.io or https://index.docker.io/v1/")
        path, host = parts.path.strip("/"), parts.netloc
        # "v1" and "v2" are the API's versions, which `docker login` addresses carry, never a path of images.
        path = "" if path in {"v1", "v2"} else path
        if parts.scheme:
            path, host = _API_VERSION.sub("", path), host.removesuffix(_DEFAULT_PORTS[parts.scheme])
        domain = DOCKER_HUB if host.lower() in _HUB_PAGES else parse_domain(host)
        if path:
            Repository.of(domain, path)
        return cls(domain, path)

    def covers(self, repository: Repository) -> bool:
        below = not self.path or (repository.path + "/").startswith(self.path + "/")
        return self.domain == repository.domain and below

    def __str__(self) -> str:
        return f"{self.domain}/{self.path}" if self.path else self.domain


class RegistryType(StrEnum):
    """The kind of login at a registry."""

    CLOUD = "cloud"  # a user name and a password, or a token in its place
    ECR = "ecr"  # tokens of Amazon's, fetched and renewed


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """The settings of a registry."""

    registry_name: str
    registry_url: str
    registry_type: RegistryType
    image_prefix: str | None
    scope: RegistryScope
    #: None if only its certificate is registered
    login: Credentials | AwsIdentity | None
    #: PEM certificates that are trusted besides those of the system
    ca_certificates: str | None = None

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Self:
        """Parse the fields of `registry.create` in snake case. Raises InvalidInput naming the wrong field."""
        try:
            scope = RegistryScope.parse(given.get("registry_url") or "")
        except InvalidInput as error:
            raise InvalidInput(str(error), field="registryUrl") from error
        registry_type = RegistryType(given.get("registry_type") or RegistryType.CLOUD)
        authority = parse_ca_certificates(given["ca_certificate"]) if given.get("ca_certificate") else None
        if registry_type is RegistryType.ECR:
            login: Credentials | AwsIdentity | None = AwsIdentity.parse(scope.domain, _with_aws_keys(given))
        else:
            login = _parse_login(given, optional=authority is not None)
        return cls(
            registry_name=given["registry_name"],
            registry_url=given.get("registry_url") or "",
            registry_type=registry_type,
            image_prefix=given.get("image_prefix"),
            scope=scope,
            login=login,
            ca_certificates=authority,
        )

    def fields(self) -> dict[str, Any]:
        """Return the fields that `parse` accepts."""
        login = self.login
        own: dict[str, Any] = {}
        if isinstance(login, AwsIdentity):
            in_host_name = region_of(self.scope.domain) is not None
            own = {name: getattr(login, name) for name in _AWS_FIELDS if not (in_host_name and name == "region")}
        elif login is not None:
            own = {"username": login.username, "password": login.password}
        return own | {
            "registry_name": self.registry_name,
            "registry_url": self.registry_url,
            "registry_type": self.registry_type,
            "image_prefix": self.image_prefix,
            "ca_certificate": self.ca_certificates,
        }

    @property
    def login_description(self) -> str:
        """Describe the credentials, for messages."""
        address = self.registry_url or self.scope.domain
        match self.login:
            case None:
                return "without a login"
            case AwsIdentity():
                return f"with a token for the registry {self.registry_name!r} ({address}, as {self.login})"
            case Credentials():
                user = self.login.username
                return f"with the login of the registry {self.registry_name!r} ({address}, user {user})"


_AWS_FIELDS = ("region", "access_key_id", "secret_access_key", "profile", "role_arn", "external_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry(Registration):
    """A registered registry, whose credentials are used for all applications."""

    registry_id: str
    created_at: datetime
    #: why `login` has no password, if no master key decrypts it
    unreadable: str | None = None


def _parse_login(given: Mapping[str, Any], *, optional: bool) -> Credentials | None:
    login = parse_credentials(str(given.get("username") or ""), str(given.get("password") or ""))
    if optional and not login.username and not login.password:
        return None
    for name, value in (("username", login.username), ("password", login.password)):
        if not value:
            raise InvalidInput(f"{name} is needed", field=name)
    if ":" in login.username:
        raise InvalidInput("a user name cannot contain a colon", field="username")
    return login


def _with_aws_keys(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Accept access keys that a client sends as user name and password."""
    username = str(given.get("username") or "").strip()
    if given.get("access_key_id") or not username:
        return given
    if username == "AWS":
        raise InvalidInput(
            "the user AWS with a token is for type cloud; for ecr give accessKeyId and secretAccessKey, a profile, or "
            "nothing to use the instance role",
            field="username",
        )
    return {**given, "access_key_id": username, "secret_access_key": given.get("password")}


def parse_ca_certificates(pem: str) -> str:
    """Check PEM certificates and return them. Raises InvalidInput."""
    if "PRIVATE KEY" in pem:
        raise InvalidInput("give only certificates: this contains a private key", field="caCertificate")
    from cryptography import x509

    try:
        x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise InvalidInput(
            "give certificates in PEM format, beginning with -----BEGIN CERTIFICATE-----", field="caCertificate"
        ) from error
    return pem.strip() + "\n"


@dataclass(frozen=True, slots=True)
class Login:
    """The credentials for a request to a registry. `origin` names them; `withheld` says what was not sent, and why."""

    credentials: Credentials | AwsIdentity | None = None
    origin: str = "without a login"
    withheld: str = ""
    #: PEM certificates that are trusted besides those of the system
    ca_certificates: str | None = None

    @property
    def expires(self) -> bool:
        """Whether the credentials expire and are renewed."""
        return isinstance(self.credentials, AwsIdentity)

    @property
    def description(self) -> str:
        return f"{self.origin}; {self.withheld}" if self.withheld else self.origin


ANONYMOUS = Login()


def select_login(
    repository: Repository, own: tuple[RegistryScope | None, Credentials] | None, registries: Iterable[Registry]
) -> Login:
    """Return the credentials for `repository`: the application's own if they fit, otherwise the most specific registry.

    Own credentials without a known registry belong to that of the image. They are never sent to another registry.
    Raises Unavailable if the password that fits cannot be decrypted.
    """
    there = [registry for registry in registries if registry.scope.domain == repository.domain]
    authority = "".join(registry.ca_certificates for registry in there if registry.ca_certificates) or None
    withheld = []
    if own is not None:
        scope, credentials = own
        if scope is None or scope.covers(repository):
            return Login(credentials, f"with the application's own login (user {credentials.username})", "", authority)
        withheld.append(f"the application's own login was not sent, since it was given for {scope}")
    fitting = [registry for registry in there if registry.login and registry.scope.covers(repository)]
    if fitting:
        nearest = max(fitting, key=lambda registry: (len(registry.scope.path), registry.created_at))
        if nearest.unreadable is not None:
            raise Unavailable(nearest.unreadable)
        return Login(nearest.login, nearest.login_description, "; ".join(withheld), authority)
    return Login(None, "without a login", "; ".join([*withheld, *_other_scopes(there)]), authority)


def _other_scopes(there: Sequence[Registry]) -> list[str]:
    return [
        f"the registry {one.registry_name!r} is for {one.scope} only" for one in there if one.login and one.scope.path
    ]
