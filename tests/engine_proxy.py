"""A proxy on the engine's socket that can stop the gateway, from outside, around any call that changes something."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "content-length"})


@dataclass
class EngineProxy:
    """`calls` are the changing calls seen. Armed, it kills `pid` at the `at`-th of them, before or after it."""

    socket: Path
    target: Path
    calls: list[str] = field(default_factory=list)
    pid: int | None = None
    at: int = -1
    after: bool = False
    fired: str | None = None

    def arm(self, pid: int, at: int, *, after: bool) -> None:
        self.calls.clear()
        self.pid, self.at, self.after, self.fired = pid, at, after, None

    def disarm(self) -> None:
        self.calls.clear()
        self.pid, self.fired = None, None

    def kill(self, call: str) -> None:
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            self.pid, self.fired = None, call

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        mine = False
        if request.method != "GET":
            call = f"{request.method} {request.path.split('/', 2)[-1]}"
            mine = self.pid is not None and len(self.calls) == self.at
            self.calls.append(call)
            if mine and not self.after:
                self.kill(call)
                raise web.HTTPBadGateway
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.target))) as session,
            session.request(
                request.method,
                f"http://docker{request.rel_url}",
                data=body,
                headers={key: value for key, value in request.headers.items() if key.lower() not in _HOP},
                timeout=aiohttp.ClientTimeout(total=None),
            ) as answer,
        ):
            if mine:
                await answer.read()
                self.kill(self.calls[-1])
                raise web.HTTPBadGateway
            headers = {key: value for key, value in answer.headers.items() if key.lower() not in _HOP}
            response = web.StreamResponse(status=answer.status, headers=headers)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response


@asynccontextmanager
async def engine_proxy(socket: Path, target: Path) -> AsyncIterator[EngineProxy]:
    """Listen on `socket` and pass everything on to the engine at `target`."""
    proxy = EngineProxy(socket, target)
    application = web.Application(client_max_size=16 * 1024**2)
    application.router.add_route("*", "/{path:.*}", proxy.handle)
    runner = web.AppRunner(application, handler_cancellation=True)
    await runner.setup()
    await web.UnixSite(runner, str(socket)).start()
    try:
        yield proxy
    finally:
        await runner.cleanup()
