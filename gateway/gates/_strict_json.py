"""Parse signed JSON so that all who read it read the same: one value for each name, and plain numbers."""

import json
from collections.abc import Mapping
from typing import Any

_MAX_DIGITS = 20


class Malformed(ValueError):
    """The content is not what it should be. The text says why, without quoting much of it."""


def parse_object(content: bytes) -> Mapping[str, Any]:
    """Parse one object. Raises Malformed for duplicate names, huge numbers, very deep nesting, and what is no JSON."""
    try:
        found = json.loads(
            content.decode(),
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, Malformed) else Malformed("is not JSON") from error
    if not isinstance(found, dict):
        raise Malformed("is not a JSON object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("has a name twice in one object")
    return found


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise Malformed(f"has a number of more than {_MAX_DIGITS} digits")
    return int(digits)


def _number(digits: str) -> float:
    if len(digits) > 2 * _MAX_DIGITS:
        raise Malformed(f"has a number of more than {2 * _MAX_DIGITS} digits")
    return float(digits)


def _refuse_constant(name: str) -> float:
    raise Malformed(f"has {name}, which is not JSON")


# -- members


def member(found: Mapping[str, Any], *path: str) -> Any:
    """Return the member at the path, None where there is none."""
    value: Any = found
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def text_member(found: Mapping[str, Any], *path: str) -> str:
    """Return the text at the path, empty where there is none."""
    value = member(found, *path)
    return value if isinstance(value, str) else ""
