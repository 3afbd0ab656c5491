"""The slots of an engine for rollouts that stop and start containers, and how many of them there are.

An engine does much of that for one container at a time, so each further swap makes all of them take longer. Up to some
number, several swaps at once still end sooner than one after another. That number depends on the machine and its load,
so the gateway finds it by watching how long the swaps take.
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

# Each is as many at once as is tried, after the one before has done well. Where the engine sets no bound, twice as many
# are worth twice as much; where it does, less: so a few swaps show which it is, although their durations differ.
_STEPS = (1, 2, 4, 8, 16)
_FIRST = 2
# Times as good, to go beyond the first number, and back to it: in doubt, the outages stay short.
_CLEARLY, _SLIGHTLY = 1.5, 1.1
_FEW, _ENOUGH, _REMEMBERED = 3, 8, 8  # swaps: to go back to fewer at once, to try more, and those that count
_MANY = 16  # waiting swaps: with fewer, a trial that fails makes all of them take longer
_PATIENCE, _PATIENCE_WITH_HOLDERS = 20.0, 2.0  # seconds
_FRESH = 300.0  # seconds; later, the machine may do other things


class SwapWidth:
    """How many swaps an engine does best at once.

    Twice as long until all are done is as bad as twice as long an outage of each. For a number of swaps, the former is
    their duration over how many run at once, and the latter their duration. So the best width has the most swaps at
    once over the square of their duration.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.now = _FIRST
        self._clock = clock
        #: when the last swaps ended and how long they took, by how many ran at once
        self._seen: defaultdict[int, deque[tuple[float, float]]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))

    def observe(self, at_once: float, seconds: float) -> None:
        """Take a swap into account, and how many ran meanwhile, on average."""
        step = min(_STEPS, key=lambda one: abs(one - at_once))
        self._seen[step].append((self._clock(), seconds))

    def choose(self, waiting: int) -> int:
        """Return the width from now on, for so many swaps that wait."""
        place = _STEPS.index(self.now)
        narrower, wider = _STEPS[max(place - 1, 0)], _STEPS[min(place + 1, len(_STEPS) - 1)]
        worth = self._worth(self.now)
        if worth is None:
            return self.now  # not enough is known
        # A wider number is tried even if nothing is known of it. A narrower one has been measured already.
        if narrower != self.now and (self._worth(narrower) or 0.0) * _advantage(self.now) > worth:
            self.now = narrower
        elif self._may_widen(wider, waiting) and (self._worth(wider) or math.inf) > worth * _advantage(wider):
            self.now = wider
        return self.now

    def _may_widen(self, wider: int, waiting: int) -> bool:
        """Tell whether enough is known of the present width, and a trial of the wider one pays off in what waits."""
        return len(self._fresh(self.now)) >= _ENOUGH and (self._worth(wider) is not None or waiting >= _MANY)

    def _worth(self, width: int) -> float | None:
        fresh = self._fresh(width)
        return width / median(fresh) ** 2 if len(fresh) >= _FEW else None

    def _fresh(self, width: int) -> list[float]:
        """Return the durations of the last swaps, in seconds."""
        return [seconds for at, seconds in self._seen[width] if self._clock() - at < _FRESH]


def _advantage(width: int) -> float:
    """Return how many times as much as the next narrower one this width must be worth."""
    return _CLEARLY if width > _FIRST else _SLIGHTLY


class SwapSlots:
    """Limits how many rollouts stop and start containers on an engine at once.

    Without a limit, as many do as the engine does best.
    """

    def __init__(self, limit: int | None) -> None:
        self._width = SwapWidth() if limit is None else None
        self._limit = limit or _FIRST
        self._free = asyncio.Semaphore(self._limit)
        #: slots that end when they become free
        self._surplus = 0
        self._held: list[str] = []
        #: those that will want a slot in a moment
        self._coming = 0
        self._waiting = 0
        self._nobody_waits = asyncio.Event()
        self._nobody_waits.set()
        self._nobody_holds = asyncio.Event()
        self._nobody_holds.set()
        #: how long the slots were held until a time of the event loop's clock, all together
        self._held_for, self._held_until = 0.0, 0.0

    @property
    def waits_for(self) -> str | None:
        """Return what a new rollout has to wait for: a text with the names of the holders; None when a slot is free."""
        if not self._free.locked():
            return None
        return f"the engine stops and starts {self._limit} at once, now {', '.join(sorted(self._held)) or 'others'}"

    @property
    def crowded(self) -> bool:
        """Whether more want a slot, or will in a moment, than there are."""
        return self._free.locked() or self._coming + len(self._held) >= self._limit

    @property
    def wanted(self) -> bool:
        """Whether somebody holds a slot or waits for one."""
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
        """Hold a slot for the block. One that is not `watched` says nothing about how long the engine takes."""
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
        """Return once nobody waits for a slot or holds one, or after a while.

        What is not urgent takes the engine's time too, and then others are unserved for longer.
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
        """Wake those who let others first, unless somebody holds a slot or waits for one."""
        if not self._held and not self._waiting:
            self._nobody_holds.set()

    def _count(self) -> tuple[float, float]:
        """Return the time, and how long all slots were held until then."""
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
        """Let the next one have a slot, unless there are too many."""
        if self._surplus:
            self._surplus -= 1
        else:
            self._free.release()
