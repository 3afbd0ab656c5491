"""What a person means by a word: an id, a name, or the beginning of an id."""

import pytest

from gateway.model.errors import Conflict
from gateway.model.ids import meant_ids

_NAMED = [("abcd-1", "one"), ("abcd-2", "two"), ("xyzw-1", "two"), ("two-1", "abcd-1")]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("abcd-1", ["abcd-1"]),
        ("one", ["abcd-1"]),
        ("two", ["abcd-2", "xyzw-1"]),
        ("xyzw", ["xyzw-1"]),
        ("xyz", []),
        ("none", []),
    ],
)
def test_an_id_decides_before_a_name_and_a_name_before_the_beginning_of_an_id(word: str, expected: list[str]) -> None:
    assert meant_ids(word, _NAMED) == expected


def test_the_beginning_of_several_ids_means_none_of_them() -> None:
    with pytest.raises(Conflict, match="abcd-1, abcd-2"):
        meant_ids("abcd", _NAMED)
