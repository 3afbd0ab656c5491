"""Limits of client connections: time for the head, the body, the answer and idling; their number; memory they hold.

Where too many are open, or requests in progress hold too much memory, the gateway closes the connection that has
waited longest. So clients that send whole requests are served, however many others send incomplete ones.
"""

import asyncio
import resource
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest
from yarl import URL

from gateway.api.metrics import CLOSED, CONNECTIONS
from gateway.api.shortcut_connections import SHORTCUT, KnownHeads, Shortcut, ShortcutConnection

_LOG = structlog.get_logger()

#: bytes of the request line, which holds the input of a batch of queries
MAX_LINE = 65_536
_LOG_INTERVAL = 10.0  # seconds between two lines in the log about closed connections
_LINGER_SECONDS = 2.0  # seconds a client that was answered may go on sending its body
_READ_AHEAD = 1 << 14  # bytes of a body in the read buffer
_WANTED_FILES = 65_536
_MAX_PATH_PARTS = 32  # slashes in a path
_CONTINUE = "100-continue"
_NO_ROUTE = URL("/-")

_Handler = Callable[[BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of all connections, in bytes and seconds."""

    connections: int = 768
    #: bytes of all requests that are not answered yet
    held: int = 32 << 20
    #: bytes of the head of one request
    head: int = 96 << 10
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    answer_seconds: float = 60.0
    idle_seconds: float = 75.0
    #: between two checks for overdue connections
    check_seconds: float = 1.0


class CloseReason(StrEnum):
    """Why the gateway closes a connection."""

    HEAD_LATE = "head_late"
    BODY_LATE = "body_late"
    ANSWER_NOT_TAKEN = "answer_not_taken"
    IDLE = "idle"
    HEAD_TOO_LARGE = "head_too_large"
    TOO_MANY = "too_many"
    TOO_MUCH_HELD = "too_much_held"
    NOT_HTTP = "not_http"


for _why in CloseReason:
    CLOSED.labels(_why)  # there from the start, at 0

_RESPONSES: Mapping[CloseReason, tuple[HTTPStatus, str]] = {
    CloseReason.HEAD_LATE: (HTTPStatus.REQUEST_TIMEOUT, "the request did not arrive in time"),
    CloseReason.BODY_LATE: (HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive in time"),
    CloseReason.HEAD_TOO_LARGE: (HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the headers are too large"),
}


def raise_file_limit() -> int:
    """Raise the process's limit of open files as far as it may; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, _WANTED_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return _WANTED_FILES if soft == resource.RLIM_INFINITY else soft


def limits_for(files: int, body: int) -> Limits:
    """Return the limits for a process that may open so many files; a quarter is for its own outgoing connections."""
    return Limits(connections=max(16, min(4096, files - max(files // 4, 64))), held=max(32 << 20, 4 * body))


def error_body(code: str, message: str) -> bytes:
    """Return the JSON body of an error that neither tRPC nor REST gives a form of its own."""
    return orjson.dumps({"error": {"code": code, "message": message}})


def error_response(error: web.HTTPException) -> web.Response:
    """Return the JSON response for an error that aiohttp raises."""
    status = HTTPStatus(error.status)
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    body = error_body(error_code(status), status.phrase)
    return web.Response(status=status, body=body, headers=headers, content_type="application/json")


def error_code(status: HTTPStatus) -> str:
    """Return the error code for a status, as in NotFound, MethodNotAllowed."""
    known = {HTTPStatus.BAD_REQUEST: "InvalidInput", HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "TooLarge"}
    return known.get(status) or "".join(part.capitalize() for part in status.phrase.replace("-", " ").split())


class Connection(ShortcutConnection):
    """A client connection: what the gateway waits for, since when, and how many bytes its requests hold."""

    __slots__ = (
        "_answering",
        "_body",
        "_head",
        "_server",
        "_stalled",
        "_within",
        "address",
        "held",
        "since",
    )

    def __init__(self, server: "Server", **options: Any) -> None:
        super().__init__(server, server.shortcut, server.known_heads, **options)
        self._server = server
        self.address: str = ""
        self.since = self._within = self._loop.time()
        self._answering, self._stalled = False, 0.0
        self._head = self.held = 0
        self._body: StreamReader | None = None

    # -- events

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._head = 0
        self._release()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if (known := self.known_head(data)) is not None:
            self.hold(len(data))
            if self.take(known, data):
                self._answering, self.since = True, self._loop.time()
                return
        receives_body = self._receives_body
        if not receives_body and self.waits_for is CloseReason.IDLE:
            self.since = self._loop.time()
        # A body that is no longer read, as its request was answered, is not held.
        if data and known is None and (self._answering or not receives_body):
            self.hold(len(data))
        if not receives_body:
            self._head += len(data)
        if self.receive(data):
            self._head, self._answering, self.since = 0, True, self._loop.time()
            self._body = self._messages[-1][1] if self._messages else None
            if self.offer(data):
                self._body = None  # it has come
        elif self._head > self._server.limits.head:
            self._server.close(self, CloseReason.HEAD_TOO_LARGE)

    def pause_writing(self) -> None:
        self._stalled = self._loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stalled = 0.0
        super().resume_writing()

    async def _handle_request(
        self, request: BaseRequest, start_time: float | None, request_handler: _Handler
    ) -> tuple[web.StreamResponse, bool]:
        async def answer(request: BaseRequest) -> web.StreamResponse:
            """Answer as JSON the errors that aiohttp answers outside of the application."""
            if request.headers.get("Expect", _CONTINUE).lower() != _CONTINUE:
                return error_response(web.HTTPExpectationFailed())
            try:
                return await request_handler(request)
            except web.HTTPException as error:
                return error_response(error)
            except ConnectionError:  # the client has disconnected and receives no answer
                return error_response(web.HTTPBadRequest())

        try:
            return await super()._handle_request(request, start_time, answer)
        finally:
            self.seconds_on_shortcut = None
            if not self._messages:
                self.become_idle()

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is not HTTP. The answer and the log do not quote it, since it may hold an API key."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return super().handle_error(request, status, exc, message)
        self._server.count(CloseReason.NOT_HTTP)
        why = "a line or a header is too long" if isinstance(exc, LineTooLong) else "it is not HTTP/1.1"
        body = error_body(error_code(HTTPStatus(status)), f"the request cannot be read: {why}")
        response = web.Response(status=status, body=body, content_type="application/json")
        response.force_close()
        return response

    def take_back(self, content: StreamReader) -> None:
        self._body = content

    def become_idle(self) -> None:
        self._answering, self.since = False, self._loop.time()
        self._release()

    # -- timeouts

    @property
    def _receives_body(self) -> bool:
        return self._body is not None and not self._body.is_eof()

    @property
    def waits_for(self) -> CloseReason | None:
        """What the gateway waits for from the client; None while the client waits for the gateway."""
        if self._stalled:
            return CloseReason.ANSWER_NOT_TAKEN
        if self._receives_body:
            return CloseReason.BODY_LATE
        if self._answering:
            return None
        return CloseReason.HEAD_LATE if self._head or not self._request_count else CloseReason.IDLE

    def overdue(self, now: float) -> CloseReason | None:
        """Return why the connection is to be closed, None if it is not."""
        limits, why = self._server.limits, self.waits_for
        seconds = {
            CloseReason.ANSWER_NOT_TAKEN: limits.answer_seconds,
            CloseReason.BODY_LATE: limits.body_seconds,
            CloseReason.HEAD_LATE: limits.head_seconds,
            CloseReason.IDLE: limits.idle_seconds,
        }
        return why if why and now - (self._stalled or self.since) > seconds[why] else None

    def hold(self, size: int) -> None:
        """Count bytes that are held until the request is answered."""
        self.held += size
        self._server.hold(self, size)

    def _release(self) -> None:
        """Release the bytes of a request that is answered, but not those of the next one."""
        kept = min(self._head, self.held)
        self._server.held -= self.held - kept
        self.held = kept

    def write_error(self, status: HTTPStatus, message: str) -> None:
        """Respond before the connection is closed, if a request has begun and is not answered yet."""
        if self.transport is not None and self._head and not self._answering:
            body = error_body(error_code(status), message)
            head = (
                f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)


class Server(web.Server):
    """Closes connections that are too many, too slow, or hold too much memory."""

    def __init__(
        self, inner: web.Server, limits: Limits, options: Mapping[str, Any], shortcut: Shortcut | None = None
    ) -> None:
        super().__init__(inner.request_handler, request_factory=self._routed, **options)
        self._make, self._options = inner.request_factory, {**options}
        self._options.pop("handler_cancellation", None)
        self.limits, self.held = limits, 0
        self.shortcut, self.known_heads = shortcut, KnownHeads()
        self._closed: Counter[str] = Counter()
        self._logged_at = 0.0
        self._next_check = self._loop.call_later(self.limits.check_seconds, self._close_overdue)

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._options)

    def _routed(self, message: RawRequestMessage, *rest: Any) -> BaseRequest:
        """Return the request for a path without its redundant slashes."""
        url = message.url
        path = url.raw_path
        if "//" in path or (path.endswith("/") and path != "/"):
            path = "/" + "/".join(filter(None, path.split("/")))
            url = URL.build(path=path, query_string=url.raw_query_string, encoded=True)
            message = message._replace(url=url)
        if path.count("/") > _MAX_PATH_PARTS:
            message = message._replace(url=_NO_ROUTE)
        return self._make(message, *rest)

    # -- limits

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if _is_of_client(handler):
            CONNECTIONS.inc()
        if len(self._connections) > self.limits.connections:
            waiting = self._waiting(but=handler)
            self.close(_longest_waiting_of_busiest_address(waiting) if waiting else handler, CloseReason.TOO_MANY)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        if handler in self._connections and _is_of_client(handler):
            CONNECTIONS.dec()
        super().connection_lost(handler, exc)

    def hold(self, connection: Connection, size: int) -> None:
        """Count held bytes; where all connections hold too many, close the one that has waited longest."""
        self.held += size
        if self.held > self.limits.held:
            waiting = [
                one
                for one in self._waiting()
                if one.held and one.waits_for in {CloseReason.HEAD_LATE, CloseReason.BODY_LATE}
            ]
            self.close(min(waiting, key=_since) if waiting else connection, CloseReason.TOO_MUCH_HELD)

    def _waiting(self, *, but: RequestHandler | None = None) -> list[Connection]:
        return [one for one in self._connections if isinstance(one, Connection) and one is not but and one.waits_for]

    def close(self, connection: RequestHandler, why: CloseReason) -> None:
        self.count(why)
        transport = self._connections.get(connection)
        if isinstance(connection, Connection) and why in _RESPONSES:
            connection.write_error(*_RESPONSES[why])
        connection.force_close()
        if transport is not None and why not in _RESPONSES:
            transport.abort()

    def count(self, why: CloseReason) -> None:
        CLOSED.labels(why).inc()
        if why is not CloseReason.IDLE:
            self._closed[why] += 1

    def _close_overdue(self) -> None:
        self._next_check = self._loop.call_later(self.limits.check_seconds, self._close_overdue)
        now = self._loop.time()
        for one in self.connections:
            if isinstance(one, Connection) and (why := one.overdue(now)):
                self.close(one, why)
        if self._closed and now - self._logged_at > _LOG_INTERVAL:
            _LOG.warning("Closed connections", open=len(self._connections), held=self.held, **self._closed)
            self._closed.clear()
            self._logged_at = now

    async def shutdown(self, timeout: float | None = None) -> None:
        self._next_check.cancel()
        await super().shutdown(timeout)


def _is_of_client(connection: RequestHandler) -> bool:
    """Whether it is not of another process of this gateway, which has no address."""
    return isinstance(connection, Connection) and connection.address != ""


def _since(connection: Connection) -> float:
    return connection.since


def _longest_waiting_of_busiest_address(waiting: list[Connection]) -> Connection:
    """Return, of the client address with the most connections, the one that has waited longest."""
    counts = Counter(one.address for one in waiting)
    most = max(counts.values())
    return min((one for one in waiting if counts[one.address] == most), key=_since)


class Runner(web.AppRunner):
    """Runs the application with limited connections."""

    __slots__ = ("_limits",)

    def __init__(self, application: web.Application, limits: Limits, **options: Any) -> None:
        super().__init__(
            application,
            max_line_size=MAX_LINE,
            auto_decompress=False,
            lingering_time=_LINGER_SECONDS,
            read_bufsize=_READ_AHEAD,
            **options,
        )
        self._limits = limits

    async def _make_server(self) -> web.Server:
        return Server(await super()._make_server(), self._limits, self._kwargs, self.app.get(SHORTCUT))
