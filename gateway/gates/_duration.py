"""Durations in rules: `90s`, `30m`, `6h`, `3d`."""

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

_DURATION = re.compile(r"([0-9]{1,8})\s*([smhd])", re.ASCII)
_UNITS = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
MOST = timedelta(days=366)
#: the most seconds of a rule's `wait`
MOST_WAIT = 2 * 366 * 86_400


def parse_duration(given: object) -> timedelta:
    """Parse a duration of at most 366 days; a whole number counts seconds. Raises ValueError.

    >>> parse_duration("6h")
    datetime.timedelta(seconds=21600)
    """
    if isinstance(given, timedelta):
        return given
    if isinstance(given, int) and not isinstance(given, bool) and 0 < given <= MOST.total_seconds():
        return timedelta(seconds=given)
    match = _DURATION.fullmatch(given.strip()) if isinstance(given, str) else None
    length = int(match[1]) * _UNITS[match[2]] if match else timedelta()
    if not timedelta() < length <= MOST:
        raise ValueError("write a duration of at most 366d, such as 90s, 30m, 6h or 3d")
    return length


def format_duration(length: timedelta) -> str:
    """Return a duration as rules have it, in its largest whole unit."""
    seconds = round(length.total_seconds())
    for letter, unit in reversed(_UNITS.items()):
        if seconds % int(unit.total_seconds()) == 0:
            return f"{seconds // int(unit.total_seconds())}{letter}"
    raise AssertionError  # pragma: no cover - one second divides them all


def _serialize(length: timedelta) -> Any:
    return format_duration(length)


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(_serialize)]
