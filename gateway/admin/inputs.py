"""Base types of what operators send."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Id = Annotated[str, Field(min_length=1, max_length=128)]

Text = Annotated[str, Field(max_length=100_000)]

#: what is looked for; it is part of an address, which cannot be long
Words = Annotated[str, Field(max_length=255)]


class Input(BaseModel):
    """Takes camelCase names; what it does not know is dropped, as the contract has it."""

    model_config = ConfigDict(
        hide_input_in_errors=True, frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore"
    )

    def sent_fields(self) -> set[str]:
        """Return the names of the fields that were sent, in our spelling."""
        return self.model_fields_set
