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

from gateway.errors import InvalidInput

#: what was there and is not: a value of its own, as None is JSON's null
ABSENT = object()
# A path's parts are parted by dots, and a dot in a part is escaped.
_PART = re.compile(r"((?:[^.\\]|\\.)*)(\.|$)", re.DOTALL)
_DEEPEST, _MOST = 64, 10_000
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


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
            found.append((path, str(node[0])))
            node = node[1] if len(node) > 1 else {}
        if isinstance(node, dict):
            waiting += [([*path, *_parts(name)], inside) for name, inside in node.items()]
        if len(path) > _DEEPEST or len(found) + len(waiting) > _MOST:
            raise InvalidInput("meta tells of more values than an input has")
    return reversed(found)


def _parts(path: str) -> Iterator[str]:
    for found in _PART.finditer(path):
        yield _ESCAPED.sub(r"\1", found[1])
        if not found[2]:
            return


def _apply(root: Any, path: list[Any], kind: str) -> None:
    """Do to the value at the path what its type wants; a path that leads nowhere says nothing."""
    *above, last = path
    holder = root
    for part in above:
        holder = _at(holder, part)
    if kind == "number" and _at(holder, last) is not ABSENT:
        raise InvalidInput(f"{_at(holder, last)} is no number here", field=".".join(map(str, path[1:])) or None)
    if kind == "bigint" and isinstance(text := _at(holder, last), str) and re.fullmatch(r"-?\d{1,100}", text):
        _put(holder, last, int(text))
    if kind != "undefined":
        return
    if isinstance(holder, dict):
        holder.pop(last, None)
    else:
        _put(holder, last, None)


def _at(holder: Any, part: Any) -> Any:
    if isinstance(holder, dict):
        return holder.get(part, ABSENT)
    if isinstance(holder, list) and str(part).isdecimal() and int(part) < len(holder):
        return holder[int(part)]
    return ABSENT


def _put(holder: Any, part: Any, value: Any) -> None:
    if _at(holder, part) is not ABSENT:
        holder[part if isinstance(holder, dict) else int(part)] = value
