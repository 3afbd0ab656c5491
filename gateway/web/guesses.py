"""API keys that are not known yet: few at once, few wrong ones from one address, and each wrong one looked up once.

A key that was valid before goes past all of this, so that who guesses takes nothing from who has a right.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from hashlib import sha256
from ipaddress import IPv6Address
from typing import TypeVar

from aiohttp import web

from gateway.endpoints import Address
from gateway.errors import Throttled
from gateway.keys import Caller
from gateway.metrics import THROTTLED_KEYS

_AT_ONCE = 1  # look-ups, each of which holds a connection to the database
_MOST_WAITING = 100
_BURST, _RATE = 60.0, 1.0  # wrong keys of one address at once, and a second after that
_REMEMBERED = 60.0  # seconds a wrong key is refused without a look-up
_MOST = 10_000  # keys or addresses that are remembered
_NETWORK = 64  # bits of an IPv6 address that tell one sender from another

_K = TypeVar("_K")
_V = TypeVar("_V")


class Guesses:
    """What is known of keys and of who sends wrong ones; lost at a restart."""

    def __init__(self) -> None:
        self._valid: OrderedDict[bytes, None] = OrderedDict()
        self._wrong: OrderedDict[bytes, float] = OrderedDict()
        self._left: OrderedDict[int | None, tuple[float, float]] = OrderedDict()
        self._lane, self._waiting = asyncio.Semaphore(_AT_ONCE), 0

    async def find(
        self, key: str, address: Address | None, look_up: Callable[[], Awaitable[Caller | None]]
    ) -> Caller | None:
        """Return whose key it is; raises Throttled where too many wrong ones came from there."""
        digest = sha256(key.encode("utf-8", "surrogateescape")).digest()
        if digest in self._valid:
            return self._learn(digest, address, await look_up())
        if self._wrong.get(digest, 0.0) > time.monotonic():
            return None
        self._refuse_too_many(address)
        if self._waiting >= _MOST_WAITING:
            THROTTLED_KEYS.inc()
            raise Throttled("too many API keys wait to be looked up: try again", retry_after=1)
        self._waiting += 1
        try:
            async with self._lane:
                self._refuse_too_many(address)
                return self._learn(digest, address, await look_up())
        finally:
            self._waiting -= 1

    def _learn(self, digest: bytes, address: Address | None, caller: Caller | None) -> Caller | None:
        self._valid.pop(digest, None)
        if caller is not None:
            _put(self._valid, digest, None)
            return caller
        now = time.monotonic()
        _put(self._wrong, digest, now + _REMEMBERED)
        _put(self._left, _sender(address), (self._rest(address, now) - 1, now))
        return None

    def _refuse_too_many(self, address: Address | None) -> None:
        rest = self._rest(address, time.monotonic())
        if rest < 1:
            THROTTLED_KEYS.inc()
            raise Throttled("too many wrong API keys came from this address", retry_after=(1 - rest) / _RATE)

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
