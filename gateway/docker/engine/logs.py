"""Reads logs and other streams of the engine.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerLogs
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import aiohttp

from gateway.docker.engine.client import CALL_DEADLINE, Engine, translate_errors
from gateway.model.errors import storable_text

_LINES = 50
_BYTES = 16_384
_HEADER = 8  # bytes before each frame; the log of a container with a terminal has no frames
_STREAMS = frozenset({0, 1, 2})
_LONGEST_LINE = 65_536  # bytes; what is longer is cut
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) ")
_ENDLESS = aiohttp.ClientTimeout(total=None, sock_connect=10)


@dataclass(slots=True)
class _Tail:
    """Keeps the last bytes of a stream."""

    most: int
    pieces: deque[bytes] = field(default_factory=deque)
    length: int = 0

    def add(self, piece: bytes) -> None:
        self.pieces.append(piece)
        self.length += len(piece)
        while self.length - len(self.pieces[0]) > self.most:
            self.length -= len(self.pieces.popleft())

    def text(self) -> str:
        return storable_text(b"".join(self.pieces)[-self.most :].decode(errors="replace"))


async def tail(
    engine: Engine,
    path: str,
    *,
    lines: int = _LINES,
    since: int = 0,
    most: int = _BYTES,
    deadline: float = CALL_DEADLINE,
) -> str:
    """Return the last lines of the log at `path`: of a container, a task or a service, both streams joined.

    `since` is a Unix time in seconds. At most the last `most` bytes are returned.
    """
    params = {"stdout": 1, "stderr": 1, "tail": lines, "since": since}
    with translate_errors(waiting_for=f"GET {path}"):
        async with (
            asyncio.timeout(deadline),
            engine._query(path, params=params) as response,  # noqa: SLF001 - ours; the public call decodes line by line
        ):
            return await decode_tail(response.content.iter_any(), most)


async def read_stream(engine: Engine, path: str, params: Mapping[str, str | int]) -> bytes:
    """Return all bytes of a stream that ends."""
    with translate_errors(waiting_for=f"GET {path}"):
        async with (
            asyncio.timeout(CALL_DEADLINE),
            engine._query(path, params=dict(params)) as response,  # noqa: SLF001 - our own subclass
        ):
            return await response.read()


async def decode_tail(chunks: AsyncIterable[bytes], most: int) -> str:
    """Return the end of a log, with the frame headers of its two streams removed.

    https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerAttach
    """
    end = _Tail(most)
    async for pieces in _payloads(chunks):
        for piece in pieces:
            end.add(piece)
    return end.text()


async def follow(engine: Engine, path: str, *, lines: str, since: str) -> AsyncIterator[list[tuple[str, str]]]:
    """Yield the lines of the log at `path` as they come, each with its time, until the log ends.

    It begins with the last `lines` lines (a number, or `all`) at or after the Unix time `since`. Lines that came
    together are yielded together.
    """
    params = {"stdout": 1, "stderr": 1, "follow": 1, "timestamps": 1, "tail": lines, "since": since}
    with translate_errors(waiting_for=f"GET {path}"):
        async with engine._query(path, params=params, timeout=_ENDLESS) as response:  # noqa: SLF001 - ours
            async for together in decode_lines(response.content.iter_any()):
                yield together


async def decode_lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[list[tuple[str, str]]]:
    """Yield the lines of a log with timestamps, each with its time. The rest of a cut line has the time of the line."""
    rest, moment = b"", ""

    def stamped(lines: Iterable[bytes]) -> Iterator[tuple[str, str]]:
        nonlocal moment
        for line in lines:
            text = line[:_LONGEST_LINE]
            if found := _STAMP.match(text):
                moment, text = found[1].decode(), text[found.end() :]
            yield moment, storable_text(text.rstrip(b"\r").decode(errors="replace"))

    async for pieces in _payloads(chunks):
        *whole, rest = (rest + b"".join(pieces)).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            whole, rest = [*whole, rest], b""
        if whole:
            yield list(stamped(whole))
    if rest:
        yield list(stamped([rest]))


async def _payloads(chunks: AsyncIterable[bytes]) -> AsyncIterator[list[bytes]]:
    """Yield the contents of the frames of both streams. Contents that came together are yielded together.

    The content of a frame is passed on before the frame is complete: the output of a terminal has no frames, but can
    look like the header of a very long one.
    """
    header, missing = b"", 0  # bytes of the frame
    framed: bool | None = None
    async for chunk in chunks:
        if framed is None and chunk:
            framed = chunk[0] in _STREAMS
        if not framed:
            yield [chunk]
            continue
        position, found = 0, []
        while position < len(chunk):
            if missing:
                found.append(chunk[position : position + missing])
                position += len(found[-1])
                missing -= len(found[-1])
                continue
            more = chunk[position : position + _HEADER - len(header)]
            header, position = header + more, position + len(more)
            if len(header) == _HEADER:
                header, missing = b"", int.from_bytes(header[4:], "big")
        if found:
            yield found
