"""The ports and mounts of an application, as the contract shows each of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

from pydantic import Field, ValidationError
from pydantic_core import InitErrorDetails
from typing_extensions import TypedDict

from gateway.model.errors import InvalidInput
from gateway.model.mounts import Mount, MountType
from gateway.model.ports import Port, Protocol, PublishMode

_PLACE = 2  # steps of a path: which list, and where in it


class PortRow(TypedDict):
    """A port of an application's container that is reachable on the host."""

    portId: str
    publishedPort: int
    publishMode: Annotated[PublishMode, Field(description="For a container both are the same.")]
    targetPort: int
    protocol: Protocol
    applicationId: str
    hostIp: Annotated[str | None, Field(description="The only address of the host that it is published at.")]


class MountRow(TypedDict):
    """What is mounted into an application's container; `source` and `target` say the same as the contract's names."""

    mountId: str
    type: MountType
    hostPath: str | None
    volumeName: str | None
    filePath: str | None
    content: Annotated[str | None, Field(description="What a file holds; null to a key that may not change it.")]
    serviceType: Literal["application"]
    mountPath: str
    applicationId: str
    composeId: None
    libsqlId: None
    mariadbId: None
    mongoId: None
    mysqlId: None
    postgresId: None
    redisId: None
    source: str
    target: str
    readOnly: bool


def port_row(application_id: str, port: Port) -> PortRow:
    return {
        "portId": port.port_id or "",
        "publishedPort": port.published_port,
        "publishMode": port.publish_mode,
        "targetPort": port.target_port,
        "protocol": port.protocol,
        "applicationId": application_id,
        "hostIp": port.host_ip,
    }


def mount_row(application_id: str, mount: Mount, *, secrets: bool) -> MountRow:
    """Return the row, with what a file holds where `secrets` may be seen."""
    return {
        "mountId": mount.mount_id or "",
        "type": mount.type,
        "hostPath": mount.source if mount.type == "bind" else None,
        "volumeName": mount.source if mount.type == "volume" else None,
        "filePath": mount.source if mount.type == "file" else mount.known_as,
        "content": mount.content if secrets else None,
        "serviceType": "application",
        "mountPath": mount.target,
        "applicationId": application_id,
        "composeId": None,
        "libsqlId": None,
        "mariadbId": None,
        "mongoId": None,
        "mysqlId": None,
        "postgresId": None,
        "redisId": None,
        "source": mount.source,
        "target": mount.target,
        "readOnly": mount.read_only,
    }


@contextmanager
def told_alone() -> Iterator[None]:
    """Let an error name the field of the one part that was sent, not its place among the others."""
    try:
        yield
    except InvalidInput as error:
        path = (error.field or "").split(".")
        raise InvalidInput(str(error), field=".".join(path[_PLACE:] or path)) from error
    except ValidationError as error:
        details = [
            InitErrorDetails(type=one["type"], loc=one["loc"][_PLACE:], input=one["input"], ctx=one.get("ctx", {}))
            for one in error.errors()
        ]
        raise ValidationError.from_exception_data(error.title, details, hide_input=True) from error
