"""Runs a periodic task on all engines that have something to do, so many in a second at most.

An engine that hangs holds up its own run alone.
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
_SHARE = 20.0  # how many times as long as the search takes until the next one


class _Runs:
    """The runs of one task, by daemon: one at a time on each."""

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
    """Run the task for ever: at most once in its interval on each engine."""
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
            await asyncio.sleep(max(began + task.interval - time.monotonic(), took * _SHARE))
    finally:
        await runs.end()
