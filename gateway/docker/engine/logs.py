"""Reads logs and other streams of the engine.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerLogs
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass, field

from gateway.docker.engine.client import CALL_DEADLINE, Engine, translate_errors
from gateway.model.errors import storable_text

_LINES = 50
_BYTES = 16_384
_HEADER = 8  # bytes before each frame; the log of a container with a terminal has no frames
_STREAMS = frozenset({0, 1, 2})


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


async def read_stream(
    engine: Engine, path: str, params: Mapping[str, str | int], *, deadline: float = CALL_DEADLINE
) -> bytes:
    """Return all bytes of a stream that ends."""
    with translate_errors(waiting_for=f"GET {path}"):
        async with (
            asyncio.timeout(deadline),
            engine._query(path, params=dict(params)) as response,  # noqa: SLF001 - our own subclass
        ):
            return await response.read()


async def decode_tail(chunks: AsyncIterable[bytes], most: int) -> str:
    """Return the end of a log, with the frame headers of its two streams removed.

    https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerAttach
    """
    end, rest = _Tail(most), b""
    framed: bool | None = None
    async for chunk in chunks:
        rest += chunk
        if framed is None and rest:
            framed = rest[0] in _STREAMS
        position = 0
        while framed and position + _HEADER <= len(rest):
            after = position + _HEADER + int.from_bytes(rest[position + 4 : position + _HEADER], "big")
            if after > len(rest):
                break
            end.add(rest[position + _HEADER : after])
            position = after
        if not framed:
            end.add(rest)
            position = len(rest)
        rest = rest[position:]
    # The last frame may be incomplete.
    end.add(rest[_HEADER:])
    return end.text()
