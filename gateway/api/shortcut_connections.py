"""Connections that offer each request to a shortcut, which answers it without aiohttp, or leaves it to aiohttp."""

from collections.abc import Callable
from typing import Any, Protocol

from aiohttp import web
from aiohttp.http import HttpVersion11
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

#: receives the response to a request; None where aiohttp is to answer it
Respond = Callable[[bytes | None], None]


class Shortcut(Protocol):
    """Answers some requests without aiohttp's part."""

    def begin(self, message: RawRequestMessage, body: bytes, respond: Respond, /) -> bool:
        """Begin to answer a request, and return whether it does. If so, `respond` is called later, once."""


SHORTCUT: web.AppKey[Shortcut] = web.AppKey("shortcut")


class ShortcutConnection(RequestHandler):
    """One connection. Until a request on the shortcut is answered, it stays in `_messages`; aiohttp's task waits."""

    __slots__ = ("_begun_at", "_on_shortcut", "_shortcut", "seconds_on_shortcut")

    def __init__(self, server: web.Server, shortcut: Shortcut | None, **options: Any) -> None:
        super().__init__(server, **options)
        self._shortcut = shortcut
        #: the request in progress was begun on the shortcut, and when, by the clock of the loop
        self._on_shortcut, self._begun_at = False, 0.0
        #: how long that took of a request that was given back; None for every other one
        self.seconds_on_shortcut: float | None = None

    def receive(self, data: bytes) -> bool:
        """Parse what was received; return whether a request has begun, of which aiohttp's task does not know yet."""
        before, idle = self._request_count, self._waiter
        self._waiter = None
        try:
            super().data_received(data)
        finally:
            self._waiter = idle
        return self._request_count != before

    def offer(self) -> bool:
        """Let the request that has begun be answered; return whether it takes the shortcut."""
        if self._on_shortcut:
            return False
        self._begun_at = self._loop.time()
        if not self._begin():
            self._wake()
            return False
        self._on_shortcut = self._request_in_progress = True
        return True

    def _begin(self) -> bool:
        idle = self._waiter
        if self._shortcut is None or idle is None or idle.done() or len(self._messages) != 1 or self._paused:
            return False
        message, content = self._messages[0]
        if not isinstance(message, RawRequestMessage) or message.version != HttpVersion11:
            return False
        if message.should_close or message.upgrade or message.chunked or (body := whole_body(content)) is None:
            return False
        try:
            return self._shortcut.begin(message, body, self._respond)
        except Exception:
            return False

    def _respond(self, response: bytes | None) -> None:
        """Send the response on the shortcut; without one, the request goes the other way."""
        self._on_shortcut = False
        transport = self.transport
        if response is None:
            self.seconds_on_shortcut = self._loop.time() - self._begun_at
            self.take_back(self._messages[0][1])
            self._wake()
            return
        self._request_in_progress = False
        if self._handler_waiter is not None:
            self._handler_waiter.set_result(None)
        if transport is None:
            self._end_task()
            return
        self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        if not transport.is_closing():
            transport.write(response)
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._close:
            super().close()
        elif self._messages:
            self._wake()
        else:
            self.become_idle()

    def take_back(self, content: StreamReader) -> None:
        """Count the body of a request that the shortcut has given back."""

    def become_idle(self) -> None:
        """Note that all requests are answered."""

    def connection_lost(self, exc: BaseException | None) -> None:
        factory, answer = self._request_factory, self._request_handler
        super().connection_lost(exc)
        # A request that is given back later is handled, as every other one whose sender has left.
        self._request_factory, self._request_handler = factory, answer

    def force_close(self) -> None:
        """Close the connection. The request on the shortcut may still be given back to aiohttp's task."""
        idle = self._waiter
        if self._on_shortcut:
            self._waiter = None
        super().force_close()
        self._waiter = idle

    def close(self) -> None:
        """Accept no further request, and end when the one in progress is answered."""
        if self._on_shortcut:
            self._close = True
        else:
            super().close()

    def _end_task(self) -> None:
        """End aiohttp's task, which waits for a request that cannot come."""
        if self._waiter is not None:
            self._waiter.cancel()

    def _wake(self) -> None:
        """Let aiohttp's task take the next request, if it waits for one."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def whole_body(content: StreamReader) -> bytes | None:
    """Return a body if it has been received, and leave it there; None if there is none, or not all of it."""
    # Only private members tell without consuming it.
    return b"".join(content._buffer) if content.total_bytes and content._eof else None  # noqa: SLF001


def seconds_on_shortcut(request: web.Request) -> float | None:
    """Return how long a request was on the shortcut, which could not answer it; None if it was not there."""
    return request.protocol.seconds_on_shortcut if isinstance(request.protocol, ShortcutConnection) else None
