"""Limits how often one thing causes changes by itself, such as labels that somebody's program changes all the time."""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass


@dataclass(slots=True)
class _Level:
    left: float
    at: float
    refused: int = 0


class ChangeBudget:
    """Each key may change `burst` times at once, and then once in `interval` seconds."""

    def __init__(self, burst: int, interval: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._interval = interval
        self._clock = clock
        #: the one that was asked for the longest ago comes first
        self._levels: dict[Hashable, _Level] = {}

    def take(self, key: Hashable) -> int | None:
        """Return how often the key was refused since it was last allowed, and None where it is refused."""
        now = self._clock()
        level = self._levels.pop(key, None) or _Level(self._burst, now)
        level.left, level.at = min(self._burst, level.left + (now - level.at) / self._interval), now
        self._levels[key] = level
        self._forget_full(now)
        if level.left < 1:
            level.refused += 1
            return None
        refused, level.refused = level.refused, 0
        level.left -= 1
        return refused

    def is_empty(self, key: Hashable) -> bool:
        """Tell whether the key has just been refused."""
        return key in self._levels and self._levels[key].refused > 0

    @property
    def known(self) -> int:
        """How many keys are remembered: those that have not been full for a while."""
        return len(self._levels)

    def _forget_full(self, now: float) -> None:
        for key, level in list(self._levels.items())[:2]:
            if now - level.at >= self._burst * self._interval:
                del self._levels[key]
