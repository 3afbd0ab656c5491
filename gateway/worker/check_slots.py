"""Limits how many engines are checked at once. An engine on which a deployment is due is checked before all others.

On a busy gateway each check takes longer, so fewer checks are made, and rollouts and claims get more of the processor.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

_Queue = OrderedDict[Hashable, "asyncio.Future[None]"]


class CheckSlots:
    """Slots for checks. Urgent checks come first; equally urgent checks run in the order in which they came.

    There are `most` slots, and `spare` more for urgent checks. A check that takes longer than `patience` seconds gives
    its slot to the next check, so an engine that hangs does not hold up engines that answer.
    """

    def __init__(self, most: int, *, spare: int = 0, patience: float) -> None:
        self._most = most
        self._spare = spare
        self._patience = patience
        self._running = 0
        self._urgent: _Queue = OrderedDict()
        self._others: _Queue = OrderedDict()

    @asynccontextmanager
    async def hold(self, who: Hashable, *, urgent: bool) -> AsyncIterator[None]:
        """Hold a slot for the block. `who` may wait for only one slot at a time."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        (self._urgent if urgent else self._others)[who] = turn
        self._serve()
        held = True

        def free() -> None:
            nonlocal held
            if held:
                held = False
                self._running -= 1
                self._serve()

        try:
            await turn
        except BaseException:
            self._withdraw(who, turn)
            if turn.done() and not turn.cancelled():
                free()  # the slot was given just before the waiting task was cancelled
            raise
        late = loop.call_later(self._patience, free)
        try:
            yield
        finally:
            late.cancel()
            free()

    def hurry(self, who: Hashable) -> None:
        """Make the check of `who` urgent, if it waits for a slot."""
        if (turn := self._others.pop(who, None)) is not None:
            self._urgent[who] = turn
            self._serve()

    def _withdraw(self, who: Hashable, turn: "asyncio.Future[None]") -> None:
        for queue in (self._urgent, self._others):
            if queue.get(who) is turn:
                del queue[who]

    def _serve(self) -> None:
        for queue, most in ((self._urgent, self._most + self._spare), (self._others, self._most)):
            while queue and self._running < most:
                _, turn = queue.popitem(last=False)
                if not turn.done():
                    self._running += 1
                    turn.set_result(None)
