"""The original specification of an adopted application: of a container or service that the gateway did not create.

It performs no I/O. The specification contains secrets, in the environment, and is stored encrypted.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import orjson

from gateway.model.reference import Reference


@dataclass(frozen=True, slots=True)
class AdoptedSpec:
    """What the engine reported when the application was adopted. The field names are those of the stored JSON."""

    #: the inspection of a container, or the specification of a service
    found: Mapping[str, Any] = field(repr=False)
    object_id: str
    #: the image by name and digest, or by its id if it never came from a registry
    image: str
    image_id: str
    #: the configuration of the image; empty if the engine no longer had the image
    image_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: names of the containers it shares a namespace or volumes with, by id
    holders: Mapping[str, str] = field(default_factory=dict)
    #: host name of the engine
    host_name: str = ""
    is_service: bool = False

    @property
    def name(self) -> str:
        return str(self.found["Name"]).removeprefix("/")

    @property
    def reference(self) -> Reference:
        return Reference.parse(self.image)

    @property
    def volumes(self) -> frozenset[str]:
        """The named volumes that it mounts."""
        where = self.found["TaskTemplate"]["ContainerSpec"] if self.is_service else self.found["HostConfig"]
        mounts = (mount.get("Source") for mount in where.get("Mounts") or () if mount.get("Type") == "volume")
        binds = (bind.partition(":")[0] for bind in where.get("Binds") or () if ":" in bind)
        return frozenset(source for source in (*mounts, *binds) if source and not source.startswith("/"))

    def dump(self) -> str:
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def load(cls, text: str) -> Self:
        return cls(**orjson.loads(text))
