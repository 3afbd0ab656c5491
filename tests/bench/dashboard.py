"""The pages: the overview of a thousand applications, and what two hundred open tabs cost those who push."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import asyncpg

from gateway.cli.demo.process import GatewayProcess, gateway_process
from gateway.store.embedded_postgres import embedded_postgres
from tests.bench.accepting import REPOSITORIES, SETTINGS, prepare
from tests.bench.load import Pushes, send
from tests.bench.report import Figure, bound, figure
from tests.bench.starting import resident, ticks

_APPLICATIONS, _VIEWS = 1000, 20
_TABS, _PAIRS, _SECONDS, _WATCHED = 200, 5, 2, 20
_TICKS = os.sysconf("SC_CLK_TCK")
_ADDED = """
    INSERT INTO applications (name, app_name, environment_id, docker_image)
    SELECT 'app ' || n, 'many' || n, (SELECT environment_id FROM applications LIMIT 1), 'acme/many:v1'
      FROM generate_series(1, $1::int) AS n
"""


async def measure(directory: Path) -> list[Figure]:
    """Measure with tabs and without in turn; the tabs fetch what they show when they are told of a change."""
    async with gateway_process(directory / "dashboard", f"unix://{directory}/none", SETTINGS) as gateway:
        path = await prepare(gateway, REPOSITORIES)
        async with embedded_postgres(Path(gateway.environment["GATEWAY_DATA_DIR"])) as url:
            connection = await asyncpg.connect(url)
            await connection.execute(_ADDED, _APPLICATIONS - len(REPOSITORIES))
            await connection.execute("ANALYZE")
            await connection.close()
        jar = aiohttp.CookieJar(unsafe=True)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(cookie_jar=jar, connector=connector) as browser:
            await browser.post(f"{gateway.url}/dashboard/sign-in", data={"key": gateway.key})
            viewed = [await _view(browser, gateway) for _ in range(_VIEWS)]
            before = resident(gateway.pid)
            with_tabs, without = [], []
            for _ in range(_PAIRS):
                without.append(await _rate(gateway, path, directory))
                async with _open_tabs(browser, gateway):
                    with_tabs.append(await _rate(gateway, path, directory))
            async with _open_tabs(browser, gateway):
                spent, began = ticks(gateway.pid), time.perf_counter()
                await asyncio.sleep(_WATCHED)
                share = (ticks(gateway.pid) - spent) * 100 / _TICKS / (time.perf_counter() - began)
                after = resident(gateway.pid)
    return [
        bound("(j) overview of 1,000 applications (over 0.3 s)", viewed, 0.3, "s"),
        figure("(j) pushes with 200 tabs over without", with_tabs, without, "/s", 0.9, ">="),
        Figure("(j) processor of 200 tabs, nothing happens (over 5 %)", share, 5, "%", gate=1.0),
        Figure("(j) memory of 200 tabs (over 40 MB)", after - before, 40, "MB", gate=1.0),
    ]


async def _view(browser: aiohttp.ClientSession, gateway: GatewayProcess) -> float:
    began = time.perf_counter()
    async with browser.get(f"{gateway.url}/dashboard") as response:
        assert response.status == 200
        await response.read()
    return time.perf_counter() - began


async def _rate(gateway: GatewayProcess, path: str, directory: Path) -> float:
    sent = await send(gateway.url, Pushes(path, REPOSITORIES), connections=32, seconds=_SECONDS, directory=directory)
    return sent.rate


@asynccontextmanager
async def _open_tabs(browser: aiohttp.ClientSession, gateway: GatewayProcess) -> AsyncIterator[None]:
    tabs = [asyncio.create_task(_tab(browser, gateway)) for _ in range(_TABS)]
    await asyncio.sleep(2)
    try:
        yield
    finally:
        for tab in tabs:
            tab.cancel()
        await asyncio.gather(*tabs, return_exceptions=True)


async def _tab(browser: aiohttp.ClientSession, gateway: GatewayProcess) -> None:
    """Do what the script of a page does: fetch the live part again when a topic of it changes."""
    timeout = aiohttp.ClientTimeout(total=None)
    headers = {"HX-Request": "true", "HX-Target": "overview"}
    async with browser.get(f"{gateway.url}/dashboard/live", timeout=timeout) as stream:
        fetched = 0.0
        async for line in stream.content:
            if line.startswith(b"data:") and (b"overview" in line or b"everything" in line):
                await asyncio.sleep(max(0.0, 0.25 - (time.monotonic() - fetched)))
                fetched = time.monotonic()
                async with browser.get(f"{gateway.url}/dashboard", headers=headers) as response:
                    await response.read()
