"""What a session of tests starts ends with it, also where the session is killed or interrupted."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from gateway.cli.demo.process import until
from tests.support import leftovers

_INNER = """
import asyncio
import os
from contextlib import AsyncExitStack
from pathlib import Path

from gateway.cli.demo.engine import private_engine
from gateway.cli.demo.process import free_port
from gateway.cli.demo.registry import private_registry
from gateway.store.postgres_cluster import Cluster
from gateway.store.embedded_postgres import embedded_postgres


async def test_waits(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(embedded_postgres(tmp_path / "data"))
        started, directory = [os.getpid(), Cluster(tmp_path / "data").postmaster()], tmp_path / "none"
        if {engine}:
            registry = await stack.enter_async_context(private_registry(tmp_path / "registry", free_port()))
            engine = await stack.enter_async_context(private_engine(arguments=("--iptables=false",)))
            started += [engine._process.pid, registry._process.pid]
            directory = engine.socket.parent
        Path("{place}/draft").write_text(" ".join(map(str, [*started, directory])))
        Path("{place}/draft").rename("{place}/started")
        await asyncio.sleep(600)
"""


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_every_session_is_watched(request: pytest.FixtureRequest) -> None:
    assert request.config.pluginmanager.has_plugin("tests.support.leftovers")
    assert leftovers.MARK in os.environ["PATH"]


def _is_there(directory: str) -> bool:
    return Path(directory).exists()


@pytest.mark.parametrize(
    ("workers", "whom", "number", "engine"),
    [
        (0, "controller", signal.SIGKILL, True),
        pytest.param(1, "controller", signal.SIGTERM, False, marks=pytest.mark.long),
        pytest.param(1, "worker", signal.SIGKILL, False, marks=pytest.mark.long),
    ],
)
async def test_a_session_that_is_killed_leaves_nothing_running(
    tmp_path: Path, workers: int, whom: str, number: signal.Signals, engine: bool
) -> None:
    inner = tmp_path / "test_inner.py"
    inner.write_text(_INNER.format(place=tmp_path, engine=engine))
    session = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-q", "-o", "addopts=",
        "-p", "tests.support.leftovers", "-p", "no:cacheprovider", "-p", "no:schemathesis", "-n", str(workers),
        "--max-worker-restart=0", f"--basetemp={tmp_path / 'inner'}", str(inner), stdout=-3, stderr=-3,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    try:

        async def begun() -> list[str] | None:
            assert session.returncode is None
            return (tmp_path / "started").read_text().split() if (tmp_path / "started").exists() else None

        *numbers, directory = await until(begun)
        pids = [int(one) for one in numbers]
        assert all(map(_lives, pids))
        os.kill(session.pid if whom == "controller" else pids[0], number)

        async def ended() -> bool | None:
            return not (any(map(_lives, pids)) or _is_there(directory)) or None

        await until(ended)
    finally:
        if session.returncode is None:
            session.terminate()
        await session.wait()
