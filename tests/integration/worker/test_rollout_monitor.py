"""Tests the monitor window after a rollout, and the pruning of kept versions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from prometheus_client import REGISTRY

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.process import until
from gateway.docker import runtime_factory
from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine, ReachedEngine
from gateway.docker.runtime import Runtime, Timeouts
from gateway.model.deployments import Deployment, Kind, MonitorWindow, Status
from gateway.store import deployments, queue, watches
from gateway.store.database import Pool, connect
from gateway.store.engines import Place
from gateway.store.migrate import migrate
from gateway.worker.rollout_monitor import RolloutMonitor
from gateway.worker.version_retention import prune_kept_versions
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, DeployedApp, RecordedAlerts, a_gateway, an_application

WATCHED: Mapping[str, object] = {"watch": 300}


async def watched(app: DeployedApp) -> str | None:
    async with app.pool.acquire() as connection:
        found = await connection.fetchval(
            "SELECT deployment_id FROM watches WHERE application_id = $1", app.application_id
        )
    return None if found is None else str(found)


def counted() -> float:
    return REGISTRY.get_sample_value("gateway_watch_troubles_total", {"led_to": "alert"}) or 0.0


@pytest.mark.parametrize(
    ("harm", "more", "told"),
    [
        (("touch", "/sick"), {}, "is unhealthy: it is sick"),
        pytest.param(
            ("rm", "/www/index.html"),
            {"probe": {"port": 8080, "interval": 0.1}},
            "answered 404",
            marks=pytest.mark.long,
        ),
    ],
    ids=["it becomes unhealthy", "its probe fails"],
)
async def test_trouble_within_the_window_rolls_back(
    app: DeployedApp, pushes: Pushes, harm: tuple[str, ...], more: dict[str, object], told: str
) -> None:
    await app.set(configuration={**WATCHED, **more})
    first = await pushes("v1")
    await app.ask(Kind.DEPLOY)
    health = "test ! -e /sick || { echo it is sick; exit 1; }" if "/sick" in harm else None
    await pushes("v2", health=health)
    second = await app.ask(Kind.DEPLOY)
    assert second.status is Status.SUCCEEDED
    await app.inside((await app.serving()).container_id, *harm)
    back = await app.went_back()
    assert (back.digest, back.forced) == (first, False)
    assert told in back.title
    assert second.deployment_id in back.description
    assert (await app.serving()).healthy
    async with app.pool.acquire() as connection:
        assert (await deployments.select_deployment(connection, second.deployment_id)).status is Status.SUCCEEDED
    assert await watched(app) == back.deployment_id


@pytest.mark.long
async def test_a_rollback_is_not_rolled_back_but_alerts(app: DeployedApp, pushes: Pushes) -> None:
    await app.set(configuration=WATCHED)
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await pushes("v2")
    await app.ask(Kind.DEPLOY)
    back = await app.roll_back()
    assert back.status is Status.SUCCEEDED
    await _is_told_and_left(app, back)


async def test_a_first_version_only_alerts(app: DeployedApp, pushes: Pushes) -> None:
    await app.set(configuration=WATCHED)
    await pushes("v1")
    await _is_told_and_left(app, await app.ask(Kind.DEPLOY))


async def _is_told_and_left(app: DeployedApp, last: Deployment) -> None:
    before = counted()
    await app.inside((await app.serving()).container_id, "kill", "1")

    async def ended() -> bool | None:
        return await watched(app) is None or None

    await until(ended)
    assert (await app.newest()).deployment_id == last.deployment_id
    assert counted() == before + 1


async def test_a_newer_push_ends_the_window_unless_it_changes_nothing(app: DeployedApp, pushes: Pushes) -> None:
    await app.set(configuration=WATCHED)
    await pushes("v1")
    first = await app.ask(Kind.DEPLOY)
    async with app.pool.acquire() as connection:
        assert await watches.select_window_end(connection, first.deployment_id)
    unchanged = await app.ask(Kind.DEPLOY)
    assert unchanged.status is Status.UNCHANGED
    assert await watched(app) == first.deployment_id
    await pushes("v2")
    receipt = await app.pushed(pushes.name(), b"v2")
    second = await app.ended(receipt.deployments[0].deployment_id)
    assert await watched(app) == second.deployment_id


async def test_a_newer_deployment_that_fails_before_its_swap_leaves_the_window_open(
    app: DeployedApp, pushes: Pushes
) -> None:
    await app.set(configuration=WATCHED)
    await pushes("v1")
    first = await app.ask(Kind.DEPLOY)
    await app.set(docker_image=pushes.name("nowhere"))
    assert (await app.ask(Kind.REDEPLOY)).status is Status.FAILED
    assert await watched(app) == first.deployment_id


async def test_nothing_is_checked_while_a_newer_deployment_is_queued(app: DeployedApp, pushes: Pushes) -> None:
    await app.set(configuration=WATCHED)
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    place = Place((await app.engine.identify()).engine_id, None)
    async with app.pool.acquire() as connection, connection.transaction():
        (watch,) = await _of(app, (await watches.select_watches(connection))[place])
        await queue.insert_deployment(
            connection, application_id=app.application_id, kind=Kind.STOP, forced=True, title="later"
        )
        assert await _of(app, (await watches.select_watches(connection))[place]) == []
        assert not await watches.end_watch(connection, watch)
        await connection.execute("DELETE FROM deployments WHERE title = 'later'")


async def test_a_service_is_not_missing_while_the_engine_is_no_manager(app: DeployedApp, pushes: Pushes) -> None:
    await app.set(configuration=WATCHED)
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await app.pool.execute(
        "UPDATE watches SET object_id = $2 WHERE application_id = $1", app.application_id, "k3v7cn2x0f9j5q8w1r4t6y0ub"
    )
    timeouts = Timeouts(stable_window=0, health_deadline=1, pull_stall=1, call_margin=1, kept_for=60)
    told = RecordedAlerts()
    lookout = RolloutMonitor(app.pool, VAULT, timeouts, told)
    for _ in range(3):
        assert await lookout.find_open()
        await lookout.check_windows(ReachedEngine(app.engine, await app.engine.identify(), [None]))
    assert (await watched(app) is not None, told) == (True, [])
    await app.pool.execute("DELETE FROM watches WHERE application_id = $1", app.application_id)


async def _of(app: DeployedApp, found: list[MonitorWindow]) -> list[MonitorWindow]:
    return [watch for watch in found if watch.application_id == app.application_id]


@pytest.mark.long
async def test_monitoring_continues_after_a_restart(
    postgres: str, pool: Pool, dockerd: PrivateEngine, engine: Engine, pushes: Pushes
) -> None:
    await pool.execute("CREATE DATABASE restarted")
    async with connect(urlsplit(postgres)._replace(path="/restarted").geturl()) as own:
        await migrate(own)
        app = await an_application(own, engine, pushes)
        async with a_gateway(own, engine, dockerd.host, GATEWAY_WATCH_WINDOW="300"):
            first = await pushes("v1")
            await app.ask(Kind.DEPLOY)
            await pushes("v2")
            await app.ask(Kind.DEPLOY)
        await app.inside((await app.serving()).container_id, "kill", "1")
        async with a_gateway(own, engine, dockerd.host):
            back = await app.went_back()
            await app.end_monitoring()
    assert back.digest == first
    assert "keeps exiting" in back.title
    for container in await app.containers():
        await containers.remove(engine, container.container_id)


async def test_expired_kept_versions_are_pruned_but_not_what_serves(app: DeployedApp, pushes: Pushes) -> None:
    for version in ("v1", "v2"):
        await pushes(version)
        await app.ask(Kind.DEPLOY)
    before = await app.containers()
    assert len(before) == 2
    day = Timeouts(stable_window=0, health_deadline=1, pull_stall=1, call_margin=1, kept_for=86_400)
    reached = ReachedEngine(app.engine, await app.engine.identify(), [None])
    await prune_kept_versions(app.pool, VAULT, day, reached)
    assert await app.containers() == before
    await prune_kept_versions(app.pool, VAULT, replace(day, kept_for=-2), reached)
    (left,) = await app.containers()
    assert left.container_id == (await app.serving()).container_id


async def test_nothing_is_pruned_once_a_deployment_is_requested(
    app: DeployedApp, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("v1", "v2"):
        await pushes(version)
        await app.ask(Kind.DEPLOY)
    before, choose = await app.containers(), runtime_factory.open_runtime

    async def make(status: Status) -> None:
        async with app.pool.acquire() as connection:
            await connection.execute(
                "UPDATE deployments SET status = $2::status, next_attempt_at = now() + interval '1 hour',"
                " wait_length = '1 hour',"
                " finished_at = CASE WHEN $2::status <> 'queued' THEN now() END"
                " WHERE deployment_id = $1",
                (await app.newest()).deployment_id,
                status,
            )

    async def ask_meanwhile(*given: Any, **how: Any) -> Runtime:
        await make(Status.QUEUED)
        return await choose(*given, **how)

    monkeypatch.setattr(runtime_factory, "open_runtime", ask_meanwhile)
    none = Timeouts(stable_window=0, health_deadline=1, pull_stall=1, call_margin=1, kept_for=-2)
    await prune_kept_versions(app.pool, VAULT, none, ReachedEngine(app.engine, await app.engine.identify(), [None]))
    await make(Status.SUCCEEDED)
    assert await app.containers() == before
