"""Token buckets: so many at once, and then so many a second."""

import time
from collections.abc import Callable, Hashable
from typing import Protocol

_MAX_BUCKETS = 20_000


class Buckets(Protocol):
    """The levels of token buckets, by name."""

    def take(self, name: str, rate: float, capacity: float, /) -> float:
        """Take one token; return 0, or the seconds until there is one."""

    def lower(self, name: str, level: float, /) -> None:
        """Let the bucket hold no more than this."""


class OwnBuckets:
    """The levels of this process alone; those used the longest ago are discarded, which makes them full again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._levels: dict[Hashable, tuple[float, float]] = {}

    def take(self, name: Hashable, rate: float, capacity: float, /) -> float:
        now = self._clock()
        level, filled_at = self._levels.pop(name, (capacity, now))
        level = min(level + (now - filled_at) * rate, capacity)
        taken = level >= 1
        if len(self._levels) >= _MAX_BUCKETS:
            del self._levels[next(iter(self._levels))]
        self._levels[name] = (level - taken, now)
        return 0.0 if taken else (1 - level) / rate

    def lower(self, name: Hashable, level: float, /) -> None:
        held, filled_at = self._levels.get(name, (level, self._clock()))
        self._levels[name] = (min(held, level), filled_at)
