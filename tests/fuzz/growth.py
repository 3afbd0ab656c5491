"""The growth check: a worst case four times as long may cost six times as much, in processor time and in memory.

`worst.py` has the cases, a line each. `make test` runs each of them up to a small size, `make fuzz` up to what the
gateway accepts: `python -m tests.fuzz.growth [PART OF A NAME]`.
"""

import gc
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from gateway.model.errors import GatewayError

MOST = 6.0  # times the cost, for four times the size
START = 1 << 10
SAMPLE = 1 << 16  # the largest size in `make test`
WHOLE = 1 << 20  # the largest size in `make fuzz`: what one request may have
# Below these nobody is hurt, and nothing is measured well.
_NEGLIGIBLE = 0.01  # seconds
_LITTLE = 8 << 20  # bytes
_TRIES = 8


@dataclass(frozen=True, slots=True)
class Case:
    """`make(n)` builds a valid input of about n bytes, `run` reads it; a refusal is an answer too."""

    name: str
    run: Callable[[Any], object]
    make: Callable[[int], Any]
    #: the largest size that reaches it, where another bound is met before
    largest: int = WHOLE


@dataclass(frozen=True, slots=True)
class Growth:
    """What four times the size costs."""

    size: int
    seconds: float
    time: float
    memory: float

    @property
    def held(self) -> bool:
        return self.time <= MOST and self.memory <= MOST

    def __str__(self) -> str:
        return f"{self.size:>8} bytes {self.seconds * 1000:>8.1f} ms  time x{self.time:.1f}  memory x{self.memory:.1f}"


def measure(case: Case, largest: int) -> Growth:
    """Return how its cost grows, at the first size that costs enough to tell, or at the largest."""
    with paused_collector():
        return _measure(case, min(largest, case.largest))


@contextmanager
def paused_collector() -> Iterator[None]:
    """Collect no garbage meanwhile: what a collection costs depends on all that the process holds."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _measure(case: Case, largest: int) -> Growth:
    size = START
    while True:
        size = min(size * 4, largest)
        small, large = case.make(size // 4), case.make(size)
        seconds = _seconds(case.run, large)
        if seconds >= _NEGLIGIBLE or size == largest:
            break
    growth = _time(case, small, large, size) if seconds >= _NEGLIGIBLE else 0.0
    return Growth(size, seconds, growth, _memory(case, small, large))


def _time(case: Case, small: Any, large: Any, size: int) -> float:
    """Return how much more time the larger one takes.

    Memory that the processor's cache no longer holds makes one step dear, as of an index that grows from 256 KB to
    1 MB. The step after it tells that from a cost that goes on growing.
    """
    growth = _ratio(case.run, small, large)
    if growth > MOST and (after := _ratio(case.run, large, case.make(size * 4))) > 1:  # no refusal, which costs nothing
        growth = min(growth, after)
    return growth


def _ratio(run: Callable[[Any], object], small: Any, large: Any) -> float:
    return smallest_ratio(lambda given: _seconds(run, given), small, large, times=4, most=MOST)


def smallest_ratio(cost: Callable[[Any], float], small: Any, large: Any, *, times: int, most: float) -> float:
    """Return the smallest ratio of the two costs in some tries, or the first that is not above `most`.

    Other programs slow a busy core down, in processor time too. So the large one, `times` as long, is compared with as
    many runs of the small one, before and after it: what grows in proportion takes as long as they do, at the same
    moment.
    """

    def reference() -> float:
        return sum(cost(small) for _ in range(times)) / times

    least, before = float("inf"), reference()
    for _ in range(_TRIES):
        above, after = cost(large), reference()
        least = min(least, above / max(min(before, after), 1e-6))
        if least <= most:
            break
        before = after
    return least


def _memory(case: Case, small: Any, large: Any) -> float:
    above = _peak(case.run, large)
    return 0.0 if above < _LITTLE else above / max(_peak(case.run, small), 1)


def _seconds(run: Callable[[Any], object], given: Any) -> float:
    """Return processor time of this thread, without that of other programs."""
    began = time.thread_time()
    with suppress(GatewayError, ValueError):
        run(given)
    return time.thread_time() - began


def _peak(run: Callable[[Any], object], given: Any) -> int:
    tracemalloc.start()
    try:
        with suppress(GatewayError, ValueError):
            run(given)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def main(wanted: str, largest: int = WHOLE) -> int:
    """Measure each case, print a line about it, and return 1 where one grows too fast."""
    from tests.fuzz.worst import cases

    broken = 0
    for case in cases():
        if wanted in case.name:
            growth = measure(case, largest)
            broken += not growth.held
            sys.stdout.write(f"{case.name:60} {growth}  {'held' if growth.held else 'BROKE'}\n")
            sys.stdout.flush()
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
