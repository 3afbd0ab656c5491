"""Applications and their subscriptions. It performs no I/O."""

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
    """The state that a user last requested."""

    RUNNING = "running"
    STOPPED = "stopped"
    DELETED = "deleted"


def parse_environment(text: str) -> dict[str, str]:
    r"""Parse dotenv text, including quoted values over several lines. Raises InvalidInput naming the line.

    In a text of one line, a literal `\n` between two variables separates them: `A=1\nB=2`.
    """
    variables = parse_variables(_split_escaped_lines(text))
    if any("\0" in word for pair in variables.items() for word in pair):
        raise InvalidInput("a variable contains a zero byte", field="env")
    return variables


def _split_escaped_lines(text: str) -> str:
    r"""Replace a literal `\n` before a variable by a line break, but not in quotes or in a path like `C:\new`."""
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


def parse_app_name(text: str) -> str:
    if not _APP_NAME.fullmatch(text):
        raise InvalidInput(
            f"{text!r} is not a valid container name: lower-case letters, digits and . _ -, from 2 to 63",
            field="appName",
        )
    return text


def login_registry(registry_url: str | None, docker_image: str | None) -> Domain | None:
    """Return the registry that credentials next to these fields belong to, or None."""
    if registry_url:
        return RegistryScope.parse(registry_url).domain
    return Reference.parse(docker_image).repository.domain if docker_image else None


#: Dokploy columns that may contain secrets
SECRET_DOKPLOY_COLUMNS = ("buildArgs", "buildSecrets", "previewEnv", "previewBuildArgs", "previewBuildSecrets")

# Fields of a configuration on how one version replaces another. They do not change the container.
_ROLLOUT_FIELDS = {
    "stop_grace", "order", "runtime", "drain", "kept", "probe", "health_deadline", "stable_window", "watch", "replicas",
    "mode_swarm",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Application:
    """An application. Secrets are in plain text here, and left out of `repr`."""

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
    #: the server where it is first deployed; None: the gateway's own engine
    server_id: str | None
    #: the engine it is bound to since then
    engine_id: str | None
    created_at: datetime
    #: what it was adopted with; the other fields override it
    adopted_spec: AdoptedSpec | None = None
    #: None only while it is being deleted
    environment_id: str | None = None
    #: `environment` with its references resolved; None if it has none
    resolved_variables: Mapping[str, str] | None = field(default=None, repr=False)
    #: as it was set; without a password there are no credentials
    username: str | None = None
    #: id of the database; containers and services carry it as a label
    installation_id: str = ""
    #: when that was restored from a backup; None: never
    restored_at: datetime | None = None
    #: deployments whose containers may not carry that label yet
    unlabelled_deployments: frozenset[str] = field(default=frozenset(), repr=False)
    #: for a rollout: the id of the container that a deployment let serve, by deployment; None: not recorded (yet)
    recorded_containers: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    #: the registry that the password belongs to; it is sent to no other one
    password_for: Domain | None = None
    has_password: bool = False
    #: whether it, its environment or its project has gates; where it is read alone
    gated: bool = False

    @property
    def variables(self) -> Mapping[str, str]:
        """The environment variables of its containers."""
        return parse_environment(self.environment or "") if self.resolved_variables is None else self.resolved_variables

    def as_adopted(self) -> Self:
        """Return it as it was adopted, without later settings except those of the rollout."""
        kept = self.configuration.model_dump(include=_ROLLOUT_FIELDS, exclude_defaults=True)
        return replace(self, environment=None, resolved_variables=None, configuration=Configuration(**kept))

    @property
    def reference(self) -> Reference | None:
        return None if self.docker_image is None else Reference.parse(self.docker_image)

    @property
    def own_login(self) -> tuple[RegistryScope | None, Credentials] | None:
        """Its credentials and the images they are for: those of one registry, or below a path of it."""
        if self.credentials is None:
            return None
        chosen = RegistryScope.parse(self.registry_url) if self.registry_url else None
        if self.password_for is None or (chosen is not None and chosen.domain == self.password_for):
            return chosen, self.credentials
        return RegistryScope(self.password_for), self.credentials

    @property
    def registry(self) -> Domain | None:
        """The registry that new credentials would belong to: registryUrl, otherwise that of the image."""
        return login_registry(self.registry_url, self.docker_image)


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription of an application to the tags of a repository that match a tag policy."""

    subscription_id: str
    application_id: str
    repository: Repository
    policy: TagPolicy
    #: derived from the application's image, and changes with it
    from_image: bool
    created_at: datetime
    #: seconds between polls for missed pushes; 0: never, None: the interval of the registry
    poll_interval: int | None = None
