"""Make a call once for all who want the same at the same time."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Call(Generic[T]):
    """A call under way, and how many wait for it."""

    task: asyncio.Task[T]
    waiting: int = 0


class SingleFlight(Generic[T]):
    """Calls under way, by a key that contains everything that their result depends on, also who may ask.

    Every waiting caller gets the result or the error. A caller that is cancelled leaves the call to the others. The
    last caller that is cancelled also cancels the call, and waits until it has ended.
    """

    def __init__(self) -> None:
        self._begun: dict[Hashable, _Call[T]] = {}
        self._next: dict[Hashable, _Call[T]] = {}

    async def join(self, key: Hashable, make: Callable[[], Coroutine[object, object, T]]) -> T:
        """Return the result of the call under way, else of a new one. For results that never change."""
        return await self._wait_for(key, self._begun.get(key) or self._next_call(key, make))

    async def join_next(self, key: Hashable, make: Callable[[], Coroutine[object, object, T]]) -> T:
        """Return the result of the next call, which begins when the one under way has ended.

        For results that change: a call that began before this one may return what is out of date.
        """
        return await self._wait_for(key, self._next_call(key, make))

    def _next_call(self, key: Hashable, make: Callable[[], Coroutine[object, object, T]]) -> _Call[T]:
        if (call := self._next.get(key)) is None:
            call = self._next[key] = _Call(asyncio.create_task(self._make(key, make, self._begun.get(key))))
        return call

    async def _make(
        self, key: Hashable, make: Callable[[], Coroutine[object, object, T]], before: _Call[T] | None
    ) -> T:
        if before is not None:
            await asyncio.wait([before.task])
        call = self._begun[key] = self._next.pop(key)
        try:
            return await make()
        finally:
            self._forget(key, call)

    def _forget(self, key: Hashable, call: _Call[T]) -> None:
        for calls in (self._begun, self._next):
            if calls.get(key) is call:
                del calls[key]

    async def _wait_for(self, key: Hashable, call: _Call[T]) -> T:
        call.waiting += 1
        try:
            return await asyncio.shield(call.task)
        finally:
            call.waiting -= 1
            if not call.waiting and not call.task.done():
                self._forget(key, call)
                call.task.cancel()
                await asyncio.wait([call.task])
