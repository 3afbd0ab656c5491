"""superjson: JSON, and beside it which of its values are of a type that JSON has not. It performs no I/O.

https://github.com/flightcontrolhq/superjson

>>> revive({"title": None, "since": "2026-01-01T00:00:00.000Z"}, {"title": ["undefined"], "since": ["Date"]})
{'since': '2026-01-01T00:00:00.000Z'}
>>> annotated({"at": datetime(2026, 1, 1, tzinfo=UTC)})
({'at': '2026-01-01T00:00:00.000Z'}, {'at': ['Date']})
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from gateway.model.errors import InvalidInput

#: what was there and is not: a value of its own, as None is JSON's null
ABSENT = object()
# Dots separate the parts of a path, and a backslash escapes a dot in a part.
_PIECE = re.compile(r"\\(.)|(\.)|([^.\\]+)|\\", re.DOTALL)
_DEEPEST, _MOST = 64, 10_000
_LONGEST_INDEX = 9  # digits of a number that names an element of a list
_LONGEST_SHOWN = 100  # characters of a value in a refusal


def revive(value: Any, values: Any) -> Any:
    """Return what was meant: undefined is absent, a number that JSON has not is refused; raises InvalidInput.

    A Date stays the text it is, which whatever takes a time reads; so do the other types, which nothing takes.
    """
    if not values:
        return value
    root = [value]
    for path, kind in _annotations(values):
        _apply(root, [0, *path], kind)
    return root[0]


def annotated(value: Any) -> tuple[Any, Any]:
    """Return it as JSON, and which of its values are dates, by path; what has none is returned as it is."""
    try:
        orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATETIME)
    except TypeError:
        found: dict[str, list[str]] = {}
        shown = _dated(value, (), found)
        return shown, found.get("", found)
    return value, {}


def iso(value: object) -> str:
    """Return a time as JavaScript's Date writes it; raises TypeError for anything else."""
    if not isinstance(value, datetime):
        raise TypeError(f"{type(value).__name__} has no form in JSON")
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _dated(value: Any, path: tuple[str, ...], found: dict[str, list[str]]) -> Any:
    if isinstance(value, datetime):
        found[".".join(part.replace("\\", "\\\\").replace(".", "\\.") for part in path)] = ["Date"]
        return iso(value)
    if isinstance(value, Mapping):
        return {name: _dated(one, (*path, str(name)), found) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_dated(one, (*path, str(number)), found) for number, one in enumerate(value)]
    return value


def _annotations(values: Any) -> Iterator[tuple[list[str], str]]:
    """Yield each path and its type, from the inside out: of a tree whose nodes are [type, inside] or {path: node}."""
    found: list[tuple[list[str], str]] = []
    waiting: list[tuple[list[str], Any]] = [([], values)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, list) and node:
            found.append((path, str(node[0]) if isinstance(node[0], str) else ""))
            node = node[1] if len(node) > 1 else {}
        inside = node if isinstance(node, dict) else {}
        if len(found) + len(waiting) + len(inside) > _MOST:
            raise _too_many()
        waiting += [([*path, *_parts(name, _DEEPEST - len(path))], value) for name, value in inside.items()]
    return reversed(found)


def _parts(path: str, most: int) -> list[str]:
    """Split a path at its dots; raises InvalidInput for more than `most` parts."""
    parts: list[list[str]] = [[]]
    for escaped, dot, plain in _PIECE.findall(path):
        if dot:
            parts.append([])
        else:
            parts[-1].append(escaped or plain)
        if len(parts) > most:
            raise _too_many()
    return ["".join(pieces) for pieces in parts]


def _too_many() -> InvalidInput:
    return InvalidInput("meta tells of more values than an input has")


def _apply(root: Any, path: list[Any], kind: str) -> None:
    """Do to the value at the path what its type wants; a path that leads nowhere says nothing."""
    *above, last = path
    holder = root
    for part in above:
        holder = _at(holder, part)
    value = _at(holder, last)
    if value is ABSENT:
        return
    if kind == "number":
        raise InvalidInput(
            f"{str(value)[:_LONGEST_SHOWN]} is no number here", field=".".join(map(str, path[1:])) or None
        )
    if kind == "bigint" and isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,100}", value):
        _put(holder, last, int(value))
    elif kind == "undefined" and isinstance(holder, dict):
        del holder[last]
    elif kind == "undefined":
        _put(holder, last, None)


def _at(holder: Any, part: Any) -> Any:
    if isinstance(holder, dict):
        return holder.get(part, ABSENT)
    index = _index(part)
    if isinstance(holder, list) and index is not None and index < len(holder):
        return holder[index]
    return ABSENT


def _index(part: Any) -> int | None:
    """Return the element of a list that a part of a path names, None where it names none."""
    text = str(part)
    return int(text) if text.isdecimal() and len(text) <= _LONGEST_INDEX else None


def _put(holder: Any, part: Any, value: Any) -> None:
    holder[part if isinstance(holder, dict) else int(part)] = value
