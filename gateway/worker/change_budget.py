"""Limits how often one thing may cause changes, such as labels that a program changes all the time."""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from gateway.token_buckets import OwnBuckets

_MOST_COUNTED = 10_000  # things whose refusals are counted


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a thing may change now, and how often it was refused since it was last allowed to."""

    allowed: bool
    refused_before: int


class ChangeBudget:
    """Each thing may change `burst` times at once, and then once in `interval` seconds."""

    def __init__(self, burst: int, interval: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._rate = 1 / interval
        self._buckets = OwnBuckets(clock)
        self._refused: dict[Hashable, int] = {}

    def take(self, thing: Hashable) -> Verdict:
        """Decide whether the thing may change now. If it may, this counts as a change."""
        refused = self._refused.pop(thing, 0)
        if not self._buckets.take(thing, self._rate, self._burst):
            return Verdict(allowed=True, refused_before=refused)
        if len(self._refused) >= _MOST_COUNTED:
            self._refused.clear()
        self._refused[thing] = refused + 1
        return Verdict(allowed=False, refused_before=refused)
