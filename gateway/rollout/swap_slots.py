"""The slots of an engine for rollouts that stop and start containers, and how many slots there are.

An engine does much of the work of a swap for one container at a time, so each further swap slows down all others. Up to
some number, several swaps at once still end sooner than one after another. That number depends on the machine and its
load, so the gateway finds it by measuring how long the swaps take.
"""

import asyncio
import math
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from statistics import median

import structlog

_LOG = structlog.get_logger()

# The widths that are tried, each after the width before it has done well. As long as the engine is not the limit, the
# double width is worth twice as much, and less beyond that. So a few swaps show the limit, although durations vary.
_STEPS = (1, 2, 4, 8, 16)
_FIRST = 2
# How many times as good a width must be as the next narrower one: above the first width, and up to it. In doubt, fewer
# swaps run at once, so that each outage stays short.
_CLEARLY, _SLIGHTLY = 1.5, 1.1
_FEW, _ENOUGH, _REMEMBERED = 3, 8, 8  # swaps measured at a width: to judge it, to try a wider one, and remembered
_MANY = 16  # swaps that must wait before an unknown width is tried, since a trial that fails slows all of them down
_PATIENCE, _PATIENCE_WITH_HOLDERS = 20.0, 2.0  # seconds, see `let_others_first`
_FRESH = 300.0  # seconds for which a duration counts, since the load of the machine changes


class SwapWidth:
    """Finds the width: how many swaps at once are best for an engine.

    Two costs count alike: the time until all swaps are done, and the outage of each. If swaps take d seconds at width
    w, the first is in proportion to d / w, and the second to d. So the best width has the greatest w / d².
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.now = _FIRST
        self._clock = clock
        #: by width, the last swaps: when each ended, by `clock`, and its duration in seconds
        self._seen: defaultdict[int, deque[tuple[float, float]]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))

    def observe(self, at_once: float, seconds: float) -> None:
        """Take into account the duration of a swap, while `at_once` swaps ran on average."""
        step = min(_STEPS, key=lambda one: abs(one - at_once))
        self._seen[step].append((self._clock(), seconds))

    def choose(self, waiting: int) -> int:
        """Return the width from now on, while `waiting` swaps wait."""
        place = _STEPS.index(self.now)
        narrower, wider = _STEPS[max(place - 1, 0)], _STEPS[min(place + 1, len(_STEPS) - 1)]
        worth = self._worth(self.now)
        if worth is None:
            return self.now  # not enough is known
        # A wider width is tried even if it was never measured. A narrower width was measured already.
        if narrower != self.now and (self._worth(narrower) or 0.0) * _advantage(self.now) > worth:
            self.now = narrower
        elif self._may_widen(wider, waiting) and (self._worth(wider) or math.inf) > worth * _advantage(wider):
            self.now = wider
        return self.now

    def _may_widen(self, wider: int, waiting: int) -> bool:
        """Tell whether the present width is well measured, and the wider one is too or enough swaps wait to try it."""
        return len(self._fresh(self.now)) >= _ENOUGH and (self._worth(wider) is not None or waiting >= _MANY)

    def _worth(self, width: int) -> float | None:
        """Return w / d² of the width, None if too few swaps were measured at it."""
        fresh = self._fresh(width)
        return width / median(fresh) ** 2 if len(fresh) >= _FEW else None

    def _fresh(self, width: int) -> list[float]:
        """Return the durations in seconds of the last swaps at the width."""
        return [seconds for at, seconds in self._seen[width] if self._clock() - at < _FRESH]


def _advantage(width: int) -> float:
    """Return how many times the worth of the next narrower width this width must have."""
    return _CLEARLY if width > _FIRST else _SLIGHTLY


class SwapSlots:
    """Limits how many rollouts stop and start containers on an engine at once.

    Without a limit, `SwapWidth` finds it.
    """

    def __init__(self, limit: int | None) -> None:
        self._width = SwapWidth() if limit is None else None
        self._limit = limit or _FIRST
        self._free = asyncio.Semaphore(self._limit)
        #: slots to be removed when they become free, after the limit was lowered
        self._surplus = 0
        self._held: list[str] = []
        #: rollouts that will want a slot in a moment
        self._coming = 0
        self._waiting = 0
        self._nobody_waits = asyncio.Event()
        self._nobody_waits.set()
        self._nobody_holds = asyncio.Event()
        self._nobody_holds.set()
        #: the seconds for which slots were held, summed over all slots, and until when, by the event loop's clock
        self._held_for, self._held_until = 0.0, 0.0

    @property
    def waits_for(self) -> str | None:
        """Return what a new rollout has to wait for: a text with the names of the holders; None when a slot is free."""
        if not self._free.locked():
            return None
        return f"the engine stops and starts {self._limit} at once, now {', '.join(sorted(self._held)) or 'others'}"

    @property
    def crowded(self) -> bool:
        """Whether a further rollout would have to wait for a slot, now or in a moment."""
        return self._free.locked() or self._coming + len(self._held) >= self._limit

    @property
    def wanted(self) -> bool:
        """Whether a rollout holds a slot or waits for one."""
        return bool(self._held or self._waiting)

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Count a rollout that will want a slot directly after the block."""
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    @asynccontextmanager
    async def hold(self, name: str, *, watched: bool = True) -> AsyncIterator[None]:
        """Hold a slot for the block. Unless `watched`, the duration of the block does not count for the width."""
        await self._acquire()
        began, held_for = self._count()
        self._held.append(name)
        self._nobody_holds.clear()
        try:
            yield
            if watched:
                self._learn(began, held_for)
        finally:
            self._count()
            self._held.remove(name)
            self._tell_if_free()
            self._release()

    async def let_others_first(self) -> None:
        """Return once no rollout waits for a slot or holds one, or after a while.

        Work that is not urgent calls this first: it takes the engine's time, and would lengthen the outages of others.
        """
        for nobody, patience in ((self._nobody_waits, _PATIENCE), (self._nobody_holds, _PATIENCE_WITH_HOLDERS)):
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await nobody.wait()

    async def _acquire(self) -> None:
        self._waiting += 1
        self._nobody_waits.clear()
        try:
            await self._free.acquire()
        except BaseException:
            self._stop_waiting()
            self._tell_if_free()
            raise
        self._stop_waiting()

    def _stop_waiting(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._nobody_waits.set()

    def _tell_if_free(self) -> None:
        """Wake the callers of `let_others_first`, unless a rollout holds a slot or waits for one."""
        if not self._held and not self._waiting:
            self._nobody_holds.set()

    def _count(self) -> tuple[float, float]:
        """Return the time now, and the seconds for which slots were held until now, summed over all slots."""
        now = asyncio.get_running_loop().time()
        self._held_for += len(self._held) * (now - self._held_until)
        self._held_until = now
        return now, self._held_for

    def _learn(self, began: float, held_for: float) -> None:
        """Learn from a swap that has ended, and change the limit while others wait."""
        ended, held_for_then = self._count()
        if self._width is None or ended <= began:
            return
        self._width.observe((held_for_then - held_for) / (ended - began), ended - began)
        if self._waiting and (width := self._width.choose(self._waiting)) != self._limit:
            _LOG.info("Another number of swaps at once is tried", swaps=width, before=self._limit)
            self._surplus += max(self._limit - width, 0)
            for _ in range(width - self._limit):
                self._release()
            self._limit = width

    def _release(self) -> None:
        """Free a slot for the next rollout, or remove the slot if there are too many."""
        if self._surplus:
            self._surplus -= 1
        else:
            self._free.release()
