"""Look up API keys that are not known yet: those of requests at the same time share one database query.

So clients that guess keys take nothing from other clients, of the same address or another: a valid key is found however
many wrong ones came before it. Wrong keys are counted by address; beyond the limit they are answered 429.
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

_INTERVAL = 0.01  # seconds between two queries
_BURST, _RATE = 60.0, 1.0  # wrong keys of one address: at once, and a second
_REMEMBERED = 60.0  # seconds a wrong key is rejected without a query
_MAX_REMEMBERED = 10_000  # wrong keys or addresses that are remembered
_NETWORK_BITS = 64  # bits of an IPv6 address that identify a sender

_K = TypeVar("_K")
_V = TypeVar("_V")

#: Returns those of these hashes that belong to valid keys.
SelectValid = Callable[[Collection[bytes]], Awaitable[Collection[bytes]]]


class KeyLookup:
    """Keys that were found valid or wrong, and the addresses that sent wrong ones, in memory."""

    def __init__(self, select_valid: SelectValid) -> None:
        self._select_valid = select_valid
        self._valid: set[bytes] = set()
        self._wrong: OrderedDict[bytes, float] = OrderedDict()
        self._budgets: OrderedDict[int | None, tuple[float, float]] = OrderedDict()
        self._pending: dict[bytes, asyncio.Future[bool]] = {}
        self._query: asyncio.Task[None] | None = None

    async def find(
        self, key: str, address: Address | None, look_up: Callable[[], Awaitable[Caller | None]]
    ) -> Caller | None:
        """Return the caller, None for a wrong key; raises Throttled where the address sent too many wrong keys.

        `look_up` is called only for keys that are known to be valid.
        """
        digest = sha256(key.encode("utf-8", "surrogateescape")).digest()
        if digest not in self._valid and (self._is_wrong(digest) or not await self._is_valid(digest)):
            self._count_wrong(digest, address)
            return None
        caller = await look_up()
        if caller is None:  # revoked or expired since it was found valid
            self._valid.discard(digest)
            self._count_wrong(digest, address)
        return caller

    def _is_wrong(self, digest: bytes) -> bool:
        return self._wrong.get(digest, 0.0) > time.monotonic()

    async def _is_valid(self, digest: bytes) -> bool:
        """Tell whether it is the hash of a valid key, by a query that other requests share."""
        future = self._pending.get(digest)
        if future is None:
            future = self._pending[digest] = asyncio.get_running_loop().create_future()
        if self._query is None or self._query.done():
            self._query = asyncio.create_task(self._query_pending(), name="key lookup")
        return await asyncio.shield(future)

    async def _query_pending(self) -> None:
        while self._pending:
            pending, self._pending = self._pending, {}
            try:
                found = await self._select_valid(pending)
            except Exception as error:
                for future in pending.values():
                    future.set_exception(error)
                    future.exception()  # mark it as retrieved: the client may have disconnected
            else:
                self._valid.update(found)
                for digest, future in pending.items():
                    future.set_result(digest in self._valid)
            await asyncio.sleep(_INTERVAL)

    def _count_wrong(self, digest: bytes, address: Address | None) -> None:
        """Count a wrong key, the same one once a minute; raises Throttled where the address sent too many."""
        if self._is_wrong(digest):
            return
        now = time.monotonic()
        remaining = self._remaining(address, now)
        if remaining < 1:
            THROTTLED_KEYS.inc()
            raise Throttled("too many wrong API keys came from this address", retry_after=(1 - remaining) / _RATE)
        _put_newest(self._wrong, digest, now + _REMEMBERED)
        _put_newest(self._budgets, _sender_key(address), (remaining - 1, now))

    def _remaining(self, address: Address | None, now: float) -> float:
        """Return how many wrong keys this address may still send."""
        remaining, at = self._budgets.get(_sender_key(address), (_BURST, now))
        return min(_BURST, remaining + (now - at) * _RATE)


def _sender_key(address: Address | None) -> int | None:
    return (
        int(address) >> _NETWORK_BITS if isinstance(address, IPv6Address) else None if address is None else int(address)
    )


def _put_newest(kept: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    """Put the value in as the newest, and drop the oldest where there are too many."""
    kept.pop(key, None)
    if len(kept) >= _MAX_REMEMBERED:
        kept.popitem(last=False)
    kept[key] = value


KEY_LOOKUP = web.AppKey("key_lookup", KeyLookup)
