"""A real Prometheus with the rules of monitoring/, which reads a real gateway."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.cli.demo.process import free_port, until
from tests.support.command_line import gateway_process
from tests.support.monitoring import MONITORING, expressions

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="as root: apt-get install prometheus")


async def run(*words: str, given: str | None = None) -> str:
    """Run a program in monitoring/ and return what it printed; it must succeed, and warn of nothing."""
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=MONITORING,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await process.communicate(None if given is None else given.encode())
    assert process.returncode == 0, printed.decode()
    return printed.decode()


@asynccontextmanager
async def prometheus(directory: Path, gateway: str, key: str) -> AsyncIterator[str]:
    """Run Prometheus with the configuration of monitoring/; yields its address."""
    for name in ("alerts.yml", "prometheus.yml"):
        text = (MONITORING / name).read_text(encoding="utf-8").replace("127.0.0.1:8080", gateway)
        (directory / name).write_text(text.replace("scrape_interval: 15s", "scrape_interval: 1s"), encoding="utf-8")
    (directory / "gateway.key").write_text(key, encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    with (directory / "prometheus.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            "prometheus",
            f"--web.listen-address={address}",
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=tsdb",
            cwd=directory,
            stdout=log,
            stderr=log,
        )
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.long
async def test_prometheus_loads_the_rules_reads_the_gateway_and_answers_every_expression(tmp_path: Path) -> None:
    await run("promtool", "check", "rules", "alerts.yml")
    await run("promtool", "test", "rules", "alerts_test.yml")
    async with (
        gateway_process(tmp_path, "unix:///nowhere/docker.sock") as gateway,
        aiohttp.ClientSession() as session,
    ):
        await gateway.mutate("application.create", {"name": "web", "applicationId": "a1", "dockerImage": "acme/web"})
        key = await gateway.cli("keys", "create", "prometheus", "--scope", "read")
        async with session.get(f"{gateway.url}/metrics", headers={"Authorization": f"Bearer {key}"}) as answer:
            assert await run("promtool", "check", "metrics", given=await answer.text()) == ""
        async with prometheus(tmp_path, gateway.url.removeprefix("http://"), key) as address:

            async def ask(path: str, **query: str) -> Any:
                async with session.get(f"{address}/api/v1/{path}", params=query) as answer:
                    body = json.loads(await answer.text())
                assert body["status"] == "success", (query, body)
                return body["data"]

            async def read_twice() -> bool | None:
                try:
                    found = (await ask("query", query='count_over_time(up{job="gateway"}[1m])'))["result"]
                except (aiohttp.ClientError, json.JSONDecodeError):  # it starts
                    return None
                return True if found and int(found[0]["value"][1]) > 1 else None

            await until(read_twice)
            for _, expression in expressions():
                await ask("query", query=expression)
            own = 'gateway_application_rollouts_total{application="web",outcome="failed"}'
            for query, expected in ((own, "0"), ("gateway_engine_up", "0"), ("gateway_database_up", "1")):
                (found,) = (await ask("query", query=query))["result"]
                assert (query, found["value"][1]) == (query, expected)
            assert len((await ask("rules"))["groups"][0]["rules"]) > 0
