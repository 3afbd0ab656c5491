"""Base types of inputs."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Id = Annotated[str, Field(min_length=1, max_length=128)]

Text = Annotated[str, Field(max_length=100_000)]

#: search words: part of a URL, which cannot be long
Words = Annotated[str, Field(max_length=255)]


class Input(BaseModel):
    """An input with camelCase names. Unknown fields are ignored, as Dokploy does."""

    model_config = ConfigDict(
        hide_input_in_errors=True,
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        defer_build=True,
    )

    def sent_fields(self) -> set[str]:
        """Return the snake_case names of the fields that were sent."""
        return self.model_fields_set
