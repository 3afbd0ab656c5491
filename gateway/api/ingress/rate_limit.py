"""Rate limits of endpoints: requests a minute, and requests in progress at a time.

They are kept in memory by path, so that a request beyond the limit costs no database query. All paths that are not
known to belong to an endpoint share one limiter, so a sender that guesses paths delays only other guesses. The
processes of a gateway share the rates; each has its part of the slots.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiohttp import web

from gateway.model.errors import Throttled
from gateway.token_buckets import Buckets

_T = TypeVar("_T")

_MAX_LIMITERS = 20_000
_MAX_WAITING = 1000  # requests of one endpoint
_UNKNOWN_RATE = 10_000.0  # requests a second to unknown paths; in practice their slots are the limit
_BURST = 10.0  # seconds' worth of requests that may come at once


class RateLimiter:
    """A token bucket for the rate, and slots for the requests in progress. The rate is in requests a second."""

    __slots__ = ("_buckets", "_capacity", "_path", "_rate", "_slots", "_uncounted", "waiting")

    def __init__(self, path: str, buckets: Buckets, rate: float, slots: int) -> None:
        self._path, self._buckets = path, buckets
        self._rate, self._capacity = rate, max(1.0, rate * _BURST)
        self._slots, self.waiting, self._uncounted = asyncio.Semaphore(slots), 0, 0

    def count(self) -> None:
        """Count one request; raises Throttled when it is beyond the limit."""
        if self.waiting >= _MAX_WAITING:
            raise Throttled("too many requests to this webhook are waiting already", retry_after=1)
        if self._uncounted:
            self._uncounted -= 1
        elif wait := self._buckets.take(self._path, self._rate, self._capacity):
            raise Throttled("too many requests to this webhook", retry_after=wait)

    def uncount(self) -> None:
        """Take back one counted request: the next call of `count` takes no token."""
        self._uncounted += 1

    def set_rate(self, rate: float) -> None:
        """Change the rate. The request that was counted last counts against the new rate."""
        if rate != self._rate:
            self._rate, self._capacity = rate, max(1.0, rate * _BURST)
            self._buckets.lower(self._path, self._capacity - 1)

    async def wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run the work without a slot, count it as waiting, and return its result."""
        self.waiting += 1
        try:
            return await work
        finally:
            self.waiting -= 1

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

    def __init__(self, buckets: Buckets, *, rate: float, slots: int) -> None:
        self._buckets, self._rate, self._slots = buckets, rate, slots
        self._limiters: dict[str, RateLimiter] = {}
        self._unknown_paths = RateLimiter("", buckets, _UNKNOWN_RATE, max(1, slots // 2))

    def for_path(self, path: str) -> RateLimiter:
        """Return the limiter of a request before its endpoint is known."""
        return self.of_endpoint(path) or self._unknown_paths

    def of_endpoint(self, path: str) -> RateLimiter | None:
        """Return the limiter of an endpoint that was used before; None for any other path."""
        limiter = self._limiters.pop(path, None)
        if limiter is not None:
            self._limiters[path] = limiter
        return limiter

    def for_endpoint(self, path: str, *, rate: float | None) -> RateLimiter:
        """Return the limiter of an endpoint, at its own rate if it has one. A new limiter counts this request."""
        rate, limiter = self._rate if rate is None else rate, self._limiters.get(path)
        if limiter is None:
            if len(self._limiters) >= _MAX_LIMITERS:
                del self._limiters[next(iter(self._limiters))]
            limiter = self._limiters[path] = RateLimiter(path, self._buckets, rate, self._slots)
            limiter.count()
        limiter.set_rate(rate)
        return limiter


RATE_LIMITERS = web.AppKey("rate_limiters", RateLimiters)
