"""Loops in the background, and their one owner: a loop that fails is logged, counted, and begun again.

One that keeps failing is named by /readyz until it has gone on for a while.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import structlog
from prometheus_client import Counter, Gauge

from gateway.model.errors import DatabaseUnavailable, Postponed, Unavailable

TASK_FAILURES = Counter("gateway_loop_failures_total", "How often a loop in the background failed.", ["loop"])
FAILING_TASKS = Gauge("gateway_loops_failing", "Loops in the background that do not recover.", ["loop"])

_LOG = structlog.get_logger()

POLL_INTERVAL = 1.0  # seconds; a notification comes sooner, this is for what nobody tells
_LONGEST_PAUSE = 10.0  # seconds until a loop that keeps failing is begun again
_MOST_DOUBLINGS = 16
_TOLD_AFTER = 3  # failures in a row
# Seconds a loop must go on to have recovered: one that only waited for somebody else does so at once.
_STEADY, _STEADY_AGAIN = 30.0, 3.0


@dataclass(slots=True, eq=False)
class BackgroundTask:
    """A loop, and how it fares. `about` says which of several it is."""

    name: str
    about: str = ""
    #: in a row
    failures: int = 0
    error: str = ""
    #: whether it waits for a part that does not answer, which heals by itself
    waits: bool = False
    #: when it was begun, None while it waits to be begun again; by the machine's clock
    begun: float | None = None

    @property
    def failing(self) -> bool:
        """Whether it does not recover."""
        return self.failures >= _TOLD_AFTER and not self.steady

    @property
    def steady(self) -> bool:
        enough = _STEADY_AGAIN if self.waits else _STEADY
        return self.begun is not None and time.monotonic() - self.begun >= enough


@dataclass(slots=True)
class BackgroundTasks:
    """The loops of a process."""

    _loops: set[BackgroundTask] = field(default_factory=set)

    @property
    def failing(self) -> Sequence[BackgroundTask]:
        """Return those that do not recover."""
        return sorted((loop for loop in self._loops if loop.failing), key=lambda loop: (loop.name, loop.about))

    def start(
        self, name: str, act: Callable[[], Awaitable[None]], *, about: str = "", patience: float = POLL_INTERVAL
    ) -> asyncio.Task[None]:
        """Begin it in a task that ends only when it returns, or is cancelled.

        It is begun again after a pause that doubles each time: up to `patience` where a part does not answer that it
        needs, at least up to ten seconds where it fails on a defect.
        """
        loop = BackgroundTask(name, about)
        self._loops.add(loop)
        task = asyncio.create_task(self._go_on(loop, act, patience), name=f"{name} {about}".strip())
        task.add_done_callback(lambda _: self._loops.discard(loop))
        return task

    @asynccontextmanager
    async def running(self, name: str, act: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """Let it go on until the block is left."""
        task = self.start(name, act)
        try:
            yield
        finally:
            await cancel_and_wait(task)

    async def _go_on(self, loop: BackgroundTask, act: Callable[[], Awaitable[None]], patience: float) -> None:
        while True:
            loop.begun = time.monotonic()
            try:
                return await act()
            except asyncio.CancelledError as error:
                if _is_cancelled():
                    raise
                failure: BaseException = error  # of something it waited for
            except Exception as error:
                failure = error
            if _is_cancelled():
                return None  # a failure on the way out must not begin it again
            await asyncio.sleep(self._failed(loop, failure, patience))

    def _failed(self, loop: BackgroundTask, failure: BaseException, patience: float) -> float:
        """Write down that it failed; return the seconds until it is begun again."""
        if loop.steady:
            loop.failures = 0
        loop.failures, loop.begun = loop.failures + 1, None
        loop.error, loop.waits = f"{type(failure).__name__}: {failure}", isinstance(failure, Unavailable)
        TASK_FAILURES.labels(loop.name).inc()
        told = {"loop": loop.name, "about": loop.about, "failures": loop.failures}
        if loop.waits:
            _LOG.warning("A loop waits for what does not answer", **told, error=str(failure))
        else:
            _LOG.error("A loop failed", **told, exc_info=failure)
        longest = patience if loop.waits else max(patience, _LONGEST_PAUSE)
        return backoff(loop.failures, longest)

    def observe(self) -> Sequence[BackgroundTask]:
        """Return those that do not recover, counted in the metrics."""
        FAILING_TASKS.clear()
        for loop in self.failing:
            FAILING_TASKS.labels(loop.name).inc()
        return self.failing


@contextmanager
def isolate_failures(name: str, about: str) -> Iterator[None]:
    """Let a defect with one of many be logged and counted, and end nothing for the others."""
    try:
        yield
    except (DatabaseUnavailable, Postponed):
        raise
    except Exception:
        TASK_FAILURES.labels(name).inc()
        _LOG.exception("One of many failed", loop=name, about=about)


def backoff(failures: int, longest: float) -> float:
    """Return the seconds until it is tried again after so many failures in a row: twice as many each time."""
    return float(min(POLL_INTERVAL * 2 ** min(failures - 1, _MOST_DOUBLINGS), longest))


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def cancel_and_wait(*tasks: asyncio.Task[None]) -> None:
    """Cancel them, and return once they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
