"""A container's port that is reachable on the host. It performs no I/O."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel


def _no_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number is needed")  # noqa: TRY004 - pydantic tells of a ValueError
    return value


#: a number is no boolean
NUMBER = BeforeValidator(_no_boolean)
PortNumber = Annotated[int, NUMBER, Field(ge=1, le=65535)]


class Port(BaseModel):
    """A container's port reachable on the host."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="forbid")

    target_port: PortNumber
    published_port: PortNumber
    protocol: Literal["tcp", "udp"] = "tcp"
    publish_mode: Literal["ingress", "host"] = "ingress"
