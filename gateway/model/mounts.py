"""Mounts of a container: volumes, directories of the host, files, and memory. It performs no I/O.

A mount is written as `{source, target, type}`, or with the field names of the API: mountPath for target; volumeName,
hostPath or filePath for source.
"""

import hashlib
import posixpath
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from gateway.model.errors import InvalidInput
from gateway.model.quantities import parse_memory

MountType = Literal["volume", "bind", "file"]
#: maximum size of a file: the limit of Docker Swarm for a secret
MAX_FILE_BYTES = 500_000

_VOLUME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
#: name of the source in the API, by type
SOURCE_FIELDS: dict[MountType, str] = {"volume": "volumeName", "bind": "hostPath", "file": "filePath"}
#: fields of an API row that name the owner of a mount
OWNER_FIELDS = (
    "applicationId", "composeId", "libsqlId", "mariadbId", "mongoId", "mysqlId", "postgresId", "redisId",
)  # fmt: skip
_ROW_FIELDS = frozenset({*OWNER_FIELDS, "serviceType", "serviceId"})


def _require_absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path or ":" in path:
        raise ValueError("an absolute path is needed, without a colon")
    return path


def _reject_root(path: str) -> str:
    if posixpath.normpath(path) == "/":
        raise ValueError("the root directory cannot be a mount target")
    return path


def _validate_size(text: str) -> str:
    try:
        parse_memory(text, least=1)
    except InvalidInput as error:
        raise ValueError(str(error)) from error
    return text


def _byte_length(content: str) -> int:
    try:
        return len(content.encode())
    except UnicodeEncodeError as error:
        raise ValueError("the content must be valid UTF-8") from error


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Path = Annotated[str, Field(max_length=4096), AfterValidator(_require_absolute)]
Target = Annotated[Path, AfterValidator(_reject_root)]


class Mount(BaseModel):
    """A volume, a directory of the host, or a file with this content, in the container.

    `mountId` is its id in the API. `knownAs` is a `filePath` that a client sent for a volume or a directory. Neither
    has an effect on the container.
    """

    model_config = ConfigDict(
        hide_input_in_errors=True,
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
    )

    mount_id: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    known_as: Annotated[str, Field(max_length=4096)] | None = None
    type: MountType = "volume"
    #: name of the volume, directory on the host, or name of the file
    source: Annotated[
        str,
        Field(
            min_length=1,
            max_length=4096,
            validation_alias=AliasChoices("source", *SOURCE_FIELDS.values()),
        ),
    ]
    target: Annotated[Target, Field(validation_alias=AliasChoices("target", "mountPath"))]
    read_only: bool = False
    content: str | None = Field(default=None, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _of_a_row(cls, given: Any) -> Any:
        """Accept a row as the API returns it, which contains both spellings of a mount."""
        if not isinstance(given, dict):
            return given
        sent = {name: value for name, value in given.items() if value is not None and name not in _ROW_FIELDS}
        of_type = SOURCE_FIELDS.get(sent.get("type", "volume"))
        if of_type != "filePath" and of_type in sent and "filePath" in sent:
            sent["knownAs"] = sent.pop("filePath")
        for name in SOURCE_FIELDS.values():
            if name != of_type and of_type is not None:
                sent.pop(name, None)
        for name, other in (("source", of_type), ("target", "mountPath")):
            if name in sent and other in sent and sent.pop(other) != sent[name]:
                raise ValueError(f"{name} and {other} mean the same, but differ")
        if sent.get("type") == "file":
            target = sent.get("target", sent.get("mountPath"))
            sent.setdefault("content", "")
            if "source" not in sent and not sent.get("filePath") and isinstance(target, str):
                sent.pop("filePath", None)
                sent["source"] = posixpath.basename(target.rstrip("/")) or "file"
        return sent

    @field_validator("source")
    @classmethod
    def _means_something(cls, source: str, before: ValidationInfo) -> str:
        kind = before.data.get("type")
        if kind == "bind":
            return _require_absolute(source)
        if kind == "volume" and not _VOLUME.fullmatch(source):
            raise ValueError(f"{source!r} is not the name of a volume")
        if "\0" in source:
            raise ValueError("it contains a zero byte")
        return source

    @field_validator("target")
    @classmethod
    def _is_a_files(cls, target: str, before: ValidationInfo) -> str:
        if before.data.get("type") == "file" and target.endswith("/"):
            raise ValueError("the path of the file is needed, not of its directory")
        return target

    @field_validator("content")
    @classmethod
    def _of_a_file(cls, content: str | None, before: ValidationInfo) -> str | None:
        if before.data.get("type") != "file":
            if content:
                raise ValueError("only a mount of type file can have content")
            return None
        if content is not None and _byte_length(content) > MAX_FILE_BYTES:
            raise ValueError(f"a file has at most {MAX_FILE_BYTES} bytes; mount a volume for more")
        return content

    @property
    def digest(self) -> str:
        return hashlib.sha256((self.content or "").encode()).hexdigest()

    def equals_ignoring_id(self, other: Self) -> bool:
        """Compare two mounts without their ids."""
        named = dict.fromkeys(("mount_id", "known_as"))
        return self.model_copy(update=named) == other.model_copy(update=named)


class Tmpfs(BaseModel):
    """A directory of the container in memory. A string is taken as `target`."""

    model_config = ConfigDict(
        hide_input_in_errors=True, frozen=True, alias_generator=to_camel, populate_by_name=True, extra="forbid"
    )

    target: Target
    size: Annotated[str, BeforeValidator(_as_text), AfterValidator(_validate_size)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_a_path(cls, given: Any) -> Any:
        return {"target": given} if isinstance(given, str) else given


def path_and_parents(path: str) -> Iterator[str]:
    """Yield the normalised path, then each of its parent directories.

    >>> list(path_and_parents("/etc/app/x/.."))
    ['/etc/app', '/etc', '/']
    """
    place = posixpath.normpath(path)
    yield place
    while place.strip("/"):
        place = posixpath.dirname(place)
        yield place


def contains_path(one: str, other: str) -> bool:
    """Tell whether a path is the same as another, or one of its parent directories.

    >>> contains_path("/etc", "/etc/app.conf"), contains_path("/etc/app", "/etc/app.conf")
    (True, False)
    """
    above, below = posixpath.normpath(one), posixpath.normpath(other)
    return below == above or below.startswith(f"{above.rstrip('/')}/")
