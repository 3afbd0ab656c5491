"""How long a registry wants to be left alone, by what it answers. It performs no I/O.

https://docs.docker.com/docker-hub/usage/pulls/ tells what is left as `ratelimit-remaining: 76;w=21600`.
"""

import re
from collections.abc import Mapping

_TROUBLED = frozenset({429, 500, 502, 503, 504})
_REST = 300.0  # seconds, where it does not say
_LONGEST_REST = 6 * 3600.0
_LIMIT = re.compile(r"(\d{1,9})(?:\s*;\s*w=(\d{1,9}))?")
# What is looked for may take half of what the registry grants; the other half is for pulls.
_OURS = 0.5
_PART_OF_WINDOW = 0.1


def rest(status: int, headers: Mapping[str, str]) -> float:
    """Return the seconds until it should be asked again, beyond the pace of our own."""
    told = headers.get("Retry-After", "")
    if status in _TROUBLED:
        return min(float(told), _LONGEST_REST) if told.isdecimal() else _REST
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
