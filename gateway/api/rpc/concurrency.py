"""Limit how many calls or batches of one API key run at the same time. The others wait, holding only their input."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from aiohttp import web

from gateway.model.api_keys import Caller

_MAX_RUNNING = 8


class ConcurrencyLimits:
    """One semaphore a key, discarded when no call of the key runs or waits."""

    def __init__(self) -> None:
        self._limits: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def hold(self, caller: Caller | None) -> AsyncIterator[None]:
        """Hold a slot of the key. Without a caller there is no limit, as nothing runs."""
        if caller is None:
            yield
            return
        limit = self._limits.get(caller.key_id)
        if limit is None:
            limit = self._limits[caller.key_id] = asyncio.Semaphore(_MAX_RUNNING)
        async with limit:
            yield


CONCURRENCY_LIMITS = web.AppKey("concurrency_limits", ConcurrencyLimits)
