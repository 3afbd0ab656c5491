"""A small TCP balancer before the gateway: it can be cut, or changed over to another gateway."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from gateway.cli.demo.process import free_port

_CHUNK = 65_536  # bytes


class Balancer:
    """Passes each new connection to the gateway on port `target`."""

    def __init__(self, port: int, target: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.target = target
        self._passes = asyncio.Event()
        self._passes.set()
        self._open: set[asyncio.Task[None]] = set()
        self._dead: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """Pass nothing on, as a network that is gone; the connections of now stay dead, and nobody notices."""
        self._passes.clear()
        self._dead |= self._open

    def mend(self) -> None:
        """Pass new connections on again."""
        self._passes.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own = asyncio.current_task()
        assert own is not None
        self._open.add(own)
        try:
            await self._passes.wait()
            with suppress(OSError):
                there, back = await asyncio.open_connection("127.0.0.1", self.target)
                await self._both(own, (reader, back), (there, writer))
        finally:
            self._open.discard(own)
            self._dead.discard(own)
            writer.close()

    async def _both(self, own: asyncio.Task[None], *ways: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        passing = [asyncio.create_task(self._pass_on(own, *way)) for way in ways]
        try:
            await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in passing:
                one.cancel()
            await asyncio.gather(*passing, return_exceptions=True)
            for _, writer in ways:
                writer.close()

    async def _pass_on(
        self, own: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while chunk := await reader.read(_CHUNK):
            if own in self._dead:
                await asyncio.Event().wait()
            await self._passes.wait()
            writer.write(chunk)
            await writer.drain()

    def end(self) -> None:
        for one in list(self._open):
            one.cancel()


@asynccontextmanager
async def balancer(target: int) -> AsyncIterator[Balancer]:
    """Run a balancer in front of a port."""
    made = Balancer(port := free_port(), target)
    server = await asyncio.start_server(made.serve, "127.0.0.1", port)
    try:
        yield made
    finally:
        server.close()
        made.end()
