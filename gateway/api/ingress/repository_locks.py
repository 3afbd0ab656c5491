"""Let deliveries for one repository wait for each other in memory.

In PostgreSQL they would wait for the same rows, each holding a connection, and would take about a quarter longer.
Deliveries for other repositories do not wait.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from weakref import WeakValueDictionary

from aiohttp import web


class KeyedLocks:
    """One lock a key, discarded when no task holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def hold(self, keys: Iterable[str]) -> AsyncIterator[None]:
        """Hold the lock of each key. All tasks take the locks in the same order, so that they cannot deadlock."""
        async with AsyncExitStack() as held:
            for key in sorted(set(keys)):
                await held.enter_async_context(self._locks.setdefault(key, asyncio.Lock()))
            yield


REPOSITORY_LOCKS = web.AppKey("repository_locks", KeyedLocks)
