"""How long a registry wants to be left alone, by what it answers. It performs no I/O.

https://docs.docker.com/docker-hub/usage/pulls/ tells what is left as `ratelimit-remaining: 76;w=21600`. When it may be
asked again is told as seconds, as a date (RFC 9110), or as seconds since 1970.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_TROUBLED = frozenset({429, 500, 502, 503, 504})
_REST = 300.0  # seconds, where it does not say
_LONGEST_REST = 6 * 3600.0
_LIMIT = re.compile(r"(\d{1,9})(?:\s*;\s*w=(\d{1,9}))?")
# What is looked for may take half of what the registry grants; the other half is for pulls.
_OURS = 0.5
_PART_OF_WINDOW = 0.1
# In the order of how plainly they mean it.
_WAITS = ("Retry-After", "X-Retry-After", "ratelimit-reset", "x-ratelimit-reset")
_NUMBER = re.compile(r"\d{1,12}(?:\.\d{1,9})?")
_SINCE_1970 = 10**9  # no wait is thirty years


def wait(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """Return the seconds it says to wait, None where it does not say."""
    clock = now or datetime.now(UTC)
    for name in _WAITS:
        seconds = _seconds(headers.get(name, "").strip(), clock)
        if seconds is not None:
            return min(max(seconds, 0.0), _LONGEST_REST)
    return None


def _seconds(told: str, now: datetime) -> float | None:
    if _NUMBER.fullmatch(told):
        number = float(told)
        return number - now.timestamp() if number >= _SINCE_1970 else number
    try:
        date = parsedate_to_datetime(told)
    except ValueError:
        return None
    # A date without a zone is one of the obsolete forms, all of which mean UTC.
    return ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds()


def rest(status: int, headers: Mapping[str, str]) -> float:
    """Return the seconds until it should be asked again, beyond the pace of our own."""
    if status in _TROUBLED:
        told = wait(headers)
        return _REST if told is None else told
    limit, window = _parse(headers.get("ratelimit-limit", ""))
    remaining, _ = _parse(headers.get("ratelimit-remaining", ""))
    if limit is None or remaining is None or remaining > limit * _OURS:
        return 0.0
    return min((window or _REST) * _PART_OF_WINDOW, _LONGEST_REST)


def _parse(header: str) -> tuple[int | None, int | None]:
    found = _LIMIT.match(header.strip())
    if found is None:
        return None, None
    return int(found[1]), int(found[2]) if found[2] else None
