"""The few addresses that are requested because a notification names them: a registry's own, which its source proves.

Keys are kept for an hour; a proof that fails may ask for younger ones, once a minute, since signers change keys.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import aiohttp
from aiohttp import web

from gateway.model.errors import Unavailable

KEPT = 3600.0  # seconds
AT_LEAST = 60.0  # seconds between two fetches of one key

_MOST_KEYS = 64
_TRY_AGAIN = 5.0  # seconds after a fetch that failed
_LARGEST = 64 * 1024  # bytes of an answer
_DEADLINE = aiohttp.ClientTimeout(total=2)
_FIRST_ERROR = 300  # of HTTP: a redirect leads away from the address that was proven


@dataclass(slots=True)
class _Key:
    lock: asyncio.Lock
    content: bytes = b""
    fetched_at: float = float("-inf")
    failed_at: float = float("-inf")


class Outward:
    """Fetches public keys and visits addresses; neither follows a redirect."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._keys: dict[str, _Key] = {}

    async def fetch_keys(self, addresses: Sequence[str], *, younger_than: float = KEPT) -> dict[str, bytes]:
        """Return the keys at these addresses; raises Unavailable where one cannot be had."""
        return {address: await self._fetch_key(address, younger_than) for address in addresses}

    async def _fetch_key(self, address: str, younger_than: float) -> bytes:
        if address not in self._keys and len(self._keys) >= _MOST_KEYS:
            del self._keys[next(iter(self._keys))]
        key = self._keys.setdefault(address, _Key(asyncio.Lock()))
        async with key.lock:
            now = time.monotonic()
            if now - key.fetched_at > younger_than and now - key.failed_at > _TRY_AGAIN:
                try:
                    key.content, key.fetched_at = await self._get(address), time.monotonic()
                except Unavailable:
                    key.failed_at = time.monotonic()
            if not key.content:
                raise Unavailable("the registry's public key cannot be had")
            # What was believed until now is better than to refuse all that it signed.
            return key.content

    async def visit(self, address: str) -> None:
        """Request it once; raises Unavailable unless it answers 2xx."""
        await self._get(address)

    async def _get(self, address: str) -> bytes:
        try:
            async with self._session.get(address, timeout=_DEADLINE, allow_redirects=False) as answer:
                content = bytearray()
                async for chunk in answer.content.iter_any():
                    content += chunk
                    if len(content) > _LARGEST:
                        raise Unavailable(f"{answer.url.host} answers more than {_LARGEST} bytes")
                if answer.status >= _FIRST_ERROR:
                    raise Unavailable(f"{answer.url.host} answers {answer.status}")
                return bytes(content)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"the registry's own address does not answer: {type(error).__name__}") from error


OUTWARD = web.AppKey("outward", Outward)


async def reaching_out(application: web.Application) -> AsyncIterator[None]:
    """Own the connections for as long as the application lives."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        application[OUTWARD] = Outward(session)
        yield
