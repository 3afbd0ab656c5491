"""A gateway that is killed with SIGKILL before each statement of the outbox, and of a declaration that is applied."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.cli.demo.process import GatewayProcess, gateway_process, until
from gateway.model.alerts import EventKind, Occurrence
from gateway.model.commits import REVISION, SOURCE
from gateway.model.declared.objects import spec_at
from gateway.store import outbox
from gateway.store.database import Pool, connect, transaction
from tests.integration.api.test_declaration_generated import SMALL, TABLES
from tests.support.code_hosts import TOKEN, CodeHost, a_code_host
from tests.support.databases import database_settings
from tests.support.declaring import made_up
from tests.support.killed_at import start_killed

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
_KILLED = -9
_SHA = "ab" * 20


@pytest.fixture
async def gateway(web_postgres: str, tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    """A gateway that has a key and is stopped."""
    settings = await database_settings(web_postgres, "killed")
    async with gateway_process(tmp_path / "gateway", f"unix://{tmp_path}/no-engine.sock", settings) as one:
        await one.stop()
        yield one


@pytest.fixture
async def pool(gateway: GatewayProcess) -> AsyncIterator[Pool]:
    async with connect(gateway.environment["GATEWAY_DATABASE_URL"], size=2) as pool:
        yield pool


@asynccontextmanager
async def killed_before(
    gateway: GatewayProcess, number: int, pattern: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Serve until this statement of those with the pattern, or until the block is left."""
    count = Path(gateway.log).with_name("count")
    process = await start_killed(count, number, "serve", environment=gateway.environment, pattern=pattern)
    assert process.stdout is not None
    reading = asyncio.create_task(process.stdout.read())
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.gather(process.wait(), reading)


async def is_up(gateway: GatewayProcess, process: asyncio.subprocess.Process) -> bool | None:
    if process.returncode is not None:
        return False
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{gateway.url}/healthz") as answer:
            return answer.ok or None
    except aiohttp.ClientError:
        return None


async def test_killed_before_each_statement_of_the_outbox_a_host_sees_each_state_once_and_in_order(
    gateway: GatewayProcess, pool: Pool
) -> None:
    async with a_code_host() as host:
        await gateway.start()
        await gateway.mutate("application.create", {"name": "web", "applicationId": "web"})
        await gateway.mutate(
            "alert.create",
            {"name": "source", "receiver": "github", "address": host.url, "allowPrivate": True, "token": TOKEN},
        )
        await gateway.stop()
        for number in range(1, 31):
            deployment = f"{number:08d}-0000"
            await write(pool, host, deployment)
            async with killed_before(gateway, number, "outbox_deliveries|UPDATE alerts") as process:
                await asyncio.wait_for(process.wait(), 60)
                assert process.returncode == _KILLED
            # As if the lease had run out.
            await pool.execute("UPDATE outbox_deliveries SET lease_until = now() WHERE lease_until > now()")
        await gateway.start()
        await until(lambda: nothing_waits(pool), within=120)
        await gateway.stop()
    numbers = {str(number): one["payload"]["deploymentId"] for number, one in host.deployments.items()}
    seen = [(numbers[what], body["state"]) for kind, what, body in host.written if kind == "deployment_status"]
    wanted = [(f"{number:08d}-0000", state) for number in range(1, 31) for state in ("in_progress", "failure")]
    assert seen == wanted
    assert len(host.deployments) == 30
    commits = [body["description"] for kind, _, body in host.written if kind == "commit_status"]
    assert (len(commits), len(set(commits)), host.refused) == (60, 60, [])


async def write(pool: Pool, host: CodeHost, deployment: str) -> None:
    content = {"deployment": {"deploymentId": deployment, "kind": "deploy", "image": "acme/web:1", "digest": "d"}}
    for kind in (EventKind.STARTED, EventKind.FAILED):
        key = f"deployment:{deployment}:{kind}"
        async with transaction(pool) as connection:
            await outbox.write_event(connection, Occurrence("web", deployment, key, kind, content))
            await connection.execute(
                "UPDATE outbox_events SET origin = $2 WHERE key = $1",
                key,
                {SOURCE: f"{host.url}/acme/web", REVISION: _SHA},
            )


async def nothing_waits(pool: Pool) -> bool | None:
    return await pool.fetchval("SELECT count(*) = 0 FROM outbox_deliveries WHERE state = 'waiting'") or None


async def plan(gateway: GatewayProcess) -> list[dict[str, Any]]:
    given = {"document": SMALL, "secrets": made_up(SMALL)}
    found: list[dict[str, Any]] = (await gateway.mutate("declaration.plan", given))["objects"]
    return [one for one in found if one["action"] != "unchanged"]


async def apply(gateway: GatewayProcess, planned: list[dict[str, Any]]) -> None:
    for one in planned:
        prefix = ".".join(one["path"]) + "."
        secrets = {
            name.removeprefix(prefix): value for name, value in made_up(SMALL).items() if name.startswith(prefix)
        }
        given = {"declaration": "made-up", "path": one["path"], "version": one["version"], "secrets": secrets}
        await gateway.mutate("declaration.apply", {**given, "spec": spec_at(SMALL, one["path"])})


async def test_killed_before_each_change_of_an_apply_the_next_one_ends_there(
    gateway: GatewayProcess, pool: Pool
) -> None:
    expected: dict[str, int] | None = None
    # A plan tries what it plans in transactions that are undone, so these are counted from the first apply on.
    pattern = "INSERT INTO (applications|projects|environments|gates|subscriptions|groups|endpoints|declared_objects)"
    killed = 0
    for number in range(1, 200, 3):
        async with killed_before(gateway, number, pattern) as process:
            whole = bool(await until(partial(is_up, gateway, process), within=60))
            try:
                await apply(gateway, await plan(gateway))
            except (aiohttp.ClientError, OSError):
                whole = False
                await asyncio.wait_for(process.wait(), 30)
                assert process.returncode == _KILLED
                killed += 1
        await gateway.start()
        await apply(gateway, await plan(gateway))
        assert await plan(gateway) == []
        await gateway.stop()
        counts = {table: await pool.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES}
        expected = expected or counts
        assert counts == expected, number
        if whole:
            break
        for table in ("declared_objects", "groups", "applications", "projects WHERE name = 'shop'", "endpoints"):
            await pool.execute(f"DELETE FROM {table}")
    assert killed >= 8
