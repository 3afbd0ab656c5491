"""The end of what something has logged on the engine, both streams joined."""

import asyncio

from gateway.engine.client import CALL_DEADLINE, Engine, translated
from gateway.errors import printable

_LINES = 50
_BYTES = 16_384
_HEADER = 8  # bytes before each frame of a log that has no terminal


async def tail(engine: Engine, path: str, *, deadline: float = CALL_DEADLINE) -> str:
    """Return the last lines behind `path`, a container's or a task's log."""
    with translated(waiting_for=f"GET {path}"):
        async with (
            asyncio.timeout(deadline),
            engine._query(  # noqa: SLF001 - our own subclass; the public call decodes line by line
                path, params={"stdout": 1, "stderr": 1, "tail": _LINES}
            ) as response,
        ):
            raw = await response.read()
    return printable(demultiplexed(raw))[-_BYTES:]


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
