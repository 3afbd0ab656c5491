"""Rows of an application's ports and mounts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError
from pydantic_core import InitErrorDetails

from gateway.api.procedures._response import Response
from gateway.model.errors import InvalidInput
from gateway.model.mounts import Mount, MountType
from gateway.model.ports import Port, Protocol, PublishMode

_LIST_AND_INDEX = 2  # steps of a path: which list, and where in it


class PortRow(Response):
    """A published port of an application's container."""

    port_id: str
    published_port: int
    publish_mode: Annotated[PublishMode, Field(description="For a container, both values have the same effect.")]
    target_port: int
    protocol: Protocol
    application_id: str
    host_ip: Annotated[
        str | None, Field(description="Address of the host on which the port is published. Null: all addresses.")
    ]

    @classmethod
    def from_port(cls, application_id: str, port: Port) -> Self:
        return cls.make(port, port_id=port.port_id or "", application_id=application_id)


class MountRow(Response):
    """A mount of an application's container.

    `source` repeats `hostPath`, `volumeName` or `filePath`. `target` repeats `mountPath`.
    """

    mount_id: str
    type: MountType
    host_path: str | None
    volume_name: str | None
    file_path: str | None
    content: Annotated[
        str | None,
        Field(description="Content of a file. Null for other mounts, and if the key does not have scope admin."),
    ]
    service_type: Literal["application"]
    mount_path: str
    application_id: str
    compose_id: None
    libsql_id: None
    mariadb_id: None
    mongo_id: None
    mysql_id: None
    postgres_id: None
    redis_id: None
    source: str
    target: str
    read_only: bool

    @classmethod
    def from_mount(cls, application_id: str, mount: Mount, *, secrets: bool) -> Self:
        """Return the row; the content of a file only with `secrets`."""
        return cls.make(
            mount,
            mount_id=mount.mount_id or "",
            host_path=mount.source if mount.type == "bind" else None,
            volume_name=mount.source if mount.type == "volume" else None,
            file_path=mount.source if mount.type == "file" else mount.known_as,
            content=mount.content if secrets else None,
            mount_path=mount.target,
            application_id=application_id,
        )


@contextmanager
def part_errors() -> Iterator[None]:
    """Make errors name the field of the one port or mount that was sent, without its index in the list."""
    try:
        yield
    except InvalidInput as error:
        path = (error.field or "").split(".")
        raise InvalidInput(str(error), field=".".join(path[_LIST_AND_INDEX:] or path)) from error
    except ValidationError as error:
        details = [
            InitErrorDetails(
                type=one["type"], loc=one["loc"][_LIST_AND_INDEX:], input=one["input"], ctx=one.get("ctx", {})
            )
            for one in error.errors()
        ]
        raise ValidationError.from_exception_data(error.title, details, hide_input=True) from error
