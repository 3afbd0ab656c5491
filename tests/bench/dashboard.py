"""The pages: the overview of a thousand applications, and what two hundred open tabs cost those who push.

Two gateways stand side by side, each with its own database: one has the tabs, the other none. Pushes go to the one and
to the other in turn, for as many minutes as wished, while the tabs stay open.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import asyncpg
import orjson

from gateway.cli.demo.process import GatewayProcess, gateway_process
from gateway.store.embedded_postgres import embedded_postgres
from tests.bench.accepting import REPOSITORIES, SETTINGS, prepare
from tests.bench.load import Pushes, send
from tests.bench.processor import taken
from tests.bench.report import Figure, bound, figure
from tests.bench.starting import resident, ticks

_APPLICATIONS, _VIEWS = 1000, 20
_TABS, _SECONDS, _WATCHED = 200, 2, 20
_LEAST_PAIRS = 5
_SETTLES = 4.0  # seconds after which the tabs have shown what changed, and rest
_RECONNECTS = 1.0  # seconds, as the script of the pages does
_TICKS = os.sysconf("SC_CLK_TCK")
_ADDED = """
    INSERT INTO applications (name, app_name, environment_id, docker_image)
    SELECT 'app ' || n, 'many' || n, (SELECT environment_id FROM applications LIMIT 1), 'acme/many:v1'
      FROM generate_series(1, $1::int) AS n
