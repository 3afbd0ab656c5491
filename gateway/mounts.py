"""What is mounted into a container. It performs no I/O."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path or ":" in path:
        raise ValueError("an absolute path is needed, without a colon")
    return path


Path = Annotated[str, AfterValidator(_absolute)]


class Mount(BaseModel):
    """A named volume, or a folder of the host, in the container."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="forbid")

    type: Literal["volume", "bind"] = "volume"
    source: Annotated[str, Field(min_length=1, max_length=4096)]
    target: Path
    read_only: bool = False

    def model_post_init(self, _context: object) -> None:
        if self.type == "bind":
            _absolute(self.source)
        elif not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", self.source):
            raise ValueError(f"{self.source!r} is not a volume's name")
