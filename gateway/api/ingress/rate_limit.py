"""Rate limits of endpoints: requests a minute, and requests in progress at a time.

They are kept in memory by path, so that a request beyond the limit costs no database query. All paths that are not
known to belong to an endpoint share one limiter: whoever guesses paths delays only other guesses.
"""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiohttp import web

from gateway.model.errors import Throttled

_T = TypeVar("_T")

_MAX_LIMITERS = 20_000
_MAX_WAITING = 1000  # requests of one endpoint
_UNKNOWN_RATE = 10_000.0  # requests a second to unknown paths; their slots limit them before
_BURST = 10.0  # seconds' worth of requests that may come at once


class RateLimiter:
    """A token bucket for the rate, and slots for the requests in progress. The rate is in requests a second."""

    __slots__ = ("_capacity", "_filled_at", "_level", "_rate", "_slots", "waiting")

    def __init__(self, rate: float, slots: int) -> None:
        self._rate, self._capacity = rate, max(1.0, rate * _BURST)
        self._level, self._filled_at = self._capacity, time.monotonic()
        self._slots, self.waiting = asyncio.Semaphore(slots), 0

    def count(self) -> None:
        """Count one request; raises Throttled when it is beyond the limit."""
        now = time.monotonic()
        self._level = min(self._level + (now - self._filled_at) * self._rate, self._capacity)
        self._filled_at = now
        if self._level < 1:
            raise Throttled("too many requests to this webhook", retry_after=(1 - self._level) / self._rate)
        if self.waiting >= _MAX_WAITING:
            raise Throttled("too many requests to this webhook are waiting already", retry_after=1)
        self._level -= 1

    def set_rate(self, rate: float) -> None:
        """Change the rate. The request that was counted last counts against the new one."""
        if rate != self._rate:
            self._rate, self._capacity = rate, max(1.0, rate * _BURST)
            self._level = min(self._level, self._capacity - 1)

    async def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run the work when a slot is free, and return its result."""
        self.waiting += 1
        try:
            async with self._slots:
                return await work
        finally:
            self.waiting -= 1
            work.close()


class RateLimiters:
    """One limiter an endpoint; the least recently used are discarded."""

    def __init__(self, *, rate: float, slots: int) -> None:
        self._rate, self._slots = rate, slots
        self._limiters: dict[str, RateLimiter] = {}
        self._unknown_paths = RateLimiter(_UNKNOWN_RATE, max(1, slots // 2))

    def for_path(self, path: str) -> RateLimiter:
        """Return the limiter of a request of which only the path is known yet."""
        limiter = self._limiters.pop(path, None)
        if limiter is None:
            return self._unknown_paths
        self._limiters[path] = limiter
        return limiter

    def for_endpoint(self, path: str, *, rate: float | None) -> RateLimiter:
        """Return the limiter of an endpoint, at its own rate if it has one. A new limiter counts this request."""
        limiter = self._limiters.get(path)
        if limiter is None:
            if len(self._limiters) >= _MAX_LIMITERS:
                del self._limiters[next(iter(self._limiters))]
            limiter = self._limiters[path] = RateLimiter(self._rate, self._slots)
            limiter.count()
        limiter.set_rate(self._rate if rate is None else rate)
        return limiter


RATE_LIMITERS = web.AppKey("rate_limiters", RateLimiters)
