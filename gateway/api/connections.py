"""Connections of clients: each has so long for a head, a body, its answer and to be idle; there are so many at once.

Where too many are open, or hold too much that is not answered yet, the one that has been waiting longest is closed:
who sends whole requests gets in, however many send half ones.
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

_LOG = structlog.get_logger()

#: bytes of a request's first line, in which a batch of queries stands
LONGEST_LINE = 65_536
_TELL = 10.0  # seconds whose closed connections are one line in the log
_LINGER = 2.0  # seconds a sender that was answered may go on sending its body
_READ_AHEAD = 1 << 14  # bytes of a body that wait to be read
_WANTED_FILES = 65_536
_MOST_PARTS = 32  # of a path
_CONTINUE = "100-continue"
_NOWHERE = URL("/-")

_Handler = Callable[[BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What connections may take; times in seconds."""

    connections: int = 768
    #: of all requests that are not answered yet
    held: int = 32 << 20
    #: of one request's head
    head: int = 96 << 10
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    answer_seconds: float = 60.0
    idle_seconds: float = 75.0
    #: between looks for what is overdue
    look_seconds: float = 1.0


class Why(StrEnum):
    """Why the gateway closes a connection."""

    HEAD_LATE = "head_late"
    BODY_LATE = "body_late"
    ANSWER_NOT_TAKEN = "answer_not_taken"
    IDLE = "idle"
    HEAD_TOO_LARGE = "head_too_large"
    TOO_MANY = "too_many"
    TOO_MUCH_HELD = "too_much_held"
    NOT_HTTP = "not_http"


