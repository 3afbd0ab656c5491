"""The configuration of an application, as its user wrote it, validated. It performs no I/O."""

# ruff: noqa: RUF012  # pydantic copies defaults

import ipaddress
import re
import uuid
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic.alias_generators import to_camel

from gateway.model import swarm
from gateway.model.errors import InvalidInput
from gateway.model.field_descriptions import DescribedModel
from gateway.model.health_checks import HealthCheck, Probe, Seconds
from gateway.model.mounts import Mount, Path, Tmpfs
from gateway.model.ports import NOT_A_BOOLEAN, Port
from gateway.model.quantities import parse_cpus, parse_memory

_LABEL_PREFIX = "gateway."
_MAX_COMMAND_LENGTH = 65536
_MAX_QUOTED = 80  # characters
MAX_STOP_GRACE = 3600  # seconds

_Part = TypeVar("_Part", Port, Mount)


class Order(StrEnum):
    """The order of a swap: the new container starts before, or after, the old one stops."""

    START_FIRST = "start-first"
    STOP_FIRST = "stop-first"


class RuntimeKind(StrEnum):
    """What an application runs as on its engine: a container or a Swarm service."""

    CONTAINER = "container"
    SERVICE = "service"


# Splits like shlex.split, which needs quadratic time in the length of a word.
_PIECE = re.compile(
    r"""(?P<blank>[ \t\r\n]++)|(?P<plain>[^ \t\r\n'"\\]++)|'(?P<single>[^']*+)'"""
    r"""|"(?P<double>(?:[^"\\]|\\.)*+)"|\\(?P<escaped>.)""",
    re.DOTALL,
)
_ESCAPED = re.compile(r'\\([\\"])')


def parse_command(text: str) -> list[str]:
    """Split a command like a shell. Raises InvalidInput."""
    if len(text) > _MAX_COMMAND_LENGTH:
        raise InvalidInput(f"a command has at most {_MAX_COMMAND_LENGTH} characters", field="command")
    words: list[list[str]] = []
    place, inside = 0, False
    while place < len(text):
        found = _PIECE.match(text, place)
        if found is None:
            what = "no character after a \\ at its end" if text[place] == "\\" else "no closing quotation mark"
            raise InvalidInput(f"{text[:_MAX_QUOTED]!r} cannot be split into words: {what}", field="command")
        kind, place = found.lastgroup or "", found.end()
        if kind == "blank":
            inside = False
            continue
        if not inside:
            words.append([])
        inside = True
        words[-1].append(_ESCAPED.sub(r"\1", found[kind]) if kind == "double" else found[kind])
    return ["".join(pieces) for pieces in words]


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _validated_by(parse: object) -> AfterValidator:
    def check(text: str) -> str:
        try:
            parse(text)  # type: ignore[operator]  # any of the parsers above
        except InvalidInput as error:
            raise ValueError(str(error)) from error
        return text

    return AfterValidator(check)


def _reject_reserved_labels(labels: dict[str, str]) -> dict[str, str]:
    if any(name.startswith(_LABEL_PREFIX) for name in labels):
        raise ValueError(f"labels that begin with {_LABEL_PREFIX!r} are reserved for the gateway")
    return labels


def _auto_or(kind: Any) -> BeforeValidator:
    """Accept "auto" as None."""
    return BeforeValidator(
        lambda value: None if value == "auto" else value, json_schema_input_type=kind | Literal["auto"] | None
    )


def _parse_extra_host(entry: str) -> str:
    name, _, address = entry.partition(":")
    if not name or any(sign.isspace() or sign == "\0" for sign in name):
        raise ValueError(f"{entry!r} is not NAME:ADDRESS, for example db:10.0.0.5")
    try:
        return entry if address == "host-gateway" else f"{name}:{ipaddress.ip_address(address.strip('[]'))}"
    except ValueError as error:
        raise ValueError(f"{entry!r} is not NAME:ADDRESS, for example db:10.0.0.5") from error


_AS_TEXT = BeforeValidator(_as_text, json_schema_input_type=str | int | float)
Memory = Annotated[str, _AS_TEXT, _validated_by(parse_memory)]
Cpus = Annotated[str, _AS_TEXT, _validated_by(parse_cpus)]
Capability = Annotated[str, Field(pattern=r"^[A-Z][A-Z_]{1,40}$")]
NetworkName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$")]


