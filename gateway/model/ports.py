"""Ports of a container that are published on the host. It performs no I/O."""

import ipaddress
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from gateway.model.field_descriptions import DescribedModel


def _reject_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number is needed")  # noqa: TRY004 - pydantic reports a ValueError
    return value


def _parse_host_address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise ValueError(f"{text!r} is not an IP address of the host, for example 127.0.0.1") from error


#: rejects true and false, which Python would accept as numbers
NOT_A_BOOLEAN = BeforeValidator(_reject_boolean)
PortNumber = Annotated[int, NOT_A_BOOLEAN, Field(ge=1, le=65535)]
Protocol = Literal["tcp", "udp", "sctp"]
PublishMode = Literal["ingress", "host"]
HostIp = Annotated[str, AfterValidator(_parse_host_address)]


class Port(DescribedModel):
    """A published port of the container. `portId` is its id in the API, and has no effect on the container."""

    model_config = ConfigDict(
        hide_input_in_errors=True,
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
    )

    port_id: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    target_port: PortNumber
    published_port: PortNumber
    protocol: Protocol = "tcp"
    publish_mode: PublishMode = "ingress"
    """`host`: on each node that runs a task. `ingress`: through the routing mesh of the Swarm. For a container, both
    have the same effect.
    """
    host_ip: HostIp | None = None
    """Address of the host on which the port is published. Null: all addresses."""

    @model_validator(mode="before")
    @classmethod
    def _of_its_application(cls, given: Any) -> Any:
        """Accept a row as the API returns it."""
        return {name: value for name, value in given.items() if name != "applicationId"} if _is_row(given) else given

    def equals_ignoring_id(self, other: Self) -> bool:
        """Compare two ports without their ids."""
        return self.model_copy(update={"port_id": None}) == other.model_copy(update={"port_id": None})


#: values of a host address that mean all addresses
ALL_ADDRESSES = frozenset({None, "0.0.0.0", "::"})  # noqa: S104 - what it is compared with


def _is_row(given: Any) -> bool:
    return isinstance(given, dict) and "applicationId" in given
