"""Request the few addresses that a delivery may name: public keys and confirmation addresses of its registry.

Before that, the source proves that an address is the registry's own. Keys are cached for an hour. Since signers change
their keys, a failed verification may fetch a key again, at most once a minute.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import aiohttp
from aiohttp import web

from gateway.model.errors import Unavailable

KEY_LIFETIME = 3600.0  # seconds
MIN_REFETCH_INTERVAL = 60.0  # seconds between two fetches of one key

_MAX_KEYS = 64
_RETRY_INTERVAL = 5.0  # seconds after a fetch that failed
_MAX_RESPONSE = 64 * 1024  # bytes
_TIMEOUT = aiohttp.ClientTimeout(total=2)
_FIRST_ERROR = 300  # the lowest status that is an error: a redirect leads away from the address that was proven


@dataclass(slots=True)
class _Key:
    lock: asyncio.Lock
    content: bytes = b""
    fetched_at: float = float("-inf")
    failed_at: float = float("-inf")


class KeyFetcher:
    """Fetches public keys and visits addresses, without following redirects."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._keys: dict[str, _Key] = {}

    async def fetch_keys(self, addresses: Sequence[str], *, max_age: float = KEY_LIFETIME) -> dict[str, bytes]:
        """Return the keys at these addresses, no older than `max_age` seconds if the registry answers.

        Raises Unavailable where a key was never fetched and the registry does not answer.
        """
        return {address: await self._fetch_key(address, max_age) for address in addresses}

    async def _fetch_key(self, address: str, max_age: float) -> bytes:
        if address not in self._keys and len(self._keys) >= _MAX_KEYS:
            del self._keys[next(iter(self._keys))]
        key = self._keys.setdefault(address, _Key(asyncio.Lock()))
        async with key.lock:
            now = time.monotonic()
            if now - key.fetched_at > max_age and now - key.failed_at > _RETRY_INTERVAL:
                try:
                    key.content, key.fetched_at = await self._get(address), time.monotonic()
                except Unavailable:
                    key.failed_at = time.monotonic()
            if not key.content:
                raise Unavailable("the registry's public key cannot be fetched")
            # Use the old key, rather than reject every delivery that it has signed.
            return key.content

    async def visit(self, address: str) -> None:
        """Request the address once; raises Unavailable unless it answers 2xx."""
        await self._get(address)

    async def _get(self, address: str) -> bytes:
        try:
            async with self._session.get(address, timeout=_TIMEOUT, allow_redirects=False) as response:
                content = bytearray()
                async for chunk in response.content.iter_any():
                    content += chunk
                    if len(content) > _MAX_RESPONSE:
                        raise Unavailable(f"{response.url.host} answers more than {_MAX_RESPONSE} bytes")
                if response.status >= _FIRST_ERROR:
                    raise Unavailable(f"{response.url.host} answers {response.status}")
                return bytes(content)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"the registry's own address does not answer: {type(error).__name__}") from error


KEY_FETCHER = web.AppKey("key_fetcher", KeyFetcher)


async def open_session(application: web.Application) -> AsyncIterator[None]:
    """Hold the fetcher's connections for as long as the application runs."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        application[KEY_FETCHER] = KeyFetcher(session)
        yield
