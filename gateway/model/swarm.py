"""What the API's columns for Docker Swarm may hold, in the Engine's own words. It performs no I/O.

What is written is kept as it was written, so that a client reads back what it sent; durations are nanoseconds. See
https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Service/operation/ServiceCreate
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, with_config
from typing_extensions import TypedDict

_strict = with_config(ConfigDict(hide_input_in_errors=True, extra="forbid"))

Nanoseconds = Annotated[int, Field(ge=0, le=2**63 - 1)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
#: -1 is no limit
Limit = Annotated[int, Field(ge=-1, le=2**63 - 1)]
Ratio = Annotated[float, Field(ge=0, le=1)]
UpdateOrder = Literal["start-first", "stop-first"]


@_strict
class RestartPolicy(TypedDict, total=False):
    """When Swarm replaces a task that ended."""

    Condition: Literal["none", "on-failure", "any"] | None
    Delay: Nanoseconds | None
    MaxAttempts: Count | None
    Window: Nanoseconds | None


@_strict
class Spread(TypedDict):
    """A node label. Swarm spreads tasks evenly over its values."""

    SpreadDescriptor: str


@_strict
class Preference(TypedDict):
    """A preference for where tasks run."""

    Spread: Spread


@_strict
class Platform(TypedDict):
    """A platform that a node must have."""

    Architecture: str
    OS: str


@_strict
class Placement(TypedDict, total=False):
    """The nodes on which tasks may run."""

    Constraints: list[str] | None
    Preferences: list[Preference] | None
    MaxReplicas: Count | None
    Platforms: list[Platform] | None


@_strict
class UpdateConfig(TypedDict, total=False):
    """How Swarm replaces tasks in an update."""

    Parallelism: Count
    Delay: Nanoseconds | None
    FailureAction: Literal["pause", "continue", "rollback"] | None
    Monitor: Nanoseconds | None
    MaxFailureRatio: Ratio | None
    Order: UpdateOrder | None


@_strict
class RollbackConfig(TypedDict, total=False):
    """How Swarm replaces tasks in a rollback. A failed rollback is not rolled back."""

    Parallelism: Count
    Delay: Nanoseconds | None
    FailureAction: Literal["pause", "continue"] | None
    Monitor: Nanoseconds | None
    MaxFailureRatio: Ratio | None
    Order: UpdateOrder | None


@_strict
class Replicated(TypedDict, total=False):
    """A fixed number of tasks."""

    Replicas: Count | None


@_strict
class Empty(TypedDict):
    """An empty object."""


@_strict
class ServiceMode(TypedDict, total=False):
    """How many tasks run: a fixed number, or one on each node."""

    Replicated: Replicated | None
    Global: Empty | None


def _one_mode(mode: Any) -> Any:
    if sum(value is not None for value in mode.values()) != 1:
        raise ValueError("exactly one of Replicated and Global is needed; jobs end, and are not kept running")
    return mode


Mode = Annotated[ServiceMode, AfterValidator(_one_mode)]


@_strict
class Attachment(TypedDict, total=False):
    """A network that the tasks join."""

    Target: Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$")]
    Aliases: list[str] | None
    DriverOpts: dict[str, str] | None


@_strict
class EndpointPort(TypedDict, total=False):
    """A published port of the tasks."""

    Protocol: Literal["tcp", "udp", "sctp"]
    TargetPort: Annotated[int, Field(ge=1, le=65535)]
    PublishedPort: Annotated[int, Field(ge=0, le=65535)]
    PublishMode: Literal["ingress", "host"]


@_strict
class EndpointSpec(TypedDict, total=False):
    """How clients find a service: by one virtual address, or by the addresses of all its tasks."""

    Mode: Literal["vip", "dnsrr"] | None
    Ports: list[EndpointPort] | None


@_strict
class Ulimit(TypedDict):
    """A resource limit for the processes of the tasks. -1: no limit."""

    Name: Annotated[str, Field(pattern=r"^[a-z]+$")]
    Soft: Limit
    Hard: Limit
