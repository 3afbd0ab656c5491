"""Limits how many engines are checked at once: those on which a deployment is due come before all others."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class CheckSlots:
    """Slots for checks. Whoever is urgent waits only for others that are; those alike go in the order they came."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._urgent: OrderedDict[Hashable, asyncio.Future[None]] = OrderedDict()
        self._others: OrderedDict[Hashable, asyncio.Future[None]] = OrderedDict()

    @asynccontextmanager
    async def hold(self, who: Hashable, *, urgent: bool) -> AsyncIterator[None]:
        """Hold a slot. `who` waits for one slot at a time."""
        await self._take(who, self._urgent if urgent else self._others)
        try:
            yield
        finally:
            self._give()

    def hurry(self, who: Hashable) -> None:
        """Let it go before all that are not urgent, if it waits."""
        if (turn := self._others.pop(who, None)) is not None:
            self._urgent[who] = turn

    async def _take(self, who: Hashable, queue: "OrderedDict[Hashable, asyncio.Future[None]]") -> None:
        if self._free > 0:
            self._free -= 1
            return
        turn = queue[who] = asyncio.get_running_loop().create_future()
        try:
            await turn
        except BaseException:
            for waiting in (self._urgent, self._others):
                if waiting.get(who) is turn:
                    del waiting[who]
            if turn.done() and not turn.cancelled():
                self._give()  # it was given just before whoever waited was cancelled
            raise

    def _give(self) -> None:
        for waiting in (self._urgent, self._others):
            while waiting:
                _, turn = waiting.popitem(last=False)
                if not turn.done():
                    turn.set_result(None)
                    return
        self._free += 1
