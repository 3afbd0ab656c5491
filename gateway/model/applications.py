"""What the gateway keeps running, and what it runs with. It performs no I/O."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Self

from gateway.model.adoption import AdoptedSpec
from gateway.model.configuration import Configuration
from gateway.model.dotenv import parse_variables
from gateway.model.errors import InvalidInput
from gateway.model.reference import Domain, Reference, Repository
from gateway.model.registries import Credentials, RegistryScope
from gateway.model.tag_policies import TagPolicy

_SIGN = re.compile(r"""\\.|["']""")
_VARIABLE = re.compile(r"\s*(?:export\s+)?[A-Za-z_][A-Za-z0-9_.]*=")
_APP_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{1,62}")


class Desired(StrEnum):
    """What a person last asked for."""

    RUNNING = "running"
    STOPPED = "stopped"
    DELETED = "deleted"


def parse_environment(text: str) -> dict[str, str]:
    r"""Parse dotenv text, values quoted over several lines too; raises InvalidInput naming the line.

    Written in one line, a backslash and an n between two variables is the end of the first: `A=1\nB=2`.
    """
    variables = parse_variables(_split_escaped_lines(text))
    if any("\0" in word for pair in variables.items() for word in pair):
        raise InvalidInput("a variable holds a zero byte", field="env")
    return variables


def _split_escaped_lines(text: str) -> str:
    r"""Return it with a line for each variable. A quoted value may hold what looks like one, and a path is `C:\new`."""
    if "\n" in text.strip():
        return text
    lines, begin, quote = [], 0, ""
    for found in _SIGN.finditer(text):
        sign, at = found[0], found.start()
        if quote:
            quote = "" if sign == quote else quote
        elif sign in {'"', "'"} and text[at - 1 : at] == "=":
            quote = sign
        elif sign == "\\n" and _VARIABLE.match(text, found.end()):
            lines.append(text[begin:at])
            begin = found.end()
    return "\n".join([*lines, text[begin:]])


def slug(name: str) -> str:
    """Make a container's name of an application's: `Production API` is `production-api`."""
    made = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:50]
    return made if len(made) > 1 else f"app-{made}".rstrip("-")


def parse_app_name(text: str) -> str:
    if not _APP_NAME.fullmatch(text):
        raise InvalidInput(
            f"{text!r} is not a container's name: lower-case letters, digits and . _ -, from 2 to 63",
            field="appName",
        )
    return text


def login_registry(registry_url: str | None, docker_image: str | None) -> Domain | None:
    """Return the registry that a login beside these is for; None where neither names one."""
    if registry_url:
        return RegistryScope.parse(registry_url).domain
    return Reference.parse(docker_image).repository.domain if docker_image else None


#: other columns that may be secret
SECRET_DOKPLOY_COLUMNS = ("buildArgs", "buildSecrets", "previewEnv", "previewBuildArgs", "previewBuildSecrets")

# Of a configuration: what says how one version takes the place of another, and nothing of what runs.
_ROLLOUT_FIELDS = {
    "stop_grace", "order", "runtime", "drain", "kept", "probe", "health_deadline", "stable_window", "watch", "replicas",
    "mode_swarm",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Application:
    """What is kept running. Secrets are in clear here and kept out of `repr`."""

    application_id: str
    name: str
    app_name: str
    description: str | None
    docker_image: str | None
    registry_url: str | None
    credentials: Credentials | None
    environment: str | None = field(repr=False)
    configuration: Configuration
    other_columns: dict[str, object] = field(repr=False)
    auto_deploy: bool
    desired: Desired
    #: where it is deployed first; None is the gateway's own engine
    server_id: str | None
    #: which it is bound to since
    engine_id: str | None
    created_at: datetime
    #: what it was adopted with; the columns lie over it
    adopted_spec: AdoptedSpec | None = None
    #: where it belongs; None only while it is being deleted
    environment_id: str | None = None
    #: the environment's, with what they name put in; None where they name nothing
    resolved_variables: Mapping[str, str] | None = field(default=None, repr=False)
    #: as it was set; no login without a password
    username: str | None = None
    #: the database it is kept in, which what is made of it on an engine bears the id of
    installation_id: str = ""
    #: its deployments of which something may be there that does not bear that id yet
    unlabelled_deployments: frozenset[str] = field(default=frozenset(), repr=False)
    #: the registry that the password was given for; it is sent to no other
    password_for: Domain | None = None
    has_password: bool = False

    @property
    def variables(self) -> Mapping[str, str]:
        """What it is given as environment variables."""
        return parse_environment(self.environment or "") if self.resolved_variables is None else self.resolved_variables

    def as_adopted(self) -> Self:
        """Return it as it was adopted, before any column was set; how it is replaced stays as it was chosen."""
        kept = self.configuration.model_dump(include=_ROLLOUT_FIELDS, exclude_defaults=True)
        return replace(self, environment=None, resolved_variables=None, configuration=Configuration(**kept))

    @property
    def reference(self) -> Reference | None:
        return None if self.docker_image is None else Reference.parse(self.docker_image)

    @property
    def own_login(self) -> tuple[RegistryScope | None, Credentials] | None:
        """The login, and the images it is for: those of the registry it was given for, or below a path of it."""
        if self.credentials is None:
            return None
        chosen = RegistryScope.parse(self.registry_url) if self.registry_url else None
        if self.password_for is None or (chosen is not None and chosen.domain == self.password_for):
            return chosen, self.credentials
        return RegistryScope(self.password_for), self.credentials

    @property
    def registry(self) -> Domain | None:
        """The registry that a login given now is for: the one that is named, else the image's."""
        return login_registry(self.registry_url, self.docker_image)


@dataclass(frozen=True, slots=True)
class Subscription:
    """That an application follows a repository, by a policy."""

    subscription_id: str
    application_id: str
    repository: Repository
    policy: TagPolicy
    #: made from the application's image, and moves with it
    from_image: bool
    created_at: datetime
    #: seconds between looks for missed pushes of what the application follows; 0 is never, None as its registry
    poll_interval: int | None = None
