"""What it costs to start: the server, a command; and to be there: a thousand applications in which nothing happens."""

import asyncio
import os
import re
import resource
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from gateway.cli.demo.process import WITH_US, GatewayProcess, gateway_process
from gateway.store.embedded_postgres import embedded_postgres
from tests.bench.full_engine import DIGEST, ENGINE
from tests.bench.report import Figure, bound

_RUNS = 5
_COUNT = 1000  # applications
_IDLE = 65.0  # seconds: each is observed once a minute
_TICKS = os.sysconf("SC_CLK_TCK")


async def measure(directory: Path) -> list[Figure]:
    """Measure each against its target. The start includes that of the embedded PostgreSQL, the first time its making.

    A command runs beside a server; its own processor time counts, user and system.
    """
    fresh: list[float] = []
    again: list[float] = []
    for run in range(_RUNS):
        gateway = GatewayProcess(directory / f"start{run}", f"unix://{directory}/none", {})
        await asyncio.to_thread((directory / f"start{run}").mkdir)
        for taken in (fresh, again):
            began = time.perf_counter()
            await gateway.start()
            taken.append(time.perf_counter() - began)
            await gateway.stop()
    async with gateway_process(directory / "commands", f"unix://{directory}/none") as beside:
        helped, listed = [], []
        for _ in range(_RUNS):
            helped.append(await _processor(beside, "--help"))
            listed.append(await _processor(beside, "apps", "list"))
    async with _full_engine(directory / "full.sock") as host, gateway_process(directory / "idle", host) as full:
        busy, database, memory = await _idle(full)
    return [
        bound("(g) start of serve, with a new database (over 1.5 s)", fresh, 1.5, "s"),
        bound("(g) start of serve, with its database (over 1.5 s)", again, 1.5, "s"),
        bound("(g) processor of gateway --help (over 0.4 s)", helped, 0.4, "s"),
        bound("(g) processor of gateway apps list (over 0.4 s)", listed, 0.4, "s"),
        Figure("(g) processor, idle, 1,000 applications (over 0.5 %)", busy, 0.5, "%", gate=1.0),
        Figure("(g) PostgreSQL's, idle, 1,000 applications (over 0.5 %)", database, 0.5, "%", gate=1.0),
        Figure("(g) resident memory, 1,000 applications (over 80 MB)", memory, 80, "MB", gate=1.0),
    ]


async def _processor(beside: GatewayProcess, *words: str) -> float:
    """Return the seconds of processor of one command; the commands run one after the other."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", *words, env=beside.environment, stdout=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@asynccontextmanager
async def _full_engine(socket: Path) -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        *WITH_US, sys.executable, "-m", "tests.bench.full_engine", str(socket), str(_COUNT)
    )
    try:
        yield f"unix://{socket}"
    finally:
        process.kill()
        await process.wait()


async def _idle(gateway: GatewayProcess) -> tuple[float, float, float]:
    """Return percents of a core, the gateway's and its PostgreSQL's, and the gateway's resident megabytes."""
    async with embedded_postgres(Path(gateway.environment["GATEWAY_DATA_DIR"])) as url:
        connection = await asyncpg.connect(url)
        await connection.execute(
            f"""
            INSERT INTO engines (engine_id, name, version, platform) VALUES ('{ENGINE}', 'e', '1', 'linux/amd64')
                ON CONFLICT DO NOTHING;
            INSERT INTO projects (project_id, name) VALUES ('p', 'p');
            INSERT INTO environments (environment_id, project_id, name) VALUES ('p', 'p', 'p');
            INSERT INTO applications (application_id, name, app_name, environment_id, engine_id, docker_image)
            SELECT 'a' || n, 'a', 'a' || n, 'p', '{ENGINE}', 'acme/web' FROM generate_series(0, {_COUNT - 1}) AS n;
            INSERT INTO deployments (
                   deployment_id, application_id, kind, status, title, forced, reference, started_at, finished_at,
                   digest, replaced
                   )
            SELECT 'd' || n, 'a' || n, 'deploy', 'succeeded', 't', false, 'acme/web', now(), now(), '{DIGEST}', true
              FROM generate_series(0, {_COUNT - 1}) AS n;
            ANALYZE
            """
        )
        await connection.close()
    await gateway.stop()
    await gateway.start()
    await gateway.query("application.all")
    await asyncio.sleep(10)
    own, others, began = ticks(gateway.pid), _ticks_below(gateway.pid), time.perf_counter()
    await asyncio.sleep(_IDLE)
    share = 100 / _TICKS / (time.perf_counter() - began)
    return (
        (ticks(gateway.pid) - own) * share,
        (_ticks_below(gateway.pid) - others) * share,
        resident(gateway.pid),
    )


def resident(pid: int) -> float:
    """Return the resident megabytes of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    return int(found[1]) / 1024 if found else 0.0


def _fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third on: see proc_pid_stat(5)."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()


def ticks(pid: int) -> int:
    fields = _fields(pid)
    return int(fields[11]) + int(fields[12])


def _ticks_below(pid: int) -> int:
    """Return the ticks of all descendants, with those that have ended."""
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text(encoding="ascii").split()
    ]
    ended = _fields(pid)
    return int(ended[13]) + int(ended[14]) + sum(ticks(child) + _ticks_below(child) for child in children)
