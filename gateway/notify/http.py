"""Sends requests to addresses that somebody entered, and to nowhere else.

An address is resolved once for each connection, and the connection goes to what was checked. No redirect is followed,
no proxy or cookie is used, and of an answer a bounded part is read.
"""

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from gateway.model.network_addresses import Reach, reach_of
from gateway.model.sanitize import safe_line
from gateway.notify.receiver import Undelivered
from gateway.notify.threads import run_in_own_thread

_ANSWER_SIZE = 2 * 1024**2  # bytes; a page of a hundred statuses or deployments of GitHub has several hundred KB
_TIMEOUT = aiohttp.ClientTimeout(total=15.0, sock_connect=5.0)
_LONGEST_WAIT = 6 * 3600.0  # seconds; a receiver may not ask for more, see LONGEST_PAUSE of receivers


class AddressRefused(OSError):
    """The name leads to an address that may not be used."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of any status. The case of the names of `headers` means nothing."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    def json(self) -> Any:
        """Return what the body says, None where it is no JSON."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None

    @property
    def retry_after(self) -> float | None:
        """The seconds that the receiver asks to wait, if it does: by either form of Retry-After."""
        return parse_retry_after(self.headers.get("Retry-After", ""), datetime.now(UTC))


def parse_retry_after(text: str, now: datetime) -> float | None:
    """Read the header Retry-After: seconds, or a date. https://www.rfc-editor.org/rfc/rfc9110#field.retry-after"""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), _LONGEST_WAIT)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return min(max((at - now).total_seconds(), 0.0), _LONGEST_WAIT)


class _CheckedResolver(AbstractResolver):
    """Resolves names to addresses that may be used."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        # Not by the threads of the loop: names that nobody answers for would hold all of them.
        found = await run_in_own_thread(partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM, family=family))
        for one in found:
            check_reach(host, str(one[4][0]), allow_private=self._allow_private)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """There is nothing to close."""


def check_reach(host: str, address: str, *, allow_private: bool) -> None:
    """Raises AddressRefused where nothing may be sent to this address, which the host has."""
    reach = reach_of(address)
    if reach is Reach.FORBIDDEN:
        raise AddressRefused(f"{host} has a link-local or reserved address, where nothing is sent")
    if reach is Reach.PRIVATE and not allow_private:
        raise AddressRefused(
            f"{host} has an address of a private network: an unrestricted admin key may allow that with allowPrivate"
        )


class Sender:
    """Sends requests. `open_sender` makes one."""

    def __init__(self, public: aiohttp.ClientSession, private: aiohttp.ClientSession) -> None:
        self._sessions = {False: public, True: private}

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes = b"",
        allow_private: bool,
    ) -> Answer:
        """Return the answer of any status. Raises Undelivered where there is none."""
        target = URL(url)
        host = target.host or ""
        try:
            with suppress(ValueError):  # it is a name
                check_reach(host, host, allow_private=allow_private)  # the resolver sees no literal address
            async with self._sessions[allow_private].request(
                method,
                target,
                data=body or None,
                headers={"User-Agent": "pushdeploy", "Accept-Encoding": "identity", **headers},
                allow_redirects=False,
            ) as response:
                text = await _read(response, host)
                return Answer(response.status, response.headers, text)
        except AddressRefused as error:
            raise Undelivered(str(error)) from error
        except (TimeoutError, aiohttp.ClientError, OSError, UnicodeError, ValueError) as error:
            raise Undelivered(_describe(host, error), down=not _is_refused(error)) from error


async def _read(response: aiohttp.ClientResponse, host: str) -> bytes:
    text = bytearray()
    async for chunk in response.content.iter_any():
        text += chunk
        if len(text) > _ANSWER_SIZE:
            response.close()
            raise Undelivered(f"{host} answers with more than {_ANSWER_SIZE // 1024} KB", status=response.status)
    return bytes(text)


def _is_refused(error: BaseException) -> bool:
    return isinstance(error.__cause__, AddressRefused) or isinstance(getattr(error, "os_error", None), AddressRefused)


def _describe(host: str, error: Exception) -> str:
    """Return why there is no answer. The address is left out: it may have secrets."""
    for one in (error, error.__cause__, getattr(error, "os_error", None)):
        if isinstance(one, AddressRefused):
            return str(one)
    if isinstance(error, TimeoutError):
        return f"{host} does not answer in time"
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return f"{host} has no certificate that is trusted"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"{host} has no address: check its name"
    if isinstance(error, aiohttp.ClientOSError) and error.strerror:
        return safe_line(f"{host} cannot be reached: {error.strerror}")[:300]
    return f"{host} cannot be reached: {type(error).__name__}"


@asynccontextmanager
async def open_sender() -> AsyncIterator[Sender]:
    """Yield a sender."""
    async with _session(allow_private=False) as public, _session(allow_private=True) as private:
        yield Sender(public, private)


def _session(*, allow_private: bool) -> aiohttp.ClientSession:
    # Whoever sends bounds how much is sent at a time. A bound here, of connections to a host, would let all its
    # receivers wait for one that does not answer.
    connector = aiohttp.TCPConnector(
        resolver=_CheckedResolver(allow_private=allow_private), use_dns_cache=False, limit=0
    )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=_TIMEOUT,
        auto_decompress=False,
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )
