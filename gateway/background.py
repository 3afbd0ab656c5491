"""Background tasks and their one owner: a task that fails is logged, counted and started again.

/readyz names a task that keeps failing until it has run for a while.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from prometheus_client import Counter, Gauge

from gateway.model.errors import DatabaseUnavailable, Postponed, Unavailable

TASK_FAILURES = Counter("gateway_loop_failures_total", "Failures of background tasks.", ["loop"])
FAILING_TASKS = Gauge("gateway_loops_failing", "Background tasks that keep failing.", ["loop"])

_LOG = structlog.get_logger()

T = TypeVar("T")

POLL_INTERVAL = 1.0  # seconds; a notification wakes a task sooner, this is for what sends none
_LONGEST_PAUSE = 10.0  # seconds before a task that keeps failing is started again
_MOST_DOUBLINGS = 16
_FAILING_AFTER = 3  # failures in a row
# Seconds that a task must run to count as recovered: after a defect, and after another part was unavailable.
_STEADY, _STEADY_AGAIN = 30.0, 3.0


@dataclass(slots=True, eq=False)
class BackgroundTask:
    """A task and its state. `about` tells tasks of the same name apart."""

    name: str
    about: str = ""
    #: in a row
    failures: int = 0
    error: str = ""
    #: whether the last failure was that another part is unavailable
    waits: bool = False
    #: when it was started, by the monotonic clock; None while it waits to be started again
    started: float | None = None

    @property
    def failing(self) -> bool:
        """Whether it keeps failing."""
        return self.failures >= _FAILING_AFTER and not self.steady

    @property
    def steady(self) -> bool:
        enough = _STEADY_AGAIN if self.waits else _STEADY
        return self.started is not None and time.monotonic() - self.started >= enough


@dataclass(slots=True)
class BackgroundTasks:
    """Owns the background tasks of a process."""

    _tasks: set[BackgroundTask] = field(default_factory=set)

    @property
    def failing(self) -> Sequence[BackgroundTask]:
        """The tasks that keep failing."""
        return sorted((one for one in self._tasks if one.failing), key=lambda one: (one.name, one.about))

    def start(
        self, name: str, act: Callable[[], Awaitable[None]], *, about: str = "", patience: float = POLL_INTERVAL
    ) -> asyncio.Task[None]:
        """Run `act` until it returns or the returned task is cancelled.

        When it fails it is started again after a pause, which doubles each time: up to `patience` seconds when
        another part is unavailable, up to ten seconds or more when the failure is a defect.
        """
        owned = BackgroundTask(name, about)
        self._tasks.add(owned)
        TASK_FAILURES.labels(name)  # there from the start, at 0
        task = asyncio.create_task(self._run(owned, act, patience), name=f"{name} {about}".strip())
        task.add_done_callback(lambda _: self._tasks.discard(owned))
        return task

    @asynccontextmanager
    async def running(self, name: str, act: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """Run `act` until the block is left."""
        task = self.start(name, act)
        try:
            yield
        finally:
            await cancel_and_wait(task)

    async def _run(self, owned: BackgroundTask, act: Callable[[], Awaitable[None]], patience: float) -> None:
        while True:
            owned.started = time.monotonic()
            try:
                return await act()
            except asyncio.CancelledError as error:
                if _is_cancelled():
                    raise
                failure: BaseException = error  # from something that it awaited
            except Exception as error:
                failure = error
            if _is_cancelled():
                return None  # a failure during the cancellation does not start it again
            await asyncio.sleep(self._failed(owned, failure, patience))

    def _failed(self, owned: BackgroundTask, failure: BaseException, patience: float) -> float:
        """Record the failure, and return the seconds before it is started again."""
        if owned.steady:
            owned.failures = 0
        owned.failures, owned.started = owned.failures + 1, None
        owned.error, owned.waits = f"{type(failure).__name__}: {failure}", isinstance(failure, Unavailable)
        TASK_FAILURES.labels(owned.name).inc()
        fields = {"loop": owned.name, "about": owned.about, "failures": owned.failures}
        if owned.waits:
            _LOG.warning("A background task waits for a part that is unavailable", **fields, error=str(failure))
        else:
            _LOG.error("A background task failed", **fields, exc_info=failure)
        longest = patience if owned.waits else max(patience, _LONGEST_PAUSE)
        return backoff(owned.failures, longest)

    def observe(self) -> Sequence[BackgroundTask]:
        """Return the tasks that keep failing, and set their metric."""
        FAILING_TASKS.clear()
        for one in self.failing:
            FAILING_TASKS.labels(one.name).inc()
        return self.failing


@contextmanager
def isolate_failures(name: str, about: str) -> Iterator[None]:
    """Log and count a defect in the block, so that the loop around it goes on with the next item."""
    try:
        yield
    except (DatabaseUnavailable, Postponed):
        raise
    except Exception:
        TASK_FAILURES.labels(name).inc()
        _LOG.exception("An item of a background task failed", loop=name, about=about)


def backoff(failures: int, longest: float) -> float:
    """Return the seconds before the next attempt after so many failures in a row: each time twice as many."""
    return float(min(POLL_INTERVAL * 2 ** min(failures - 1, _MOST_DOUBLINGS), longest))


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


@asynccontextmanager
async def beside(act: Coroutine[object, object, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Run `act` beside the block, and end it with the block. Whoever awaits the task gets its result or its error."""
    task = asyncio.ensure_future(act)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def cancel_and_wait(*tasks: asyncio.Task[None]) -> None:
    """Cancel the tasks, and return when they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
