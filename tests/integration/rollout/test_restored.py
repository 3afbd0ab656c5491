"""A gateway whose database was restored from a backup leaves what came after it, until it is deployed to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.process import until
from gateway.docker.engine.client import Engine
from gateway.model.audit import Actor
from gateway.model.deployments import Kind, Status
from gateway.store import queue, restore
from gateway.store.backup import write_backup
from gateway.store.database import Pool
from gateway.store.encryption import FixedKeys
from tests.support.databases import another_database
from tests.support.real_parts import Pushes
from tests.support.rollout_env import DeployedApp, a_gateway, interrupt_swap

SECRET = "correct horse battery"
KEY = b"k" * 32

pytestmark = pytest.mark.long


@asynccontextmanager
async def restored(app: DeployedApp, postgres: str, path: Path) -> AsyncIterator[DeployedApp]:
    """Yield the application in a database of its own, which has what the backup has."""
    async with another_database(app.pool, postgres, "restored_rollouts") as pool:
        await restore.restore_backup(pool, FixedKeys(KEY), path, SECRET, Actor("cli", "root", "restore"))
        # Other tests of this database have left applications behind.
        await pool.execute("DELETE FROM deployments WHERE application_id <> $1", app.application_id)
        yield DeployedApp(pool, app.engine, app.application_id, app.endpoint)


async def backed_up(pool: Pool, path: Path) -> Path:
    await write_backup(pool, [KEY], path, SECRET, inbox=True)
    return path


async def test_a_version_newer_than_the_backup_is_told_serves_on_and_is_deployed_over(
    app: DeployedApp, engine: Engine, pushes: Pushes, postgres: str, dockerd: PrivateEngine, tmp_path: Path
) -> None:
    await app.set(configuration={"heal": True})
    await pushes("v1")
    first = await app.ask(Kind.DEPLOY)
    path = await backed_up(app.pool, tmp_path / "backup")
    await pushes("v2")
    newer = await app.ask(Kind.DEPLOY)
    serving = await app.serving()
    async with restored(app, postgres, path) as again, a_gateway(again.pool, engine, dockerd.host):

        async def told() -> str | None:
            detail: str | None = await again.pool.fetchval(
                "SELECT detail FROM observations WHERE application_id = $1 AND state = 'drifted' AND told IS NOT NULL",
                app.application_id,
            )
            return detail

        detail = await until(told)
        assert f"the deployment {newer.deployment_id} made it, which is newer than the backup" in detail
        assert (await app.serving()).container_id == serving.container_id

        digest = await pushes("v3")
        last = await again.ask(Kind.DEPLOY)
        assert (last.status, last.digest) == (Status.SUCCEEDED, digest)
        assert (await app.serving()).labels["gateway.digest"] == digest
        # It has not been healed meanwhile.
        asked = await again.pool.fetch(
            "SELECT deployment_id FROM deployments WHERE application_id = $1 ORDER BY created_at", app.application_id
        )
        assert [row["deployment_id"] for row in asked] == [first.deployment_id, last.deployment_id]


async def test_what_was_asked_for_before_the_backup_replaces_nothing_newer(
    app: DeployedApp, engine: Engine, pushes: Pushes, postgres: str, dockerd: PrivateEngine, tmp_path: Path
) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    # Asked for in the backup, and not begun: another image than what came later.
    await pushes("v2", "other")
    await app.pool.execute(
        "INSERT INTO deployments (application_id, kind, forced, title, reference, next_attempt_at, wait_length)"
        " VALUES ($1, 'deploy', true, 'asked', $2, now() + interval '1 hour', interval '1 hour')",
        app.application_id,
        pushes.name("other"),
    )
    path = await backed_up(app.pool, tmp_path / "backup")
    await app.pool.execute("DELETE FROM deployments WHERE status = 'queued'")
    await pushes("v3")
    newer = await app.ask(Kind.DEPLOY)
    serving = await app.serving()
    async with restored(app, postgres, path) as again, a_gateway(again.pool, engine, dockerd.host):
        await again.pool.execute("UPDATE deployments SET next_attempt_at = now() WHERE status = 'queued'")
        async with again.pool.acquire() as connection:
            await queue.notify(connection)
        ended = await again.ended((await again.newest()).deployment_id)
        assert ended.status is Status.CANCELLED
        assert ended.reason is not None
        assert f"the deployment {newer.deployment_id} made it" in ended.reason.message
        assert (await app.serving()).container_id == serving.container_id
        # Asked for again, it is done.
        await again.set(docker_image=pushes.name("other"))
        assert (await again.ask(Kind.DEPLOY)).status is Status.SUCCEEDED


async def test_a_rollout_that_was_under_way_in_the_backup_replaces_nothing_newer(
    app: DeployedApp,
    engine: Engine,
    pushes: Pushes,
    postgres: str,
    dockerd: PrivateEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    interrupt_swap(monkeypatch, app)
    await pushes("v2")
    path = tmp_path / "backup"
    request = app.ask

    async def with_backup() -> None:
        async def is_open() -> bool | None:
            found = await app.pool.fetchrow("SELECT FROM swaps WHERE application_id = $1", app.application_id)
            return found is not None or None

        await until(is_open)
        await backed_up(app.pool, path)

    finished, _ = await asyncio.gather(request(Kind.DEPLOY), with_backup())
    assert finished.status is Status.SUCCEEDED
    digest = await pushes("v3")
    await app.ask(Kind.DEPLOY)
    serving = await app.serving()
    async with restored(app, postgres, path) as again:
        under_way = await again.newest()
        assert under_way.status in {Status.RUNNING, Status.QUEUED}
        async with a_gateway(again.pool, engine, dockerd.host):
            ended = await again.ended(under_way.deployment_id)
            assert (ended.status, ended.digest) == (Status.UNCHANGED, digest)
            assert (await app.serving()).container_id == serving.container_id
            assert await again.pool.fetchval("SELECT count(*) FROM swaps") == 0
