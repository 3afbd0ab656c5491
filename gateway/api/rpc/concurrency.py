"""How many calls or batches of one key are answered at once: the others wait, and hold no more than what they sent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from aiohttp import web

from gateway.model.api_keys import Caller

_AT_ONCE = 8


class Lanes:
    """One lane a key, forgotten when no call of it is there."""

    def __init__(self) -> None:
        self._lanes: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def take(self, caller: Caller | None) -> AsyncIterator[None]:
        """Hold a place; who has no key needs none, as nothing is done for them."""
        if caller is None:
            yield
            return
        lane = self._lanes.get(caller.key_id)
        if lane is None:
            lane = self._lanes[caller.key_id] = asyncio.Semaphore(_AT_ONCE)
        async with lane:
            yield


LANES = web.AppKey("lanes", Lanes)
