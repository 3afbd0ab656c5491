"""One push at a time, over one connection, by a client that costs next to nothing."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def milliseconds(self, push: bytes, *, status: int = 202) -> float:
        """Return how long the answer to a push takes, which must have this status."""
        began = time.perf_counter()
        self._writer.write(push)
        head = await self._reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
        body = await self._reader.readexactly(length)
        taken = time.perf_counter() - began
        assert head.startswith(b"HTTP/1.1 %d " % status), (head, body)
        return taken * 1000


@asynccontextmanager
async def client(port: int) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


def p50s(latencies: list[float], *, parts: int = 5) -> list[float]:
    """Return the median of each of so many parts of a run."""
    many = len(latencies) // parts
    return [sorted(latencies[one * many : (one + 1) * many])[many // 2] for one in range(parts)]
