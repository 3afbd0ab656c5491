"""Responses are made from values, field by field, and sent with camelCase names."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import pytest

from gateway.api.procedures._response import Moment, Response


class Row(Response):
    row_id: str
    made_at: Moment | None
    server_type: Literal["deploy"]
    compose_id: None
    title: str


@dataclass(frozen=True)
class Value:
    row_id: str = "a"
    made_at: datetime | None = datetime(2026, 1, 1, tzinfo=UTC)
    title: str = "of the value"


def test_a_field_comes_from_the_value_unless_it_is_given() -> None:
    row = Row.make(Value(), title="given")
    assert (row.row_id, row.title) == ("a", "given")


def test_a_field_with_one_possible_value_has_it() -> None:
    row = Row.make(Value())
    assert (row.server_type, row.compose_id) == ("deploy", None)


def test_it_is_sent_with_camel_case_names_and_times_as_text() -> None:
    assert Row.make(Value()).model_dump() == {
        "rowId": "a",
        "madeAt": "2026-01-01T00:00:00+00:00",
        "serverType": "deploy",
        "composeId": None,
        "title": "of the value",
    }
    assert Row.make(Value(made_at=None)).model_dump()["madeAt"] is None


def test_fields_are_sent_in_the_order_in_which_they_are_declared() -> None:
    sent = Row.make(Value(), title="given").model_dump()
    assert list(sent) == ["rowId", "madeAt", "serverType", "composeId", "title"]


def test_it_equals_one_that_was_parsed() -> None:
    made = Row.make(Value())
    assert Row.model_validate(made.model_dump()) == made


def test_a_field_that_the_value_has_not_is_an_error() -> None:
    with pytest.raises(AttributeError, match="row_id"):
        Row.make(title="alone")


def test_a_field_that_the_response_has_not_is_an_error() -> None:
    with pytest.raises(TypeError, match="Row has no tilte"):
        Row.make(Value(), tilte="misspelt")
