"""A proxy on the engine's socket that can strike, from outside, around any call that changes something."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol

import aiohttp
from aiohttp import web

_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "content-length"})


class Strike(Protocol):
    """What is done to the world when a call is reached."""

    @property
    def cuts(self) -> bool:
        """Whether the gateway's connection breaks then, with no answer."""

    @property
    def late(self) -> float | None:
        """Seconds after which the call is made all the same, though nobody waits for it any more; None: never."""

    async def __call__(self) -> None: ...


@dataclass
class EngineProxy:
    """`calls` are the changing calls seen. Armed, it strikes at one of them, before or after it is made."""

    socket: Path
    target: Path
    calls: list[str] = field(default_factory=list)
    fired: str | None = None
    #: set when the call is reached, and when the strike has been made
    struck: asyncio.Event = field(default_factory=asyncio.Event)
    made: asyncio.Event = field(default_factory=asyncio.Event)
    _strike: Strike | None = None
    _at: int | str = -1
    _after: bool = False
    _late: set[asyncio.Task[None]] = field(default_factory=set)

    def arm(self, strike: Strike, at: int | str, *, after: bool) -> None:
        """Strike at the next call of this number, or at the first one whose path ends so."""
        self.calls.clear()
        self._strike, self._at, self._after, self.fired = strike, at, after, None
        self.struck.clear()
        self.made.clear()

    def disarm(self) -> None:
        self.calls.clear()
        self._strike, self.fired = None, None

    async def landed(self) -> None:
        """Wait until what was to land later has."""
        await asyncio.gather(*self._late)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        strike = self._struck(request)
        if strike is not None and not self._after:
            await self._make(strike)
            if strike.late is not None:
                self._make_later(request, body, strike.late)
            if strike.cuts:
                _break(request)
        try:
            return await self._pass_on(request, body, strike if self._after else None)
        except aiohttp.ClientError:
            _break(request)
        finally:
            if strike is not None:  # also where the call failed before the strike
                self.made.set()

    async def _make(self, strike: Strike) -> None:
        try:
            await strike()
        finally:
            self.made.set()

    def _struck(self, request: web.Request) -> Strike | None:
        if request.method == "GET":
            return None
        call = f"{request.method} {request.path.split('/', 2)[-1]}"
        here = call.endswith(self._at) if isinstance(self._at, str) else len(self.calls) == self._at
        mine = self._strike if here and self.fired is None else None
        self.calls.append(call)
        if mine is not None:
            self.fired = call
            self.struck.set()
        return mine

    async def _pass_on(self, request: web.Request, body: bytes, strike: Strike | None) -> web.StreamResponse:
        async with self._made(request, body) as answer:
            said = None
            if strike is not None:
                said = await answer.read()
                await self._make(strike)
                if strike.cuts:
                    _break(request)
            headers = {key: value for key, value in answer.headers.items() if key.lower() not in _HOP}
            response = web.StreamResponse(status=answer.status, headers=headers)
            await response.prepare(request)
            async for chunk in answer.content.iter_any() if said is None else _once(said):
                await response.write(chunk)
            await response.write_eof()
            return response

    @asynccontextmanager
    async def _made(self, request: web.Request, body: bytes) -> AsyncIterator[aiohttp.ClientResponse]:
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
            yield answer

    def _make_later(self, request: web.Request, body: bytes, delay: float) -> None:
        async def make() -> None:
            await asyncio.sleep(delay)
            async with self._made(request, body) as answer:
                await answer.read()

        task = asyncio.create_task(make(), name="lands later")
        self._late.add(task)
        task.add_done_callback(self._late.discard)


async def _once(said: bytes) -> AsyncIterator[bytes]:
    yield said


def _break(request: web.Request) -> NoReturn:
    """Let the connection end as that of a daemon that died does: without a word."""
    if request.transport is not None:
        request.transport.abort()
    raise asyncio.CancelledError


@asynccontextmanager
async def engine_proxy(socket: Path, target: Path) -> AsyncIterator[EngineProxy]:
    """Listen on `socket` and pass everything on to the engine at `target`."""
    proxy = EngineProxy(socket, target)
    application = web.Application(client_max_size=16 * 1024**2)
    application.router.add_route("*", "/{path:.*}", proxy.handle)
    runner = web.AppRunner(application, handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, str(socket)).start()
    try:
        yield proxy
    finally:
        await runner.cleanup()
