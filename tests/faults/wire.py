"""A TCP proxy in front of a server that can be cut, stalled, or broken off after so many bytes."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum

_CHUNK = 65_536
_RESET = struct.pack("ii", 1, 0)  # linger for no time: the connection is reset, not ended

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class Break(Enum):
    """How what comes from the server ends."""

    STALLED = "stalled"
    TRUNCATED = "truncated"
    RESET = "reset"


@dataclass
class Wire:
    """`port` on loopback leads to the server."""

    connect: Connect
    port: int = 0
    _open: asyncio.Event = field(default_factory=asyncio.Event)
    _refused: bool = False
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    #: how it breaks, and after how many more bytes of the server's
    _broken: Break | None = None
    _left: int = 0

    def cut(self) -> None:
        """Reset what is connected and whatever connects."""
        self._refused = True
        for writer in list(self._writers):
            _reset(writer)

    def stall(self) -> None:
        """Let nothing through any more, without a word."""
        self._open.clear()

    def break_after(self, how: Break, size: int) -> None:
        self._broken, self._left = how, size

    def mend(self) -> None:
        self._refused, self._broken = False, None
        self._open.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._refused:
                _reset(writer)
                return
            await self._open.wait()
            above, below = await self.connect()
            try:
                await asyncio.gather(self._pump(reader, below), self._pump(above, writer, counted=True))
            finally:
                below.close()
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, counted: bool = False) -> None:
        while data := await source.read(_CHUNK):
            await self._open.wait()
            if counted and self._broken is not None:
                self._left -= len(data)
                if self._left < 0:
                    await self._end(sink)
                    return
            sink.write(data)
            await sink.drain()
        sink.close()

    async def _end(self, sink: asyncio.StreamWriter) -> None:
        if self._broken is Break.RESET:
            _reset(sink)
        elif self._broken is Break.TRUNCATED:
            sink.close()
        else:
            while self._broken is not None:  # noqa: ASYNC110 - whoever stalled it mends it
                await asyncio.sleep(0.05)
            sink.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


@asynccontextmanager
async def wire(connect: Connect) -> AsyncIterator[Wire]:
    one = Wire(connect)
    one.mend()
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()
        one.mend()
        one.cut()
        await asyncio.sleep(0)
