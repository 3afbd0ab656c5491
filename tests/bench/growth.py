"""What grows with the database, and what should not."""

import asyncio
import re
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg

from gateway.cli.demo.process import GatewayProcess, gateway_process
from gateway.store.embedded_postgres import embedded_postgres
from tests.bench.accepting import SETTINGS, prepare
from tests.bench.load import request
from tests.bench.report import Figure, figure
from tests.bench.single import client, p50s

WORDS = ("web", "api", "db", "mail", "auth", "cache", "jobs", "admin", "docs", "blog")


async def measure(directory: Path) -> list[Figure]:
    host = f"unix://{directory}/none"
    async with (
        gateway_process(directory / "few", host, SETTINGS) as few,
        gateway_process(directory / "many", host, SETTINGS) as many,
    ):
        paths = [await prepare(one, [f"acme/{word}" for word in WORDS]) for one in (few, many)]
        await _fill(many)
        latencies = await _latencies([few, many], paths)
        await few.stop()
        memory = await _memory(many)
    return [
        figure(
            "(c) accept latency, 10,000 endpoints, 1,000,000 tags over 10", latencies[1], latencies[0], "ms", gate=1.5
        ),
        Figure("(f) resident memory, idle, 1,000 applications (over 100 MB)", memory, 100, "MB"),
    ]


async def _latencies(gateways: list[GatewayProcess], paths: list[str]) -> list[list[float]]:
    """Return the milliseconds of single, distinct, matching pushes, to each in turn, after some to warm up."""
    taken: list[list[float]] = [[] for _ in gateways]
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client(one.port)) for one in gateways]
        for _ in range(1000):
            for one, (pushing, path) in enumerate(zip(clients, paths, strict=True)):
                taken[one].append(await pushing.milliseconds(request(path, "acme/web")))
    return [p50s(one[200:]) for one in taken]


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
