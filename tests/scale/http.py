"""The least of HTTP that a gateway needs of an engine: one process answers for ten thousand of them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import orjson

_TLS = b"\x16"
_REASONS = {200: "OK", 201: "Created", 204: "No Content", 304: "Not Modified", 404: "Not Found", 409: "Conflict"}


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `local` is the address that it was sent to."""

    method: str
    path: str
    query: dict[str, list[str]]
    body: bytes
    local: str

    def param(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[0]

    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with a JSON body, unless there is none. `stream` holds the connection open and writes later."""

    status: int = 200
    body: Any = None
    headers: tuple[tuple[str, str], ...] = ()
    stream: "Callable[[Connection], None] | None" = None


class Connection(asyncio.Protocol):
    """One connection, with one request at a time, as aiohttp's client uses it."""

    def __init__(self, respond: Callable[[Request], Answer | Awaitable[Answer]]) -> None:
        self._respond = respond
        self._buffer = b""
        self._task: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport | None = None
        self._local = ""
        #: called when the connection is lost
        self.on_lost: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._local = transport.get_extra_info("sockname")[0]
        if not self._local.startswith("127."):
            self._transport.abort()  # the simulation is for this machine alone

    def data_received(self, data: bytes) -> None:
        if data.startswith(_TLS) and self._transport is not None:
            self._transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")  # the client sees that this is not TLS
            self._transport.close()
            return
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        length = next((int(line[15:]) for line in lines if line[:15].lower() == "content-length:"), 0)
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        method, target, _ = first.split(" ")
        parts = urlsplit(target)
        query = parse_qs(parts.query, keep_blank_values=True) if parts.query else {}
        answer = self._respond(Request(method, parts.path, query, rest[:length], self._local))
        if isinstance(answer, Answer):
            self._send(answer)
            return
        self._task = asyncio.ensure_future(answer)
        self._task.add_done_callback(lambda done: self._send(done.result()))

    def connection_lost(self, _error: Exception | None) -> None:
        # What an engine has begun it ends, whoever has gone.
        self._transport = None
        if self.on_lost is not None:
            self.on_lost()

    def _send(self, answer: Answer) -> None:
        if self._transport is None:
            return
        lines = [f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Error')}"]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        if answer.stream is not None:
            lines += ["Content-Type: application/json", "Transfer-Encoding: chunked", "", ""]
            self._transport.write("\r\n".join(lines).encode())
            answer.stream(self)
            return
        body = b"" if answer.body is None else orjson.dumps(answer.body)
        if body:
            lines.append("Content-Type: application/json")
        if not any(name == "Content-Length" for name, _ in answer.headers):
            lines.append(f"Content-Length: {len(body)}")
        self._transport.write("\r\n".join([*lines, "", ""]).encode() + body)

    def write_chunk(self, message: Any) -> None:
        """Write one line of a stream."""
        if self._transport is not None:
            line = orjson.dumps(message) + b"\r\n"
            self._transport.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")

    def end_chunks(self) -> None:
        if self._transport is not None:
            self._transport.write(b"0\r\n\r\n")
