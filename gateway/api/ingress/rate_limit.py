"""How much one endpoint may ask of us: so many requests a minute, so many at once. A flood waits behind its own gate.

Kept in memory, by path, so that a request that is too many costs no look-up. All paths that are not known to be an
endpoint's share one narrow gate: whoever guesses stands in the way of other guesses.
"""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiohttp import web

from gateway.model.errors import Throttled

_T = TypeVar("_T")

_MOST_GATES = 20_000
_MOST_WAITING = 1000  # requests of one endpoint
_GUESSES = 10_000.0  # requests a second that no endpoint is known for; their slots bound them before
_BURST = 10.0  # seconds' worth of requests that may come at once


class Gate:
    """A bucket that refills at a rate, and a few slots."""

    __slots__ = ("_filled_at", "_level", "_most", "_rate", "_slots", "waiting")

    def __init__(self, rate: float, slots: int) -> None:
        self._rate, self._most = rate, max(1.0, rate * _BURST)
        self._level, self._filled_at = self._most, time.monotonic()
        self._slots, self.waiting = asyncio.Semaphore(slots), 0

    def count(self) -> None:
        """Count one request; raises Throttled where it is one too many."""
        now = time.monotonic()
        self._level = min(self._level + (now - self._filled_at) * self._rate, self._most)
        self._filled_at = now
        if self._level < 1:
            raise Throttled("too many requests to this webhook", retry_after=(1 - self._level) / self._rate)
        if self.waiting >= _MOST_WAITING:
            raise Throttled("too many requests to this webhook wait already", retry_after=1)
        self._level -= 1

    def limit(self, rate: float) -> None:
        """Let this be the rate, in requests a second, the one that was counted last included."""
        if rate != self._rate:
            self._rate, self._most = rate, max(1.0, rate * _BURST)
            self._level = min(self._level, self._most - 1)

    async def through(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do it when a slot is free."""
        self.waiting += 1
        try:
            async with self._slots:
                return await work
        finally:
            self.waiting -= 1
            work.close()


class Gates:
    """One gate an endpoint, those used last kept."""

    def __init__(self, *, rate: float, slots: int) -> None:
        self._rate, self._slots = rate, slots
        self._gates: dict[str, Gate] = {}
        self._strangers = Gate(_GUESSES, max(1, slots // 2))

    def at(self, path: str) -> Gate:
        """Return the gate of a request that nothing is known of but its path."""
        gate = self._gates.pop(path, None)
        if gate is None:
            return self._strangers
        self._gates[path] = gate
        return gate

    def open(self, path: str, *, rate: float | None) -> Gate:
        """Return the gate of an endpoint, at its own rate if it has one; the request that found it is counted."""
        gate = self._gates.get(path)
        if gate is None:
            if len(self._gates) >= _MOST_GATES:
                del self._gates[next(iter(self._gates))]
            gate = self._gates[path] = Gate(self._rate, self._slots)
            gate.count()
        gate.limit(self._rate if rate is None else rate)
        return gate


GATES = web.AppKey("gates", Gates)
