"""How fast a push is accepted: proven, stored, matched, committed and answered."""

import asyncio
import re
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import aiohttp
import asyncpg
import orjson

from gateway.cli.demo.process import GatewayProcess, free_port, gateway_process, until
from gateway.store.embedded_postgres import embedded_postgres
from tests.bench import sources
from tests.bench.report import Figure, figure

EMPTY = """
import sys
from aiohttp import web
async def answer(request):
    await request.read()
    return web.json_response({})
async def application():
    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    return app
import logging, uvloop, asyncio
uvloop.install()
web.run_app(application(), host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
"""

# Each request another body: a push of another moment.
LUA = """
local thread = 0
function setup(one) one:set("id", thread); thread = thread + 1 end
function init(args) count = 0 end
function request()
  count = count + 1
  local body = '{"push_data":{"tag":"latest","pushed_at":' .. (id * 100000000 + count) ..
    ',"pusher":"me"},"repository":{"repo_name":"%s"}}'
  return wrk.format("POST", "%s", {["Content-Type"] = "application/json"}, body)
end
"""


def body(moment: int, repository: str = "acme/web") -> bytes:
    return orjson.dumps(
        {"push_data": {"tag": "latest", "pushed_at": moment, "pusher": "me"}, "repository": {"repo_name": repository}}
    )


WORDS = ("web", "api", "db", "mail", "auth", "cache", "jobs", "admin", "docs", "blog")


async def measure(directory: Path) -> list[Figure]:
    settings, host = {"GATEWAY_LOG_LEVEL": "error"}, f"unix://{directory}/none"
    async with (
        gateway_process(directory / "few", host, settings) as few,
        gateway_process(directory / "many", host, settings) as many,
    ):
        paths = [await _prepare(one) for one in (few, many)]
        await _fill(many)
        latencies = await _latencies([few, many], paths)
        await few.stop()
        rates = await _rates(many, paths[1], directory)
        memory = await _memory(many)
    return [
        figure(
            "(c) accept latency, 10,000 endpoints, 1,000,000 tags over 10", latencies[1], latencies[0], "ms", gate=1.5
        ),
        *rates,
        Figure("(f) resident memory, idle, 1,000 applications (over 100 MB)", memory, 100, "MB"),
    ]


async def _prepare(gateway: GatewayProcess) -> str:
    """Make ten applications and return the path of an endpoint."""
    for number in range(10):
        made = {"name": "a", "applicationId": f"a{number}", "dockerImage": f"acme/{WORDS[number]}"}
        await gateway.mutate("application.create", made)
    return str((await gateway.endpoint("dockerhub"))["path"])


async def _latencies(gateways: list[GatewayProcess], paths: list[str]) -> list[list[float]]:
    """Return milliseconds of single, distinct, matching pushes, to each in turn, after some to warm up."""
    taken: list[list[float]] = [[] for _ in gateways]
    async with aiohttp.ClientSession() as session:
        for number in range(1000):
            for one, (gateway, path) in enumerate(zip(gateways, paths, strict=True)):
                began = time.perf_counter()
                async with session.post(gateway.url + path, data=body(5_000_000_000 + number)) as answer:
                    await answer.read()
                    assert answer.status == 202
                taken[one].append((time.perf_counter() - began) * 1000)
    return [one[200:] for one in taken]


async def _fill(gateway: GatewayProcess) -> None:
    """Let a thousand applications follow a million tags, a tenth of them versions, told at ten thousand endpoints."""
    async with embedded_postgres(Path(gateway.environment["GATEWAY_DATA_DIR"])) as url:
        connection = await asyncpg.connect(url)
        await connection.execute(
            """
            INSERT INTO projects (project_id, name) VALUES ('b', 'b');
            INSERT INTO environments (environment_id, project_id, name) VALUES ('b', 'b', 'b');
            INSERT INTO applications (application_id, name, app_name, environment_id)
            SELECT 'b' || number, 'b', 'b' || number, 'b' FROM generate_series(1, 990) AS number
            """
        )
        await connection.execute(
            """
            INSERT INTO subscriptions (application_id, repository, tag, rule, pattern)
            SELECT 'b' || 1 + number % 990, 'ghcr.io/org' || number / 100 || '/app' || number,
                   CASE WHEN number % 10 > 0 THEN 'latest' ELSE '' END,
                   CASE WHEN number % 10 > 0 THEN 'exact' ELSE 'semver' END::rule,
                   CASE WHEN number % 10 > 0 THEN 'latest' ELSE '^1' END
              FROM generate_series(11, 1000000) AS number
            """,
            timeout=300,
        )
        await connection.execute(
            """
            INSERT INTO endpoints (source, name, token_hash, secret)
            SELECT 'github', 'n' || number, sha256(number::text::bytea), ''
              FROM generate_series(1, 10000) AS number
            """
        )
        await connection.execute("ANALYZE subscriptions, endpoints", timeout=300)
        # What was just filled in is written out now, not while it is measured.
        await connection.execute("CHECKPOINT", timeout=300)
        await connection.close()


async def _memory(gateway: GatewayProcess) -> float:
    """Return the resident megabytes of the process with a thousand applications, after a moment of rest."""
    await gateway.stop()
    await gateway.start()
    await gateway.query("application.all")
    await asyncio.sleep(3)
    status = await asyncio.to_thread(Path(f"/proc/{gateway.pid}/status").read_text)
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


async def _rates(gateway: GatewayProcess, path: str, directory: Path) -> list[Figure]:
    if shutil.which("wrk") is None:
        print("wrk is needed for the rates: apt-get install wrk")  # noqa: T201
        return []
    figures = []
    async with _empty_handler() as empty:
        for connections in (32, 128):
            for repository, word in (("acme/web", "all matching"), ("acme/nobody", "none matching")):
                script = directory / "push.lua"
                script.write_text(LUA % (repository, path))
                theirs = await _wrk(empty, script, connections)
                ours = await _wrk(gateway.url, script, connections)
                name = f"(d) webhooks a second, {word}, {connections} connections, over an empty handler"
                figures.append(Figure(name[:58], ours, theirs, "/s"))
        figures += await sources.rates(gateway, empty, directory)
    return figures


@asynccontextmanager
async def _empty_handler() -> AsyncIterator[str]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", EMPTY, str(port))
    try:

        async def answers() -> bool | None:
            try:
                async with aiohttp.ClientSession() as session, session.post(f"http://127.0.0.1:{port}/") as answer:
                    return answer.ok or None
            except aiohttp.ClientError:
                return None

        await until(answers)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def _wrk(url: str, script: Path, connections: int) -> float:
    rates = []
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            "wrk", "-t1", f"-c{connections}", "-d5s", "-s", str(script), url, stdout=-1
        )
        out, _ = await process.communicate()
        found = re.search(rb"Requests/sec:\s+([\d.]+)", out)
        assert b"Non-2xx" not in out, out.decode()
        rates.append(float(found[1]) if found else 0.0)
    return median(rates)