"""


@dataclass(frozen=True, slots=True)
class _Side:
    """A gateway that is pushed to."""

    gateway: GatewayProcess
    path: str
    database: str

    async def rate(self, directory: Path) -> tuple[float, float]:
        """Push for a moment; return the pushes a second, and the milliseconds of processor that one took.

        What is queued was not there before, so the first pushes change what the tabs show.
        """
        before = taken(self.gateway, os.getpid())
        pushes = Pushes(self.path, REPOSITORIES)
        sent = await send(self.gateway.url, pushes, connections=32, seconds=_SECONDS, directory=directory)
        cost = (taken(self.gateway, os.getpid()) - before).each(sent.answers).python
        connection = await asyncpg.connect(self.database)
        await connection.execute("DELETE FROM deployments")
        await connection.close()
        await asyncio.sleep(_SETTLES)
        return sent.rate, cost


@dataclass(slots=True)
class _Tabs:
    """What the open tabs do, all together."""

    open: int = 0
    fetched: int = 0


async def measure(directory: Path, *, minutes: float = 0.5) -> list[Figure]:
    """Measure with tabs and without in turn; the tabs fetch what they show when it changes."""
    async with AsyncExitStack() as stack:
        shown = await stack.enter_async_context(_side(directory / "with-tabs"))
        alone = await stack.enter_async_context(_side(directory / "without-tabs"))
        browser = await stack.enter_async_context(_signed_in(shown.gateway))
        viewed = [await _view(browser, shown.gateway) for _ in range(_VIEWS)]
        for side in (alone, shown):
            await side.rate(directory)  # from here on, both are warm
        before = [resident(side.gateway.pid) for side in (alone, shown)]
        with_tabs: list[tuple[float, float]] = []
        without: list[tuple[float, float]] = []
        async with _open_tabs(browser, shown.gateway) as tabs:
            ends, early = time.monotonic() + minutes * 60, 0.0
            while time.monotonic() < ends or len(without) < _LEAST_PAIRS:
                without.append(await alone.rate(directory))
                with_tabs.append(await shown.rate(directory))
                early = early or resident(shown.gateway.pid)
            spent, began = ticks(shown.gateway.pid), time.perf_counter()
            await asyncio.sleep(_WATCHED)
            share = (ticks(shown.gateway.pid) - spent) * 100 / _TICKS / (time.perf_counter() - began)
            after = [resident(side.gateway.pid) for side in (alone, shown)]
            if tabs.open != _TABS or tabs.fetched < _TABS * len(with_tabs):
                raise RuntimeError(f"of {_TABS} tabs {tabs.open} are open, and have fetched {tabs.fetched} times")
    grown = [now - then for now, then in zip(after, before, strict=True)]
    lasted = f"{_TABS} tabs, {max(minutes, _LEAST_PAIRS * 2 * (_SECONDS + _SETTLES) / 60):.3g} minutes"
    (rates, costs), (rates_without, costs_without) = (
        [[one[part] for one in side] for part in (0, 1)] for side in (with_tabs, without)
    )
    return [
        bound("(j) overview of 1,000 applications (over 0.3 s)", viewed, 0.3, "s"),
        figure(f"(j) {lasted}: pushes with them over without", rates, rates_without, "/s", 0.9, ">="),
        figure(f"(j) {lasted}: processor of a push, with them over without", costs, costs_without, "ms"),
        Figure(f"(j) {_TABS} tabs: processor, nothing happens (over 5 %)", share, 5, "%", gate=1.0),
        Figure(f"(j) {lasted}: their memory (over 40 MB)", grown[1] - grown[0], 40, "MB", gate=1.0),
        Figure(f"(j) {lasted}: memory at the end over after one round", after[1], early, "MB", gate=1.2),
    ]


@asynccontextmanager
async def _side(directory: Path) -> AsyncIterator[_Side]:
    async with gateway_process(directory, f"unix://{directory}/none", SETTINGS) as gateway:
        path = await prepare(gateway, REPOSITORIES)
        async with embedded_postgres(Path(gateway.environment["GATEWAY_DATA_DIR"])) as url:
            connection = await asyncpg.connect(url)
            await connection.execute(_ADDED, _APPLICATIONS - len(REPOSITORIES))
            await connection.execute("ANALYZE")
            await connection.close()
            yield _Side(gateway, path, url)


@asynccontextmanager
async def _signed_in(gateway: GatewayProcess) -> AsyncIterator[aiohttp.ClientSession]:
    jar, connector = aiohttp.CookieJar(unsafe=True), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(cookie_jar=jar, connector=connector) as browser:
        await browser.post(f"{gateway.url}/dashboard/sign-in", data={"key": gateway.key})
        yield browser


async def _view(browser: aiohttp.ClientSession, gateway: GatewayProcess) -> float:
    began = time.perf_counter()
    async with browser.get(f"{gateway.url}/dashboard") as response:
        assert response.status == 200
        await response.read()
    return time.perf_counter() - began


async def _fetch(browser: aiohttp.ClientSession, gateway: GatewayProcess, part: str) -> None:
    headers = {"HX-Request": "true", "HX-Target": part}
    async with browser.get(f"{gateway.url}/dashboard", headers=headers) as response:
        assert response.status == 200
        await response.read()


@asynccontextmanager
async def _open_tabs(browser: aiohttp.ClientSession, gateway: GatewayProcess) -> AsyncIterator[_Tabs]:
    tabs = _Tabs()
    running = [asyncio.create_task(_tab(browser, gateway, tabs)) for _ in range(_TABS)]
    await asyncio.sleep(_SETTLES)
    try:
        yield tabs
    finally:
        for tab in running:
            tab.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _tab(browser: aiohttp.ClientSession, gateway: GatewayProcess, tabs: _Tabs) -> None:
    """Do what the script of a page does: fetch the live part again when it changes, and connect again when cut."""
    timeout = aiohttp.ClientTimeout(total=None)
    fetched = 0.0
    while True:
        async with browser.get(f"{gateway.url}/dashboard/live?topics=overview+pending", timeout=timeout) as stream:
            tabs.open += 1
            try:
                async for line in stream.content:
                    if line.startswith(b"data: ["):
                        await asyncio.sleep(max(0.0, 0.25 - (time.monotonic() - fetched)))
                        fetched = time.monotonic()
                        topics = set(orjson.loads(line.removeprefix(b"data: ")))
                        for part in ("pending", "overview"):
                            if topics & {part, "everything"}:
                                await _fetch(browser, gateway, part)
                                tabs.fetched += 1
            finally:
                tabs.open -= 1
        await asyncio.sleep(_RECONNECTS)