class Configuration(DescribedModel):
    """A field that is None is the image's own choice."""

    model_config = ConfigDict(
        hide_input_in_errors=True,
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
    )

    command: Annotated[str, _validated_by(parse_command)] | None = None
    """Replaces the image's command, not its entrypoint. It is split into words like in a shell. `args` are added at its
    end.
    """
    args: list[str] | None = None
    user: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}(:[a-zA-Z0-9_.-]{1,64})?$")] | None = None
    """User name or number. The group can stand after a colon."""
    working_dir: Path | None = None
    hostname: Annotated[str, Field(pattern=r"^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,61}[a-zA-Z0-9])?$")] | None = None
    init: bool | None = None
    """Whether an init process runs as process 1. It reaps orphaned processes and passes signals on to the program."""
    memory_limit: Memory | None = None
    """Bytes, or a number with a unit: 512m, 2048MB, 2g. 1 MB is 1024² bytes."""
    memory_reservation: Memory | None = None
    cpu_limit: Cpus | None = None
    """Number of CPUs, for example 0.5. A number from 1000000 on means nanoCPUs."""
    cpu_reservation: Cpus | None = None
    replicas: Annotated[int, NOT_A_BOOLEAN, Field(ge=1, le=1000)] = 1
    ports: list[Port] = []
    mounts: Annotated[list[Mount], Field(validation_alias=AliasChoices("mounts", "volumes"))] = []
    tmpfs: list[Tmpfs] = []
    """Directories in memory. Their content is lost when the container stops."""
    read_only: bool = False
    """Whether the container's own file system is read-only."""
    cap_add: list[Capability] = []
    cap_drop: list[Capability] = []
    extra_hosts: list[Annotated[str, AfterValidator(_parse_extra_host)]] = []
    """Additional host names in the container, each as NAME:ADDRESS."""
    networks: list[NetworkName] = []
    labels: Annotated[dict[str, str], AfterValidator(_reject_reserved_labels)] = {}
    stop_grace: Annotated[int, NOT_A_BOOLEAN, Field(ge=0, le=MAX_STOP_GRACE)] = 10
    """Seconds between the stop signal and the kill."""
    runtime: Annotated[RuntimeKind | None, _auto_or(RuntimeKind)] = None
    """What the application runs as. Null: a service if the engine is a Swarm manager, else a container."""
    order: Annotated[Order | None, _auto_or(Order)] = None
    """Order of the swap. Null: start-first if nothing forbids it, else stop-first."""
    drain: Annotated[float, NOT_A_BOOLEAN, Field(ge=0, le=600)] = 3
    """Seconds for which the old container keeps running for its clients; with start-first, and a network of its own."""
    kept: Annotated[int, NOT_A_BOOLEAN, Field(ge=0, le=100)] = 1
    """Number of replaced versions to keep for a rollback."""
    health_check_swarm: HealthCheck | None = None
    """Overrides the image's HEALTHCHECK."""
    probe: Probe | None = None
    """Request that the gateway itself sends to the application, in addition to the HEALTHCHECK."""
    health_deadline: Annotated[Seconds, NOT_A_BOOLEAN] | None = None
    """Seconds within which the application must become healthy. Null: the gateway's setting."""
    stable_window: Annotated[Seconds, NOT_A_BOOLEAN] | None = None
    """Seconds that the application must run to be proven, if it has neither HEALTHCHECK nor probe. Null: the gateway's
    setting.
    """
    watch: Annotated[float, NOT_A_BOOLEAN, Field(ge=0, le=86_400)] | None = None
    """Length of the monitor window, in seconds. Trouble in it causes an automatic rollback. 0: no window. Null: the
    gateway's setting.
    """
    heal: bool = False
    """Whether the gateway restores the version that served last when it is missing, stopped or drifted."""
    restart_policy_swarm: swarm.RestartPolicy | None = None
    placement_swarm: swarm.Placement | None = None
    update_config_swarm: swarm.UpdateConfig | None = None
    rollback_config_swarm: swarm.RollbackConfig | None = None
    mode_swarm: swarm.Mode | None = None
    network_swarm: list[swarm.Attachment] | None = None
    endpoint_spec_swarm: swarm.EndpointSpec | None = None
    ulimits_swarm: list[swarm.Ulimit] | None = None

    @property
    def service_requirement(self) -> str | None:
        """The setting that needs a Swarm service instead of a container, or None."""
        replicated = (self.mode_swarm or {}).get("Replicated") or {}
        if (replicas := replicated.get("Replicas") or self.replicas) > 1:
            return f"{replicas} replicas"
        return "a task on each node" if (self.mode_swarm or {}).get("Global") is not None else None

    @property
    def files(self) -> list[Mount]:
        return [mount for mount in self.mounts if mount.type == "file"]

    def with_ids(self, before: Self | None = None) -> Self:
        """Return it with an id for each port and mount; one that is unchanged since `before` keeps its id."""
        known = before or type(self)()
        ports = _with_ids(self.ports, known.ports, "port_id", Port.equals_ignoring_id)
        return self.model_copy(
            update={
                "ports": ports,
                "mounts": _with_ids(self.mounts, known.mounts, "mount_id", Mount.equals_ignoring_id),
            }
        )

    @field_validator("order")
    @classmethod
    def _refuse_two_on_one_port(cls, order: Order | None, before: ValidationInfo) -> Order | None:
        alone = before.data.get("runtime") is not RuntimeKind.SERVICE
        if order is Order.START_FIRST and alone and before.data.get("ports"):
            raise ValueError(
                "start-first is not possible with published ports: two containers cannot publish the same port"
            )
        return order


def _with_ids(
    parts: Sequence[_Part], before: Sequence[_Part], field: str, same: Callable[[_Part, _Part], bool]
) -> list[_Part]:
    """Return the parts with unique ids: the id that was sent, that of an equal part in `before`, or a new one."""
    free = {getattr(one, field): one for one in before if getattr(one, field)}
    sent = [free.pop(getattr(part, field), None) and getattr(part, field) for part in parts]
    named: list[_Part] = []
    for part, own in zip(parts, sent, strict=True):
        found = own or next((name for name, one in free.items() if same(part, one)), None)
        free.pop(found, None)
        named.append(part.model_copy(update={field: found or str(uuid.uuid4())}))
    return named
