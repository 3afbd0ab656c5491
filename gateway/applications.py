"""What the gateway keeps running, and what it runs with. It performs no I/O."""

import io
import re
import shlex
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, Self

from dotenv.parser import parse_stream
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic.alias_generators import to_camel

from gateway import swarm
from gateway.bases import Base
from gateway.errors import InvalidInput
from gateway.health import HealthCheck, Probe, Seconds
from gateway.policies import Policy
from gateway.quantities import parse_cpus, parse_memory
from gateway.reference import Reference, Repository
from gateway.registries import Credentials, Scope

_APP_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{1,62}")
_LABEL_PREFIX = "gateway."
_LONGEST_COMMAND = 65536
LONGEST_GRACE = 3600  # seconds


class Desired(StrEnum):
    """What a person last asked for."""

    RUNNING = "running"
    STOPPED = "stopped"
    DELETED = "deleted"


class Order(StrEnum):
    """Which of the two is started or stopped first."""

    START_FIRST = "start-first"
    STOP_FIRST = "stop-first"


class RuntimeKind(StrEnum):
    """What an application runs as on its engine."""

    CONTAINER = "container"
    SERVICE = "service"


def parse_environment(text: str) -> dict[str, str]:
    """Parse dotenv text, values quoted over several lines too; raises InvalidInput naming the line."""
    variables: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(text)):
        if binding.error or (binding.key is not None and binding.value is None):
            raise InvalidInput(f"line {binding.original.line} is not NAME=value", field="env")
        if binding.key is not None and binding.value is not None:
            variables[binding.key] = binding.value
    if any("\0" in word for pair in variables.items() for word in pair):
        raise InvalidInput("a variable holds a zero byte", field="env")
    return variables


def parse_command(text: str) -> list[str]:
    """Split a command as a shell would; raises InvalidInput."""
    # Splitting takes the square of a word's length.
    if len(text) > _LONGEST_COMMAND:
        raise InvalidInput(f"a command has at most {_LONGEST_COMMAND} characters", field="command")
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InvalidInput(f"{text!r} cannot be split into words: {error}", field="command") from error


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


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _checked(parse: object) -> AfterValidator:
    def check(text: str) -> str:
        try:
            parse(text)  # type: ignore[operator]  # any of the parsers above
        except InvalidInput as error:
            raise ValueError(str(error)) from error
        return text

    return AfterValidator(check)


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path or ":" in path:
        raise ValueError("an absolute path is needed, without a colon")
    return path


def _no_reserved(labels: dict[str, str]) -> dict[str, str]:
    if any(name.startswith(_LABEL_PREFIX) for name in labels):
        raise ValueError(f"labels that begin with {_LABEL_PREFIX!r} are the gateway's own")
    return labels


def _auto_is_none(value: object) -> object:
    return None if value == "auto" else value


def _no_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number is needed")  # noqa: TRY004 - pydantic tells of a ValueError
    return value


_AUTO = BeforeValidator(_auto_is_none)
_NUMBER = BeforeValidator(_no_boolean)
Memory = Annotated[str, BeforeValidator(_as_text), _checked(parse_memory)]
Cpus = Annotated[str, BeforeValidator(_as_text), _checked(parse_cpus)]
Path = Annotated[str, AfterValidator(_absolute)]
PortNumber = Annotated[int, _NUMBER, Field(ge=1, le=65535)]
NetworkName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="forbid")


class Port(_Frozen):
    """A container's port reachable on the host."""

    target_port: PortNumber
    published_port: PortNumber
    protocol: Literal["tcp", "udp"] = "tcp"
    publish_mode: Literal["ingress", "host"] = "ingress"


class Mount(_Frozen):
    """A named volume, or a folder of the host, in the container."""

    type: Literal["volume", "bind"] = "volume"
    source: Annotated[str, Field(min_length=1, max_length=4096)]
    target: Path
    read_only: bool = False

    def model_post_init(self, _context: object) -> None:
        if self.type == "bind":
            _absolute(self.source)
        elif not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", self.source):
            raise ValueError(f"{self.source!r} is not a volume's name")


