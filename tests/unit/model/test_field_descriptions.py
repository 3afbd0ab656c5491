"""The string after a field is its description."""

from typing import Annotated

import pytest
from pydantic import Field

from gateway.model.field_descriptions import DescribedModel


class Described(DescribedModel):
    """A model."""

    required: int
    """What has to be given,

    in two paragraphs.
    """
    optional: Annotated[list[str], Field(max_length=3)] = []  # noqa: RUF012  # pydantic copies defaults
    """What may be given."""
    plain: bool = True


class Derived(Described):
    """Another one."""

    plain: bool = False
    """What it says anew."""


def test_the_string_after_a_field_is_its_description() -> None:
    fields = Described.model_json_schema()["properties"]
    assert [fields[name].get("description") for name in fields] == [
        "What has to be given,\n\nin two paragraphs.",
        "What may be given.",
        None,
    ]
    assert fields["optional"]["maxItems"] == 3
    assert Described.model_json_schema()["required"] == ["required"]
    assert Described(required=1).optional is not Described(required=1).optional


def test_a_derived_model_keeps_descriptions_and_adds_its_own() -> None:
    fields = Derived.model_json_schema()["properties"]
    assert (fields["optional"]["description"], fields["plain"]["description"]) == (
        "What may be given.",
        "What it says anew.",
    )


def test_a_field_is_described_in_one_place() -> None:
    class Twice(DescribedModel):
        count: int = Field(1, description="How many.")

    assert Twice.model_fields["count"].description == "How many."
    with pytest.raises(TypeError, match="pass that the description"):
        type("Described", (Described,), {"__module__": __name__, "__qualname__": "Described", "required": Field(1)})
