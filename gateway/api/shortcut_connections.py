"""Connections that offer each request to a shortcut, which answers it without aiohttp, or leaves it to aiohttp.

A sender often sends the same head with each request. So the heads of requests that took the shortcut are remembered:
what comes as a whole request with such a head, and with a body of its length, is not parsed again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web
from aiohttp.http import HttpVersion11
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

#: receives the response to a request; None where aiohttp is to answer it
Respond = Callable[[bytes | None], None]

_MAX_HEADS = 250
_MAX_HEAD = 4096  # bytes of a head that is remembered
_END_OF_HEAD = b"\r\n\r\n"


class Shortcut(Protocol):
    """Answers some requests without aiohttp's part."""

    def read(self, message: RawRequestMessage, /) -> Any | None:
        """Return what `begin` needs to know of the head of a request; None where none with it takes the shortcut."""

    def begin(self, head: Any, body: bytes, respond: Respond, /) -> bool:
        """Begin to answer a request, and return whether it does. If so, `respond` is called later, once."""


SHORTCUT: web.AppKey[Shortcut] = web.AppKey("shortcut")


@dataclass(frozen=True, slots=True)
class KnownHead:
    """The bytes of a head, what the shortcut has read of it, and the length of the body that follows."""

    text: bytes
    head: Any
    length: int


class KnownHeads:
    """The heads of requests that took the shortcut; those used the longest ago are discarded."""

    def __init__(self) -> None:
        self._known: dict[bytes, KnownHead] = {}

    def get(self, data: bytes) -> KnownHead | None:
        """Return the head of a whole request, if it is known and nothing follows the request; None for other data."""
        end = data.find(_END_OF_HEAD) + len(_END_OF_HEAD)
        known = self._known.pop(data[:end], None)
        if known is None:
            return None
        self._known[known.text] = known
        return known if len(data) == end + known.length else None

    def put(self, data: bytes, head: Any, length: int) -> None:
        """Remember the head of a whole request, which is followed by a body of this length, and by nothing else."""
        text = data[: len(data) - length]
        if len(text) <= _MAX_HEAD:
            self._known[text] = KnownHead(text, head, length)
            if len(self._known) > _MAX_HEADS:
                del self._known[next(iter(self._known))]


class ShortcutConnection(RequestHandler):
    """One connection. Until a request on the shortcut is answered, it stays in `_messages`; aiohttp's task waits."""

    __slots__ = ("_begun_at", "_known", "_on_shortcut", "_shortcut", "_unparsed", "_whole", "seconds_on_shortcut")

    def __init__(self, server: web.Server, shortcut: Shortcut | None, known: KnownHeads, **options: Any) -> None:
        super().__init__(server, **options)
        self._shortcut, self._known = shortcut, known
        #: the request in progress was begun on the shortcut, and when, by the clock of the loop
        self._on_shortcut, self._begun_at = False, 0.0
        #: head and body of that request while it is not parsed, and so not in `_messages`
        self._unparsed: tuple[bytes, bytes] | None = None
        #: all that the parser got was whole requests, each by itself
        self._whole = True
        #: how long that took of a request that was given back; None for every other one
        self.seconds_on_shortcut: float | None = None

    # -- a request with a known head

    def known_head(self, data: bytes) -> KnownHead | None:
        """Return the head of a whole request, if it is known, and if no other request is in progress."""
        idle = self._waiter
        if not self._whole or self._messages or self._on_shortcut or idle is None or idle.done() or self._paused:
            return None
        return self._known.get(data)

    def take(self, known: KnownHead, data: bytes) -> bool:
        """Begin a whole request that has this head; return whether it takes the shortcut."""
        if self._shortcut is None or self._close or self._force_close:
            return False
        self._begun_at, body = self._loop.time(), data[len(known.text) :]
        try:
            begun = self._shortcut.begin(known.head, body, self._respond)
        except Exception:
            return False
        if begun:
            self._unparsed = known.text, body
            self._on_shortcut = self._request_in_progress = True
            self._request_count += 1
        return begun

    def _parse(self) -> None:
        """Let the request in progress be in `_messages`, as if it had been parsed at first."""
        if self._unparsed is not None and self._parser is not None:
            for data in self._unparsed:
                messages, *_ = self._parser.feed_data(data)
                self._messages.extend(messages)
            self._unparsed = None

    # -- any other request

    def receive(self, data: bytes) -> bool:
        """Parse what was received; return whether a request has begun, of which aiohttp's task does not know yet."""
        self._parse()
        before, idle = self._request_count, self._waiter
        self._waiter = None
        try:
            super().data_received(data)
        finally:
            self._waiter = idle
        begun = self._request_count - before
        if data or begun:
            self._whole = self._whole and begun == 1 and is_whole(data, *self._messages[-1])
        return begun > 0

    def offer(self, data: bytes) -> bool:
        """Let the request that has begun be answered; return whether it takes the shortcut.

        It was received with `data`.
        """
        if self._on_shortcut:
            return False
        self._begun_at = self._loop.time()
        if not self._begin(data):
            self._wake()
            return False
        self._on_shortcut = self._request_in_progress = True
        return True

    def _begin(self, data: bytes) -> bool:
        idle = self._waiter
        if self._shortcut is None or idle is None or idle.done() or len(self._messages) != 1 or self._paused:
            return False
        message, content = self._messages[0]
        if not isinstance(message, RawRequestMessage) or message.version != HttpVersion11:
            return False
        if message.should_close or message.upgrade or message.chunked or (body := whole_body(content)) is None:
            return False
        try:
            head = self._shortcut.read(message)
            begun = head is not None and self._shortcut.begin(head, body, self._respond)
        except Exception:
            return False
        if begun and self._whole:
            self._known.put(data, head, len(body))
        return begun

    # -- the response

    def _respond(self, response: bytes | None) -> None:
        """Send the response on the shortcut; without one, the request goes the other way."""
        self._on_shortcut = False
        transport = self.transport
        if response is None:
            self._parse()
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
        if self._unparsed is not None:
            self._unparsed = None
        else:
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
        self._parse()  # the parser goes
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


def is_whole(data: bytes, message: object, content: StreamReader) -> bool:
    """Return whether this request was received with `data`, and nothing else was: no byte before it or after it."""
    if not isinstance(message, RawRequestMessage) or message.chunked or not content.is_eof():
        return False
    end = data.find(_END_OF_HEAD) + len(_END_OF_HEAD)
    # Nobody can take it for the end of another line that a line ends without a carriage return.
    return len(data) == end + content.total_bytes and data.count(b"\n", 0, end) == data.count(b"\r\n", 0, end)


def seconds_on_shortcut(request: web.Request) -> float | None:
    """Return how long a request was on the shortcut, which could not answer it; None if it was not there."""
    return request.protocol.seconds_on_shortcut if isinstance(request.protocol, ShortcutConnection) else None
