"""The end of what something has logged on the engine, both streams joined."""

import asyncio
from collections.abc import Mapping

from gateway.engine.client import CALL_DEADLINE, Engine, translated
from gateway.errors import printable

_LINES = 50
_BYTES = 16_384
_HEADER = 8  # bytes before each frame of a log that has no terminal


async def tail(engine: Engine, path: str, *, deadline: float = CALL_DEADLINE) -> str:
    """Return the last lines behind `path`, a container's or a task's log."""
    raw = await read(engine, path, {"stdout": 1, "stderr": 1, "tail": _LINES}, deadline=deadline)
    return printable(demultiplexed(raw))[-_BYTES:]


async def read(engine: Engine, path: str, params: Mapping[str, str | int], *, deadline: float = CALL_DEADLINE) -> bytes:
    """Return a stream's bytes, once it has ended."""
    with translated(waiting_for=f"GET {path}"):
        async with (
            asyncio.timeout(deadline),
            engine._query(path, params=dict(params)) as response,  # noqa: SLF001 - our own subclass
        ):
            return await response.read()


def demultiplexed(raw: bytes) -> str:
    """Join the frames of a log: https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerAttach."""
    if not raw or raw[0] not in {0, 1, 2}:
        return raw.decode(errors="replace")
    text, position = [], 0
    while position + _HEADER <= len(raw):
        length = int.from_bytes(raw[position + 4 : position + _HEADER], "big")
        text.append(raw[position + _HEADER : position + _HEADER + length])
        position += _HEADER + length
    return b"".join(text).decode(errors="replace")
