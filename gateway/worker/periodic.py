"""Runs a periodic task on all engines that have something to do. The number of runs that begin in a second is limited.

An engine that hangs delays only its own run.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence

import structlog

from gateway.background import POLL_INTERVAL, TASK_FAILURES, backoff
from gateway.docker.engine.client import ReachedEngine
from gateway.model.errors import DatabaseUnavailable, Postponed
from gateway.store.engines import Place
from gateway.worker.engine_worker import PeriodicTask

_LOG = structlog.get_logger()

_MOST = 50.0  # runs that begin in a second
_LONGEST_PAUSE = 10.0  # seconds after a failure
_SEARCH_PAUSE = 20.0  # the pause until the next search, in durations of the last one: searches take 5 % of the time


class _Runs:
    """The runs of one task: at most one at a time on each daemon."""

    def __init__(self, task: PeriodicTask) -> None:
        self._task = task
        self._running: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, tuple[int, float]] = {}

    def begin(self, reached: ReachedEngine) -> None:
        """Begin a run, unless one is under way, or the last one failed too recently."""
        key = reached.identity.daemon
        if key in self._running or time.monotonic() < self._failures.get(key, (0, 0.0))[1]:
            return
        self._running[key] = asyncio.create_task(self._run(key, reached), name=f"{self._task.name} {key}")

    async def _run(self, key: str, reached: ReachedEngine) -> None:
        try:
            await self._task.run(reached)
        except (Postponed, DatabaseUnavailable) as error:
            _LOG.info("A periodic task waits for the engine", duty=self._task.name, host=key, error=str(error))
            self._failed(key)
        except Exception:
            TASK_FAILURES.labels(self._task.name).inc()
            _LOG.exception("A periodic task failed on an engine", duty=self._task.name, host=key)
            self._failed(key)
        else:
            self._failures.pop(key, None)
        finally:
            del self._running[key]

    def _failed(self, key: str) -> None:
        failures = self._failures.get(key, (0, 0.0))[0] + 1
        self._failures[key] = failures, time.monotonic() + backoff(failures, max(self._task.interval, _LONGEST_PAUSE))

    async def end(self) -> None:
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)


async def run_where_found(
    task: PeriodicTask, find_reached: Callable[[Collection[Place] | None], Sequence[ReachedEngine]]
) -> None:
    """Run the task for ever, on each engine at most once in its interval.

    `find_reached` returns the engines at the places that `task.find` returned; for None, all engines watched here.
    """
    runs = _Runs(task)
    try:
        while True:
            began = time.monotonic()
            places = None if task.find is None else await task.find()
            took = time.monotonic() - began
            reached = find_reached(places)
            for number, one in enumerate(reached, 1):
                runs.begin(one)
                if number % _MOST == 0:
                    await asyncio.sleep(POLL_INTERVAL)
            await asyncio.sleep(max(began + task.interval - time.monotonic(), took * _SEARCH_PAUSE))
    finally:
        await runs.end()