class Configuration(_Frozen):
    """What an application runs with, as its user wrote it and already proven to mean something.

    A field that is None is the image's own choice.
    """

    command: Annotated[str, _checked(parse_command)] | None = None
    args: list[str] | None = None
    memory_limit: Memory | None = None
    memory_reservation: Memory | None = None
    cpu_limit: Cpus | None = None
    cpu_reservation: Cpus | None = None
    replicas: Annotated[int, _NUMBER, Field(ge=1, le=1000)] = 1
    ports: list[Port] = []
    mounts: Annotated[list[Mount], Field(validation_alias=AliasChoices("mounts", "volumes"))] = []
    networks: list[NetworkName] = []
    labels: Annotated[dict[str, str], AfterValidator(_no_reserved)] = {}
    #: seconds between the stop signal and the kill
    stop_grace: Annotated[int, _NUMBER, Field(ge=0, le=LONGEST_GRACE)] = 10
    #: what it runs as; None: a service where the engine is a Swarm manager, else a container
    runtime: Annotated[RuntimeKind | None, _AUTO] = None
    #: which of old and new comes first; None: start-first where nothing forbids it
    order: Annotated[Order | None, _AUTO] = None
    #: seconds a replaced container goes on serving what still comes to it, where it is found by name
    drain: Annotated[float, _NUMBER, Field(ge=0, le=600)] = 3
    #: replaced versions kept for a way back
    kept: Annotated[int, _NUMBER, Field(ge=0, le=100)] = 1
    #: lies over the image's HEALTHCHECK
    health_check_swarm: HealthCheck | None = None
    #: what the gateway asks it itself, beside the HEALTHCHECK
    probe: Probe | None = None
    #: seconds it has to become healthy; None: the gateway's setting, as of the next two
    health_deadline: Annotated[Seconds, _NUMBER] | None = None
    #: seconds it must run to be proven, where it has neither HEALTHCHECK nor probe
    stable_window: Annotated[Seconds, _NUMBER] | None = None
    #: seconds of trouble afterwards that bring the former version back
    watch: Annotated[float, _NUMBER, Field(ge=0, le=86_400)] | None = None
    restart_policy_swarm: swarm.RestartPolicy | None = None
    placement_swarm: swarm.Placement | None = None
    update_config_swarm: swarm.UpdateConfig | None = None
    rollback_config_swarm: swarm.RollbackConfig | None = None
    mode_swarm: swarm.Mode | None = None
    network_swarm: list[swarm.Attachment] | None = None
    endpoint_spec_swarm: swarm.EndpointSpec | None = None
    ulimits_swarm: list[swarm.Ulimit] | None = None

    @property
    def needs_service(self) -> str | None:
        """What of it a single container cannot do, or None."""
        replicated = (self.mode_swarm or {}).get("Replicated") or {}
        if (replicas := replicated.get("Replicas") or self.replicas) > 1:
            return f"{replicas} replicas"
        return "a task on each node" if (self.mode_swarm or {}).get("Global") is not None else None

    @field_validator("ports")
    @classmethod
    def _refuse_a_port_twice(cls, ports: list[Port]) -> list[Port]:
        published = [f"{port.published_port}/{port.protocol}" for port in ports]
        if twice := sorted({one for one in published if published.count(one) > 1}):
            raise ValueError(f"{', '.join(twice)} is published twice; a port of the host leads to one of the container")
        return ports

    @field_validator("order")
    @classmethod
    def _refuse_two_on_one_port(cls, order: Order | None, before: ValidationInfo) -> Order | None:
        alone = before.data.get("runtime") is not RuntimeKind.SERVICE
        if order is Order.START_FIRST and alone and before.data.get("ports"):
            raise ValueError("start-first is not possible with published ports, which two containers cannot hold")
        return order


# Of a configuration: what says how one version takes the place of another, and nothing of what runs.
_HOW_REPLACED = {
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
    other_columns: dict[str, object]
    auto_deploy: bool
    desired: Desired
    #: where it is deployed first; None is the gateway's own engine
    server_id: str | None
    #: which it is bound to since
    engine_id: str | None
    created_at: datetime
    #: what it was adopted with; the columns lie over it
    base: Base | None = None

    def as_found(self) -> Self:
        """Return it as it was adopted, before any column was set; how it is replaced stays as it was chosen."""
        kept = self.configuration.model_dump(include=_HOW_REPLACED, exclude_defaults=True)
        return replace(self, environment=None, configuration=Configuration(**kept))

    @property
    def reference(self) -> Reference | None:
        return None if self.docker_image is None else Reference.parse(self.docker_image)

    @property
    def own_login(self) -> tuple[Scope | None, Credentials] | None:
        if self.credentials is None:
            return None
        return (Scope.parse(self.registry_url) if self.registry_url else None), self.credentials


@dataclass(frozen=True, slots=True)
class Subscription:
    """That an application follows a repository, by a policy."""

    subscription_id: str
    application_id: str
    repository: Repository
    policy: Policy
    #: made from the application's image, and moves with it
    from_image: bool
    created_at: datetime
    #: seconds between looks for missed pushes of what the application follows; 0 is never, None as its registry
    reconcile: int | None = None
