"""What an application was found with where it was adopted: the container, or service, that somebody else had made.

It performs no I/O. A base holds secrets, in the environment of what was found, and is kept sealed.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import orjson

from gateway.model.reference import Reference


@dataclass(frozen=True, slots=True)
class AdoptedSpec:
    """The engine's own words on it, as they were then, and what they cannot be understood without."""

    #: a container's inspection, or a service's specification
    found: Mapping[str, Any] = field(repr=False)
    object_id: str
    #: its image by name and digest; by its id instead, where it never came from a registry
    image: str
    image_id: str
    #: what the image itself chooses; empty where the engine no longer had it
    image_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: the names of the containers it shares a namespace or volumes with, by the id it knows them by
    holders: Mapping[str, str] = field(default_factory=dict)
    #: what the engine's host is called
    host_name: str = ""
    is_service: bool = False

    @property
    def name(self) -> str:
        return str(self.found["Name"]).removeprefix("/")

    @property
    def reference(self) -> Reference:
        return Reference.parse(self.image)

    def dump(self) -> str:
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def load(cls, text: str) -> Self:
        return cls(**orjson.loads(text))
