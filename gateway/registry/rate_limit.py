"""Read a registry's rate limit from its response headers. It performs no I/O.

Docker Hub sends the remaining pulls as `ratelimit-remaining: 76;w=21600`: https://docs.docker.com/docker-hub/usage/pulls/
Registries send the time until the next request as seconds, as a date (RFC 9110), or as seconds since 1970.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_ERRORS = frozenset({429, 500, 502, 503, 504})
_DEFAULT = 300.0  # seconds, where the registry does not say
_MAX = 6 * 3600.0
_LIMIT = re.compile(r"(\d{1,9})(?:\s*;\s*w=(\d{1,9}))?")
# Polling may use half of the limit. The other half is for pulls.
_POLLING_SHARE = 0.5
_WINDOW_SHARE = 0.1
# In the order of precedence.
_RETRY_HEADERS = ("Retry-After", "X-Retry-After", "ratelimit-reset", "x-ratelimit-reset")
_NUMBER = re.compile(r"\d{1,12}(?:\.\d{1,9})?")
_SINCE_1970 = 10**9  # a larger number is a time, and not a wait of thirty years


def retry_after(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """Return the seconds that the registry asks to wait, None where it does not say."""
    clock = now or datetime.now(UTC)
    for name in _RETRY_HEADERS:
        seconds = _seconds(headers.get(name, "").strip(), clock)
        if seconds is not None:
            return min(max(seconds, 0.0), _MAX)
    return None


def _seconds(header: str, now: datetime) -> float | None:
    if _NUMBER.fullmatch(header):
        number = float(header)
        return number - now.timestamp() if number >= _SINCE_1970 else number
    try:
        date = parsedate_to_datetime(header)
    except (ValueError, OverflowError):  # OverflowError: a number that no date can have
        return None
    # A date without a zone is in an obsolete form of RFC 9110, all of which mean UTC.
    return ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds()


def cooldown(status: int, headers: Mapping[str, str]) -> float:
    """Return for how many seconds the poller leaves the registry alone, in addition to its interval."""
    if status in _ERRORS:
        header = retry_after(headers)
        return _DEFAULT if header is None else header
    limit, window = _parse(headers.get("ratelimit-limit", ""))
    remaining, _ = _parse(headers.get("ratelimit-remaining", ""))
    if limit is None or remaining is None or remaining > limit * _POLLING_SHARE:
        return 0.0
    return min((window or _DEFAULT) * _WINDOW_SHARE, _MAX)


def _parse(header: str) -> tuple[int | None, int | None]:
    found = _LIMIT.match(header.strip())
    if found is None:
        return None, None
    return int(found[1]), int(found[2]) if found[2] else None
