"""Between the processes of a gateway: one that accepts deliveries relays every other request to the supervising one.

So what the API keeps in memory is in one place, and holds whichever process a client has reached: the engines, the
limits of API keys, calls of one key at a time, denied calls that are not in the audit yet, metrics.
"""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import aiohttp
from aiohttp import ClientConnectionResetError, web
from multidict import CIMultiDict
from yarl import URL

from gateway.api.local_users import is_local
from gateway.model.errors import Unavailable

_FROM = "X-Gateway-Relayed-From"
#: headers of one connection; aiohttp sets its own
_OF_CONNECTION = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect", _FROM.lower()}
)
_KEPT_OPEN = 30.0  # seconds: less than the supervising process keeps an idle connection

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SESSION = web.AppKey("relay", aiohttp.ClientSession)
SUPERVISING = web.AppKey("supervising", Path)


async def open_session(application: web.Application) -> AsyncIterator[None]:
    """Hold the connections to the supervising process for as long as the application runs."""
    connector = aiohttp.UnixConnector(str(application[SUPERVISING]), limit=0, keepalive_timeout=_KEPT_OPEN)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
    ) as session:
        application[SESSION] = session
        yield


async def relay(request: web.Request) -> web.StreamResponse:
    """Respond as the supervising process does; raises Unavailable where it does not answer."""
    headers = _passed_on(request.headers)
    headers[_FROM] = request.remote or ""
    url = URL(f"http://gateway{request.rel_url.raw_path_qs}", encoded=True)
    response: web.StreamResponse | None = None
    try:
        async with request.app[SESSION].request(
            request.method,
            url,
            headers=headers,
            data=request.content if request.can_read_body else None,
            allow_redirects=False,
        ) as answered:
            response = web.StreamResponse(status=answered.status, reason=answered.reason)
            response.headers.extend(_passed_on(answered.headers))
            try:
                await response.prepare(request)
                async for chunk in answered.content.iter_any():
                    await response.write(chunk)
            except ClientConnectionResetError:  # the client has left, as from a stream that has no other end
                return response
            await response.write_eof()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        if response is not None and response.prepared:
            raise  # the client sees that its answer is incomplete
        raise Unavailable("the supervising process does not answer: try again") from error
    return response


def _passed_on(headers: Mapping[str, str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _OF_CONNECTION)


@web.middleware
async def restore_sender(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let a relayed request come from the address of its client. Only a process of the gateway can relay."""
    if not _is_relayed(request):
        return await handler(request)
    return await handler(request.clone(remote=request.headers.get(_FROM, "")))


def _is_relayed(request: web.Request) -> bool:
    connection = None if request.transport is None else request.transport.get_extra_info("socket")
    return connection is not None and not is_local(request) and connection.family == socket.AF_UNIX
