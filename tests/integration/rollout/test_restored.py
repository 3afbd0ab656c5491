"""A gateway whose database was restored finishes what was under way, and leaves what is newer until a deployment."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.images import Behaviour
from gateway.cli.demo.process import free_port, until
from gateway.docker.container.runtime import ContainerRuntime
from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine
from gateway.model.audit import Actor
from gateway.model.deployments import Kind, LeaseLost, Status, Swap
from gateway.queue import enqueue
from gateway.store import applications, queue, restore, sealed_file
from gateway.store.backup import write_backup
from gateway.store.database import Pool
from gateway.store.encryption import FixedKeys
from tests.support.databases import another_database
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, DeployedApp, a_gateway, interrupt_swap

SECRET = "correct horse battery"
KEY = b"k" * 32


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make keys without their cost, which is what they are for."""
    monkeypatch.setattr(sealed_file, "_derived", lambda word, salt: AESGCM((word.encode() + salt + b"0" * 32)[:32]))


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


@pytest.mark.long
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


@pytest.mark.long
@pytest.mark.parametrize("runs", [True, False])
async def test_what_was_asked_for_before_the_backup_replaces_nothing_newer_that_runs(
    app: DeployedApp,
    engine: Engine,
    pushes: Pushes,
    postgres: str,
    dockerd: PrivateEngine,
    tmp_path: Path,
    *,
    runs: bool,
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
    if not runs:
        await containers.stop(engine, serving.container_id, grace=1)
    async with restored(app, postgres, path) as again, a_gateway(again.pool, engine, dockerd.host):
        await again.pool.execute("UPDATE deployments SET next_attempt_at = now() WHERE status = 'queued'")
        async with again.pool.acquire() as connection:
            await queue.notify(connection)
        ended = await again.ended((await again.newest()).deployment_id)
        if not runs:
            assert ended.status is Status.SUCCEEDED
            return
        assert ended.status is Status.CANCELLED
        assert ended.reason is not None
        assert f"the deployment {newer.deployment_id} made it" in ended.reason.message
        assert (await app.serving()).container_id == serving.container_id
        # Asked for again, it is done.
        await again.set(docker_image=pushes.name("other"))
        assert (await again.ask(Kind.DEPLOY)).status is Status.SUCCEEDED


@pytest.mark.long
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
            assert (ended.status, ended.digest) == (Status.SUCCEEDED, digest)
            assert (await app.serving()).container_id == serving.container_id
            assert await again.pool.fetchval("SELECT count(*) FROM swaps") == 0


@asynccontextmanager
async def killed_before_the_proof(app: DeployedApp, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Ask for a deployment, whose gateway does nothing more once its version serves; yield its id."""
    reached, is_over = asyncio.Event(), asyncio.Event()
    prove = ContainerRuntime.wait_until_ready

    async def wait(_self: ContainerRuntime, swap: Swap, **_how: Any) -> None:
        monkeypatch.setattr(ContainerRuntime, "wait_until_ready", prove)
        reached.set()
        await is_over.wait()
        raise LeaseLost(swap.deployment_id)

    monkeypatch.setattr(ContainerRuntime, "wait_until_ready", wait)
    async with app.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, app.application_id)
    asked = await enqueue.request_deployment(app.pool, application, Kind.DEPLOY, title="asked")
    await reached.wait()
    try:
        yield asked
    finally:
        await app.pool.execute("DELETE FROM swaps WHERE deployment_id = $1", asked)
        await app.pool.execute("DELETE FROM deployments WHERE deployment_id = $1", asked)
        is_over.set()


async def test_a_swap_that_was_under_way_in_the_backup_is_finished(
    app: DeployedApp,
    engine: Engine,
    pushes: Pushes,
    postgres: str,
    dockerd: PrivateEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await app.set(configuration={"ports": [{"targetPort": 8080, "publishedPort": free_port()}]})
    await pushes("v1")
    first = await app.ask(Kind.DEPLOY)
    digest = await pushes("v2")
    async with killed_before_the_proof(app, monkeypatch) as asked:
        path = await backed_up(app.pool, tmp_path / "backup")
        assert await app.pool.fetchval("SELECT count(*) FROM swaps WHERE deployment_id = $1", asked) == 1
        async with restored(app, postgres, path) as again, a_gateway(again.pool, engine, dockerd.host):
            ended = await again.ended(asked)
            assert (ended.status, ended.digest) == (Status.SUCCEEDED, digest)
            assert (await app.serving()).labels["gateway.digest"] == digest
            assert [one.running for one in await app.containers()] == [True, False]
            back = await again.roll_back()
            assert (back.status, back.rolls_back_to) == (Status.SUCCEEDED, first.deployment_id)


def back_up_at_the_begin(app: DeployedApp, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Let the next attempt begin with a backup, which so does not know of its swap."""
    begin = ContainerRuntime.remove_leftovers

    async def with_backup(self: ContainerRuntime) -> None:
        monkeypatch.setattr(ContainerRuntime, "remove_leftovers", begin)
        await backed_up(app.pool, path)
        await begin(self)

    monkeypatch.setattr(ContainerRuntime, "remove_leftovers", with_backup)


@pytest.mark.long
async def test_a_swap_that_was_begun_after_the_backup_and_goes_wrong_is_put_back(
    app: DeployedApp,
    engine: Engine,
    pushes: Pushes,
    postgres: str,
    dockerd: PrivateEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await app.set(configuration={"ports": [{"targetPort": 8080, "publishedPort": free_port()}]})
    good = await pushes("v1")
    await app.ask(Kind.DEPLOY)
    serving = await app.serving()
    await pushes("v2", behaviour=Behaviour.EXITS)
    path = tmp_path / "backup"
    back_up_at_the_begin(app, monkeypatch, path)
    async with (
        killed_before_the_proof(app, monkeypatch) as asked,
        restored(app, postgres, path) as again,
        a_gateway(again.pool, engine, dockerd.host),
    ):
        ended = await again.ended(asked)
        assert ended.status is Status.ROLLED_BACK
        now = await app.serving()
        assert (now.container_id, now.running, now.labels["gateway.digest"]) == (serving.container_id, True, good)
        assert len(await app.containers()) == 1


@pytest.mark.long
@pytest.mark.parametrize("kind", [Kind.DEPLOY, Kind.REDEPLOY, Kind.ROLLBACK])
async def test_what_was_finished_after_the_backup_is_recorded_where_it_is_restored(
    app: DeployedApp,
    engine: Engine,
    pushes: Pushes,
    postgres: str,
    dockerd: PrivateEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
) -> None:
    """Else what served before would be taken for what serves: healing would bring it back, a rollback go beyond it."""
    await app.set(configuration={"heal": True})
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await pushes("v2")
    second = await app.ask(Kind.DEPLOY)
    path = tmp_path / "backup"
    back_up_at_the_begin(app, monkeypatch, path)
    await pushes("v3")
    made = await (app.roll_back() if kind is Kind.ROLLBACK else app.ask(kind))
    before = await app.serving()
    async with restored(app, postgres, path) as again, a_gateway(again.pool, engine, dockerd.host):
        ended = await again.ended(made.deployment_id)
        assert (ended.status, ended.digest) == (Status.SUCCEEDED, before.labels["gateway.digest"])
        assert (await app.serving()).container_id == before.container_id

        async def observed() -> bool | None:
            found = await again.pool.fetchval(
                "SELECT state FROM observations WHERE application_id = $1", app.application_id
            )
            return found == "running" or None

        await until(observed)
        if kind is not Kind.ROLLBACK:
            back = await again.roll_back()
            assert (back.status, back.rolls_back_to) == (Status.SUCCEEDED, second.deployment_id)
