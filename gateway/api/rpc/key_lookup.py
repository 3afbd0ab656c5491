"""API keys that are not known yet: all that come at a time are looked up by one statement, on one connection.

So who guesses takes nothing from who has a right, from the same address or another: a valid key is found however many
wrong ones came before it. Wrong ones are counted, a few at once are answered as such, and more are told to wait.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from hashlib import sha256
from ipaddress import IPv6Address
from typing import TypeVar

from aiohttp import web

from gateway.api.metrics import THROTTLED_KEYS
from gateway.model.api_keys import Caller
from gateway.model.endpoints import Address
from gateway.model.errors import Throttled

_APART = 0.01  # seconds from one look-up to the next
_BURST, _RATE = 60.0, 1.0  # wrong keys of one address at once, and a second after that
_REMEMBERED = 60.0  # seconds a wrong key is refused without a look-up
_MOST = 10_000  # wrong keys or addresses that are remembered
_NETWORK = 64  # bits of an IPv6 address that tell one sender from another

_K = TypeVar("_K")
_V = TypeVar("_V")

#: Returns which of these hashes are those of valid keys.
SelectValid = Callable[[Collection[bytes]], Awaitable[Collection[bytes]]]


class Guesses:
    """What is known of keys and of who sends wrong ones; lost at a restart."""

    def __init__(self, select_valid: SelectValid) -> None:
        self._select_valid = select_valid
        self._valid: set[bytes] = set()
        self._wrong: OrderedDict[bytes, float] = OrderedDict()
        self._left: OrderedDict[int | None, tuple[float, float]] = OrderedDict()
        self._asked: dict[bytes, asyncio.Future[bool]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def find(
        self, key: str, address: Address | None, look_up: Callable[[], Awaitable[Caller | None]]
    ) -> Caller | None:
        """Return whose key it is; raises Throttled for a wrong one where too many came from there."""
        digest = sha256(key.encode("utf-8", "surrogateescape")).digest()
        if digest not in self._valid and (self._is_wrong(digest) or not await self._look(digest)):
            self._count(digest, address)
            return None
        caller = await look_up()
        if caller is None:  # revoked, or over, since it was found
            self._valid.discard(digest)
            self._count(digest, address)
        return caller

    def _is_wrong(self, digest: bytes) -> bool:
        return self._wrong.get(digest, 0.0) > time.monotonic()

    async def _look(self, digest: bytes) -> bool:
        """Tell whether it is the hash of a valid key, asked with all others that are asked for meanwhile."""
        future = self._asked.get(digest)
        if future is None:
            future = self._asked[digest] = asyncio.get_running_loop().create_future()
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._answer(), name="guesses")
        return await asyncio.shield(future)

    async def _answer(self) -> None:
        while self._asked:
            asked, self._asked = self._asked, {}
            try:
                found = await self._select_valid(asked)
            except Exception as error:
                for future in asked.values():
                    future.set_exception(error)
                    future.exception()  # whoever asked may have gone
            else:
                self._valid.update(found)
                for digest, future in asked.items():
                    future.set_result(digest in self._valid)
            await asyncio.sleep(_APART)

    def _count(self, digest: bytes, address: Address | None) -> None:
        """Count a wrong key, the same one once a while; raises Throttled where too many came from there."""
        if self._is_wrong(digest):
            return
        now = time.monotonic()
        rest = self._rest(address, now)
        if rest < 1:
            THROTTLED_KEYS.inc()
            raise Throttled("too many wrong API keys came from this address", retry_after=(1 - rest) / _RATE)
        _put(self._wrong, digest, now + _REMEMBERED)
        _put(self._left, _sender(address), (rest - 1, now))

    def _rest(self, address: Address | None, now: float) -> float:
        """Return how many wrong keys this address may still send."""
        rest, at = self._left.get(_sender(address), (_BURST, now))
        return min(_BURST, rest + (now - at) * _RATE)


def _sender(address: Address | None) -> int | None:
    return int(address) >> _NETWORK if isinstance(address, IPv6Address) else None if address is None else int(address)


def _put(kept: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    """Keep it as the newest, and no more than so many."""
    kept.pop(key, None)
    if len(kept) >= _MOST:
        kept.popitem(last=False)
    kept[key] = value


GUESSES = web.AppKey("guesses", Guesses)
