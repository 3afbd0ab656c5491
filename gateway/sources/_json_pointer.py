"""JSON Pointer: https://www.rfc-editor.org/rfc/rfc6901"""

import re
from collections.abc import Sequence

from gateway.model.errors import InvalidInput

_POINTER = re.compile(r"(?:/(?:[^/~]|~[01])*)*")
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


def parse_pointer(text: str) -> tuple[str, ...]:
    """Return the names in the pointer; raises InvalidInput.

    >>> parse_pointer("/push/a~1b")
    ('push', 'a/b')
    """
    if not _POINTER.fullmatch(text):
        raise InvalidInput(f"{text!r} is not a JSON Pointer, as in /repository/name (RFC 6901)", field="settings")
    return tuple(name.replace("~1", "/").replace("~0", "~") for name in text.split("/")[1:])


def resolve(document: object, names: Sequence[str]) -> object:
    """Return the value that the names lead to, None where there is none."""
    found = document
    for name in names:
        if isinstance(found, dict):
            found = found.get(name)
        elif isinstance(found, list) and _INDEX.fullmatch(name) and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found