_ANSWERS: Mapping[Why, tuple[HTTPStatus, str]] = {
    Why.HEAD_LATE: (HTTPStatus.REQUEST_TIMEOUT, "the request did not come in time"),
    Why.BODY_LATE: (HTTPStatus.REQUEST_TIMEOUT, "the body did not come in time"),
    Why.HEAD_TOO_LARGE: (HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the headers are larger than is accepted"),
}


def raise_file_limit() -> int:
    """Let this process open as many files as it is allowed; return how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, _WANTED_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return _WANTED_FILES if soft == resource.RLIM_INFINITY else soft


def limits_for(files: int, body: int) -> Limits:
    """Return the limits of a process that may open so many files, a quarter of them for what it asks itself."""
    return Limits(connections=max(16, min(4096, files - max(files // 4, 64))), held=max(32 << 20, 4 * body))


def error_body(code: str, message: str) -> bytes:
    """Return the body of every refusal that no surface makes in words of its own."""
    return orjson.dumps({"error": {"code": code, "message": message}})


def refusal(error: web.HTTPException) -> web.Response:
    """Return what aiohttp refuses as we would."""
    status = HTTPStatus(error.status)
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    body = error_body(word(status), status.phrase)
    return web.Response(status=status, body=body, headers=headers, content_type="application/json")


def word(status: HTTPStatus) -> str:
    """Return a status as a code of ours: NotFound, MethodNotAllowed."""
    known = {HTTPStatus.BAD_REQUEST: "InvalidInput", HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "TooLarge"}
    return known.get(status) or "".join(part.capitalize() for part in status.phrase.replace("-", " ").split())


class Connection(RequestHandler):
    """One connection: what it waits for, since when, and how much it holds."""

    __slots__ = ("_answering", "_body", "_head", "_server", "_stalled", "_within", "address", "held", "since")

    def __init__(self, server: "Server", **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        self.address: str = ""
        self.since = self._within = self._loop.time()
        self._answering, self._stalled = False, 0.0
        self._head = self.held = 0
        self._body: StreamReader | None = None

    # -- what happens

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._head = 0
        self._release()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.waits_for is Why.IDLE:
            self.since = self._loop.time()
        if data and not self._lingers:
            self.hold(len(data))
        if not self._receives_body:
            self._head += len(data)
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._head, self._answering, self.since = 0, True, self._loop.time()
            self._body = self._messages[-1][1] if self._messages else None
        elif self._head > self._server.limits.head:
            self._server.close(self, Why.HEAD_TOO_LARGE)

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
            """Answer in our words what aiohttp would answer in its own, outside of the application."""
            if request.headers.get("Expect", _CONTINUE).lower() != _CONTINUE:
                return refusal(web.HTTPExpectationFailed())
            try:
                return await request_handler(request)
            except web.HTTPException as error:
                return refusal(error)
            except ConnectionError:  # the client is gone: nobody takes an answer
                return refusal(web.HTTPBadRequest())

        try:
            return await super()._handle_request(request, start_time, answer)
        finally:
            if not self._messages:
                self._answering, self.since = False, self._loop.time()
                self._release()

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no request. What was sent is neither answered nor logged: it may hold a key."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return super().handle_error(request, status, exc, message)
        self._server.count(Why.NOT_HTTP)
        why = "a line or a header is longer than is accepted" if isinstance(exc, LineTooLong) else "it is not HTTP/1.1"
        body = error_body(word(HTTPStatus(status)), f"the request cannot be read: {why}")
        response = web.Response(status=status, body=body, content_type="application/json")
        response.force_close()
        return response

    # -- what it waits for

    @property
    def _receives_body(self) -> bool:
        return self._body is not None and not self._body.is_eof()

    @property
    def _lingers(self) -> bool:
        """Whether the rest of a body comes that nobody reads any more."""
        return self._receives_body and not self._answering

    @property
    def waits_for(self) -> Why | None:
        """What it would be closed for; None where it waits for us."""
        if self._stalled:
            return Why.ANSWER_NOT_TAKEN
        if self._receives_body:
            return Why.BODY_LATE
        if self._answering:
            return None
        return Why.HEAD_LATE if self._head or not self._request_count else Why.IDLE

    def overdue(self, now: float) -> Why | None:
        """Return why it is to be closed, if it is."""
        limits, why = self._server.limits, self.waits_for
        seconds = {
            Why.ANSWER_NOT_TAKEN: limits.answer_seconds,
            Why.BODY_LATE: limits.body_seconds,
            Why.HEAD_LATE: limits.head_seconds,
            Why.IDLE: limits.idle_seconds,
        }
        return why if why and now - (self._stalled or self.since) > seconds[why] else None

    def hold(self, size: int) -> None:
        """Count what is kept for its request until it is answered."""
        self.held += size
        self._server.hold(self, size)

    def _release(self) -> None:
        """Let go of a request that is answered; what came of the next one is kept."""
        kept = min(self._head, self.held)
        self._server.held -= self.held - kept
        self.held = kept

    def refuse(self, status: HTTPStatus, message: str) -> None:
        """Answer without a request, as far as it is possible, before it is closed."""
        if self.transport is not None and self._head and not self._answering:
            body = error_body(word(status), message)
            head = (
                f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)


class Server(web.Server):
    """Knows all connections, and closes those that take too long or too much."""

    def __init__(self, inner: web.Server, limits: Limits, options: Mapping[str, Any]) -> None:
        super().__init__(inner.request_handler, request_factory=self._routed, **options)
        self._make, self._options = inner.request_factory, {**options}
        self._options.pop("handler_cancellation", None)
        self.limits, self.held = limits, 0
        self._closed: Counter[str] = Counter()
        self._told_at = 0.0
        self._next_look = self._loop.call_later(self.limits.look_seconds, self._look)

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._options)

    def _routed(self, message: RawRequestMessage, *rest: Any) -> BaseRequest:
        """Make a request of a path in its plain form: slashes that are too many mean nothing, wherever they are."""
        url = message.url
        path = url.raw_path
        if "//" in path or (path.endswith("/") and path != "/"):
            path = "/" + "/".join(filter(None, path.split("/")))
            url = URL.build(path=path, query_string=url.raw_query_string, encoded=True)
            message = message._replace(url=url)
        if path.count("/") > _MOST_PARTS:
            message = message._replace(url=_NOWHERE)
        return self._make(message, *rest)

    # -- what is open

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        CONNECTIONS.set(len(self._connections))
        if len(self._connections) > self.limits.connections:
            waiting = self._waiting(but=handler)
            self.close(_of_the_busiest(waiting) if waiting else handler, Why.TOO_MANY)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        CONNECTIONS.set(len(self._connections))

    def hold(self, connection: Connection, size: int) -> None:
        """Count what one holds; where all hold too much the one that waits longest is closed."""
        self.held += size
        if self.held > self.limits.held:
            waiting = [one for one in self._waiting() if one.held and one.waits_for in {Why.HEAD_LATE, Why.BODY_LATE}]
            self.close(min(waiting, key=_since) if waiting else connection, Why.TOO_MUCH_HELD)

    def _waiting(self, *, but: RequestHandler | None = None) -> list[Connection]:
        return [one for one in self._connections if isinstance(one, Connection) and one is not but and one.waits_for]

    def close(self, connection: RequestHandler, why: Why) -> None:
        self.count(why)
        transport = self._connections.get(connection)
        if isinstance(connection, Connection) and why in _ANSWERS:
            connection.refuse(*_ANSWERS[why])
        connection.force_close()
        if transport is not None and why not in _ANSWERS:
            transport.abort()

    def count(self, why: Why) -> None:
        CLOSED.labels(why).inc()
        if why is not Why.IDLE:
            self._closed[why] += 1

    def _look(self) -> None:
        self._next_look = self._loop.call_later(self.limits.look_seconds, self._look)
        now = self._loop.time()
        for one in self.connections:
            if isinstance(one, Connection) and (why := one.overdue(now)):
                self.close(one, why)
        if self._closed and now - self._told_at > _TELL:
            _LOG.warning("Closed connections", open=len(self._connections), held=self.held, **self._closed)
            self._closed.clear()
            self._told_at = now

    async def shutdown(self, timeout: float | None = None) -> None:
        self._next_look.cancel()
        await super().shutdown(timeout)


def _since(connection: Connection) -> float:
    return connection.since


def _of_the_busiest(waiting: list[Connection]) -> Connection:
    """Return, of the address that has most connections, the one that waits longest."""
    counts = Counter(one.address for one in waiting)
    most = max(counts.values())
    return min((one for one in waiting if counts[one.address] == most), key=_since)


class Runner(web.AppRunner):
    """Runs the application behind these connections."""

    __slots__ = ("_limits",)

    def __init__(self, application: web.Application, limits: Limits, **options: Any) -> None:
        super().__init__(
            application,
            max_line_size=LONGEST_LINE,
            auto_decompress=False,
            lingering_time=_LINGER,
            read_bufsize=_READ_AHEAD,
            **options,
        )
        self._limits = limits

    async def _make_server(self) -> web.Server:
        return Server(await super()._make_server(), self._limits, self._kwargs)
