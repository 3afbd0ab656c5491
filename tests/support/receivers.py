"""Receivers of alerts on this host, and a worker that delivers to them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.background import BackgroundTasks
from gateway.config import Settings
from gateway.registry import client as registry_client
from gateway.store.database import Pool
from gateway.store.encryption import Vault
from gateway.worker import outbox
from gateway.worker.outbox import OutboxWorker


def shorten_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the outbox try again after fractions of a second."""
    for name, seconds in (("_SHORTEST", 0.02), ("_LONGEST", 0.5), ("_FIRST_PAUSE", 0.05), ("POLL_INTERVAL", 0.05)):
        monkeypatch.setattr(outbox, name, seconds)


@dataclass
class Hook:
    """A program that is told by webhooks. `answer` decides what it answers to each request."""

    url: str = ""
    heard: "asyncio.Queue[tuple[dict[str, str], bytes]]" = field(default_factory=asyncio.Queue)
    answer: Callable[[], web.Response] = web.Response

    async def hear(self, request: web.Request) -> web.Response:
        await self.heard.put(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        return self.answer()

    async def told(self) -> dict[str, Any]:
        """Return the next message."""
        async with asyncio.timeout(20):
            headers, body = await self.heard.get()
        return {**orjson.loads(body), "id": headers["webhook-id"]}


@asynccontextmanager
async def a_hook(answer: Callable[[], web.Response] = web.Response) -> AsyncIterator[Hook]:
    hook = Hook(answer=answer)
    application = web.Application()
    application.router.add_post("/hook", hook.hear)
    async with TestServer(application) as server:
        hook.url = f"http://127.0.0.1:{server.port}/hook"
        yield hook


@dataclass
class Hole:
    """Accepts connections, takes what is sent, and never answers. `full` counts those that have sent something."""

    port: int = 0
    full: int = 0
    connections: list[asyncio.StreamWriter] = field(default_factory=list)

    async def swallow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        if await reader.read(1):
            self.full += 1
        while await reader.read(65_536):
            pass
        writer.close()

    async def swallowed(self, count: int) -> bool | None:
        return self.full >= count or None


@asynccontextmanager
async def a_hole() -> AsyncIterator[Hole]:
    hole = Hole()
    server = await asyncio.start_server(hole.swallow, "127.0.0.1", 0)
    try:
        hole.port = server.sockets[0].getsockname()[1]
        yield hole
    finally:
        server.close()
        for one in hole.connections:
            one.close()


@asynccontextmanager
async def delivering(pool: Pool, vault: Vault, owner: str = "one", **settings: str) -> AsyncIterator[OutboxWorker]:
    """Deliver what is in the outbox until the block is left."""
    tasks = BackgroundTasks()
    async with registry_client.connect() as registry:
        worker = OutboxWorker(pool, vault, registry, Settings.from_environ({"HOME": "/", **settings}), owner)
        async with (
            tasks.running("outbox", worker.deliver_forever),
            tasks.running("bounds", worker.keep_bounds_forever),
        ):
            yield worker
        assert tasks.failing == []
