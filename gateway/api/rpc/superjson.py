"""superjson: JSON, and beside it which of its values are of a type that JSON has not. It performs no I/O.

https://github.com/flightcontrolhq/superjson

>>> revive({"title": None, "since": "2026-01-01T00:00:00.000Z"}, {"title": ["undefined"], "since": ["Date"]})
{'since': '2026-01-01T00:00:00.000Z'}
>>> date_types({"at": datetime(2026, 1, 1, tzinfo=UTC)})
{'at': ['Date']}
>>> dumps({"at": datetime(2026, 1, 1, tzinfo=UTC)})
b'{"at":"2026-01-01T00:00:00.000Z"}'
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from gateway.model.errors import InvalidInput

#: an absent member; None is JSON's null
ABSENT = object()
_DATE = ["Date"]
_HOLDING_DATES = (datetime, Mapping, list, tuple)
# Dots separate the parts of a path, and a backslash escapes a dot in a part.
_PIECE = re.compile(r"\\(.)|(\.)|([^.\\]+)|\\", re.DOTALL)
_MAX_DEPTH, _MAX_ANNOTATIONS = 64, 10_000
_MAX_INDEX_DIGITS = 9  # digits
_MAX_SHOWN = 100  # characters of a value in an error


def revive(value: Any, values: Any) -> Any:
    """Return the value as the client had it: undefined members are absent, and bigints are integers.

    A Date stays text, which all inputs that take a time parse; other types stay as they are. Raises InvalidInput for
    numbers that JSON does not have, as NaN.
    """
    if not values:
        return value
    root = [value]
    for path, kind in _annotations(values):
        _revive_at(root, [0, *path], kind)
    return root[0]


def date_types(value: Any) -> Any:
    """Return the types of the dates in the value, by path; {} if it has none."""
    try:
        orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATETIME)
    except TypeError:
        found: dict[str, list[str]] = {}
        _find_dates(value, None, found)
        return found.get("", found)
    return {}


def dumps(value: Any, *, option: int = 0) -> bytes:
    """Return the value as JSON. Raises TypeError for what has no form there."""
    return orjson.dumps(value, default=iso, option=option | orjson.OPT_PASSTHROUGH_DATETIME)


def iso(value: object) -> str:
    """Return a time as JavaScript's Date writes it; raises TypeError for anything else."""
    if not isinstance(value, datetime):
        raise TypeError(f"{type(value).__name__} has no form in JSON")
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _find_dates(value: Any, path: str | None, found: dict[str, list[str]]) -> None:
    if isinstance(value, datetime):
        found[path or ""] = _DATE
        return
    for name, one in value.items() if isinstance(value, Mapping) else enumerate(value):
        if isinstance(one, _HOLDING_DATES):
            part = str(name).replace("\\", "\\\\").replace(".", "\\.")
            _find_dates(one, part if path is None else f"{path}.{part}", found)


def _annotations(values: Any) -> Iterator[tuple[list[str], str]]:
    """Yield each path and its type, innermost first, from a tree of nodes `[type, inner]` and `{path: node}`."""
    found: list[tuple[list[str], str]] = []
    waiting: list[tuple[list[str], Any]] = [([], values)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, list) and node:
            found.append((path, str(node[0]) if isinstance(node[0], str) else ""))
            node = node[1] if len(node) > 1 else {}
        inside = node if isinstance(node, dict) else {}
        if len(found) + len(waiting) + len(inside) > _MAX_ANNOTATIONS:
            raise _too_many_annotations()
        waiting += [([*path, *_parts(name, _MAX_DEPTH - len(path))], value) for name, value in inside.items()]
    return reversed(found)


def _parts(path: str, limit: int) -> list[str]:
    """Split a path at its dots; raises InvalidInput for more than `limit` parts."""
    parts: list[list[str]] = [[]]
    for escaped, dot, plain in _PIECE.findall(path):
        if dot:
            parts.append([])
        else:
            parts[-1].append(escaped or plain)
        if len(parts) > limit:
            raise _too_many_annotations()
    return ["".join(pieces) for pieces in parts]


def _too_many_annotations() -> InvalidInput:
    return InvalidInput("meta annotates more values than an input may have")


def _revive_at(root: Any, path: list[Any], kind: str) -> None:
    """Convert the value at the path to its type. A path that leads nowhere is ignored."""
    *above, last = path
    holder = root
    for part in above:
        holder = _member(holder, part)
    value = _member(holder, last)
    if value is ABSENT:
        return
    if kind == "number":
        raise InvalidInput(
            f"{str(value)[:_MAX_SHOWN]} is not a number here", field=".".join(map(str, path[1:])) or None
        )
    if kind == "bigint" and isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,100}", value):
        _set_member(holder, last, int(value))
    elif kind == "undefined" and isinstance(holder, dict):
        del holder[last]
    elif kind == "undefined":
        _set_member(holder, last, None)


def _member(holder: Any, part: Any) -> Any:
    if isinstance(holder, dict):
        return holder.get(part, ABSENT)
    index = _list_index(part)
    if isinstance(holder, list) and index is not None and index < len(holder):
        return holder[index]
    return ABSENT


def _list_index(part: Any) -> int | None:
    """Return the list index in a part of a path, None where it is none."""
    text = str(part)
    return int(text) if text.isdecimal() and len(text) <= _MAX_INDEX_DIGITS else None


def _set_member(holder: Any, part: Any, value: Any) -> None:
    holder[part if isinstance(holder, dict) else int(part)] = value
