"""Read untrusted JSON: whatever a body holds, these functions return or raise InvalidInput.

The request's size is limited before, nesting by orjson (1024 levels), and the length of lists here.
"""

import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote_to_bytes

import orjson

from gateway.model.errors import InvalidInput, TooLarge

#: push events, or tags, in one delivery
MAX_EVENTS = 1000

_FORM = b"payload="
_T = TypeVar("_T")


@dataclass(slots=True)  # freezing would take as long as all the rest
class Part:
    """One object of a payload. Absent and null members read as empty; another type raises InvalidInput."""

    members: Mapping[str, object]
    path: str = ""

    def __bool__(self) -> bool:
        return bool(self.members)

    def __contains__(self, name: str) -> bool:
        return name in self.members

    def text(self, name: str) -> str:
        value = self.members.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self._wrong(name, "text")
        return value

    def part(self, name: str) -> "Part":
        value, path = self.members.get(name), self._field(name)
        return Part({}, path) if value is None else _object(value, path)

    def parts(self, name: str) -> list["Part"]:
        value = self.members.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._wrong(name, "a list")
        return _objects(value, self._field(name))

    def texts(self, name: str) -> list[str]:
        """Return a list of texts, or the names of an object's members."""
        value = self.members.get(name)
        listed = [] if value is None else list(value) if isinstance(value, list | dict) else None
        if listed is None or not all(isinstance(one, str) for one in listed):
            raise self._wrong(name, "a list of texts")
        return check_length(listed, self._field(name))

    def _field(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def _wrong(self, name: str, wanted: str) -> InvalidInput:
        field = self._field(name)
        return InvalidInput(f"{field} is not {wanted}", field=field)


def decode_form(body: bytes) -> bytes:
    """Return the JSON in the `payload` field of a form, and any other body unchanged."""
    if not body.startswith(_FORM):
        return body
    return unquote_to_bytes(body.removeprefix(_FORM).partition(b"&")[0].replace(b"+", b" "))


def parse_object(body: bytes) -> Part:
    """Parse a body that must be one object; raises InvalidInput."""
    return _object(parse_value(body), "")


def parse_objects(body: bytes) -> list[Part]:
    """Parse a body that is one object or an array of them; raises InvalidInput."""
    loaded = parse_value(body)
    return _objects(loaded, "") if isinstance(loaded, list) else [_object(loaded, "")]


def parse_value(body: bytes) -> object:
    """Parse a body of any JSON type; raises InvalidInput, also for a byte order mark, which no registry sends."""
    if body.startswith(codecs.BOM_UTF8):
        raise InvalidInput("the body begins with a byte order mark: send JSON without one")
    try:
        loaded: object = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}") from error
    return loaded


def strip_byte_order_mark(body: bytes) -> bytes:
    """Return a body without the byte order mark that some editors and shells put before JSON."""
    return body.removeprefix(codecs.BOM_UTF8)


def _object(value: object, path: str) -> Part:
    if not isinstance(value, dict):
        raise InvalidInput(f"{path or 'the body'} is not an object", field=path or None)
    return Part(value, path)


def _objects(values: list[object], path: str) -> list[Part]:
    return [_object(value, f"{path}[{index}]") for index, value in enumerate(check_length(values, path))]


def check_length(values: list[_T], path: str) -> list[_T]:
    """Return the values; raises TooLarge where there are more than one delivery may report."""
    if len(values) > MAX_EVENTS:
        what = path or "the body"
        raise TooLarge(
            f"{what} lists {len(values)}: one delivery reports at most {MAX_EVENTS} pushes", field=path or None
        )
    return values
