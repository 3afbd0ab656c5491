"""Which login goes with which image, and whom we trust there. It performs no I/O."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self, TypeAlias, TypeVar
from urllib.parse import urlsplit

from cryptography import x509

from gateway.model.ecr import AwsIdentity, region_of
from gateway.model.errors import Code, Failed, InvalidInput, Unavailable
from gateway.model.reference import DOCKER_HUB, Domain, Repository, parse_domain

T = TypeVar("T")

_API_VERSION = re.compile(r"^v[12]/")
# What people copy from a browser's address bar.
_HUB_PAGES = frozenset({"hub.docker.com", "www.docker.com", "docker.com"})
_DEFAULT_PORTS = {"https": ":443", "http": ":80"}


@dataclass(frozen=True, slots=True)
class Credentials:
    """A login. The password is kept out of `repr`, and so out of logs."""

    username: str
    password: str = field(repr=False)
    #: None: they last until somebody changes them
    expires_at: datetime | None = None


def parse_credentials(username: str, password: str) -> Credentials:
    """Return a login as somebody typed or pasted it: as in `docker login --password-stdin`, a line's end is no part."""
    return Credentials(username.strip(), password.rstrip("\r\n"))


#: Returns the credentials for a registry, None for anonymous access. Given credentials that the registry has denied, it
#: returns other ones, or None where there are none.
CredentialsProvider: TypeAlias = Callable[[Credentials | None], Awaitable[Credentials | None]]


async def anonymous(_refused: Credentials | None) -> None:
    """Provide no login: the registry is asked anonymously."""


async def retry_with_new_credentials(
    obtain: CredentialsProvider, act: Callable[[Credentials | None], Awaitable[T]]
) -> T:
    """Do it with the login; again with another one, where that was denied and there is another by now."""
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
    """The images a login is for: all of a domain, or those below a path of it."""

    domain: Domain
    path: str = ""

    @classmethod
    def parse(cls, registry_url: str) -> Self:
        """Parse what people write for a registry; raises InvalidInput.

        `https://index.docker.io/v1/`, `docker.io` and "" are Docker Hub, `ghcr.io/acme` is a path of GHCR.
        """
        text = registry_url.strip()
        if not text:
            return cls(DOCKER_HUB)
        try:
            parts = urlsplit(text if "://" in text else f"//{text}")
        except ValueError as error:
            # Not repeated, nor the parser's words on it: a password may stand in it.
            raise InvalidInput(
                "that is not a registry's address, as in ghcr.io or https://index.docker.io/v1/"
            ) from error
        if "@" in parts.netloc:  # not repeated here, as a password may stand in it
            raise InvalidInput("a registry's address holds no login: give username and password beside it")
        if parts.scheme not in {"", "http", "https"} or parts.query or parts.fragment:
            raise InvalidInput(f"{text!r} is not a registry, as in ghcr.io or https://index.docker.io/v1/")
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
    """How its login is come by."""

    CLOUD = "cloud"  # a user name and a password, or a token in its place
    ECR = "ecr"  # tokens of Amazon's, fetched and renewed


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What somebody said of a registry."""

    registry_name: str
    registry_url: str
    registry_type: RegistryType
    image_prefix: str | None
    scope: RegistryScope
    #: None where only its certificate is to be trusted
    login: Credentials | AwsIdentity | None
    #: certificates, PEM, that are trusted there besides those of the system
    ca_certificates: str | None = None

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Self:
        """Parse the fields of `registry.create`, in our spelling; raises InvalidInput naming the one that is wrong."""
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
        """Return what `parse` took."""
        login = self.login
        own: dict[str, Any] = {}
        if isinstance(login, AwsIdentity):
            told = region_of(self.scope.domain) is not None
            own = {name: getattr(login, name) for name in _AWS_FIELDS if not (told and name == "region")}
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
        """Say whose login it is."""
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
    """A login that is kept for all applications."""

    registry_id: str
    created_at: datetime
    #: why its login is without a password, where no key opens that
    unreadable: str | None = None


def _parse_login(given: Mapping[str, Any], *, optional: bool) -> Credentials | None:
    login = parse_credentials(str(given.get("username") or ""), str(given.get("password") or ""))
    if optional and not login.username and not login.password:
        return None
    for name, value in (("username", login.username), ("password", login.password)):
        if not value:
            raise InvalidInput(f"{name} is needed", field=name)
    if ":" in login.username:
        raise InvalidInput("a user name has no colon", field="username")
    return login


def _with_aws_keys(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields with the keys where some send them: as user name and password."""
    username = str(given.get("username") or "").strip()
    if given.get("access_key_id") or not username:
        return given
    if username == "AWS":
        raise InvalidInput(
            "AWS and a token are a login of type cloud; for ecr give accessKeyId and secretAccessKey, a profile, or "
            "nothing for the machine's own role",
            field="username",
        )
    return {**given, "access_key_id": username, "secret_access_key": given.get("password")}


def parse_ca_certificates(pem: str) -> str:
    """Return certificates as they were given; raises InvalidInput where they are none."""
    if "PRIVATE KEY" in pem:
        raise InvalidInput("a certificate is needed, and this has a private key in it", field="caCertificate")
    try:
        x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise InvalidInput(
            "a certificate is needed, PEM: -----BEGIN CERTIFICATE----- and what follows", field="caCertificate"
        ) from error
    return pem.strip() + "\n"


@dataclass(frozen=True, slots=True)
class Login:
    """With what a registry is asked. `whose` says it in an error; `withheld`, what was not sent, and why."""

    credentials: Credentials | AwsIdentity | None = None
    origin: str = "without a login"
    withheld: str = ""
    #: certificates, PEM, that are trusted there besides those of the system
    ca_certificates: str | None = None

    @property
    def expires(self) -> bool:
        """Tell whether it is good for a while only, and is renewed."""
        return isinstance(self.credentials, AwsIdentity)

    @property
    def description(self) -> str:
        return f"{self.origin}; {self.withheld}" if self.withheld else self.origin


ANONYMOUS = Login()


def select_login(
    repository: Repository, own: tuple[RegistryScope | None, Credentials] | None, kept: Iterable[Registry]
) -> Login:
    """Return the login for `repository`: the application's own where it fits, else the nearest kept one.

    An own login of which that is not known is meant for the image's own registry; one for another is never sent.
    Raises Unavailable where the password of that which fits cannot be read.
    """
    there = [registry for registry in kept if registry.scope.domain == repository.domain]
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
