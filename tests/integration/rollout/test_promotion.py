"""A digest on its way from one application to another, with a real registry and a real engine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.process import until
from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine
from gateway.docker.engine.labels import DIGEST
from gateway.model.deployments import Deployment, Kind, Status
from gateway.model.errors import Code
from gateway.model.promotions import PromotionState
from gateway.model.reference import Digest
from gateway.queue import enqueue
from gateway.registry import client
from gateway.store import applications, promotions
from gateway.store.database import Pool
from gateway.worker import state_monitor
from gateway.worker.promoter import Promoter
from gateway.worker.supervisor import Supervisor
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, DeployedApp, RecordedAlerts, an_application


@asynccontextmanager
async def applications_of(pool: Pool, engine: Engine, *pushed: Pushes) -> AsyncIterator[list[DeployedApp]]:
    made = [await an_application(pool, engine, pushes) for pushes in pushed]
    try:
        yield made
    finally:
        for one in made:
            await one.end_monitoring()
            await asyncio.gather(*(containers.remove(engine, each.container_id) for each in await one.containers()))


async def deployed(app: DeployedApp, image: str) -> Deployment:
    async with app.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, app.application_id)
    queued = await enqueue.request_deployment(app.pool, application, Kind.DEPLOY, title="asked", image=image)
    return await app.ended(queued)


async def test_production_gets_exactly_what_staging_has_run_and_nothing_else(
    pool: Pool,
    engine: Engine,
    dockerd: PrivateEngine,
    supervisor: Supervisor,
    pushes: Pushes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _ = dockerd, supervisor
    monkeypatch.setattr(state_monitor, "_SOAK_INTERVAL", 0.3)
    to_production = Pushes(pushes.address, pushes.path + "-production")
    async with (
        applications_of(pool, engine, pushes, to_production) as (staging, production),
        client.connect() as registry,
    ):
        await pool.execute(
            "INSERT INTO gates (application_id, kind, name, rule) VALUES ($1, 'promotion', 'promotion', $2)",
            production.application_id,
            {"follows": staging.application_id, "soak": "2s"},
        )
        digest = await pushes("one")
        assert (await deployed(staging, pushes.name())).status is Status.SUCCEEDED
        promoter = Promoter(pool, VAULT, registry, RecordedAlerts())

        async def state() -> tuple[PromotionState, str] | None:
            await pool.execute("UPDATE promotions SET next_look_at = now()")
            await promoter.promote_once()
            async with pool.acquire() as connection:
                one = await promotions.select_promotion(connection, production.application_id, digest)
            return (one.state, one.reason) if one else None

        async def lacks() -> str | None:
            found = await state()
            return found[1] if found and found[0] is PromotionState.WAITING else None

        async def arrived() -> Deployment | None:
            await state()
            newest = await production.newest()
            return newest if newest.status is Status.SUCCEEDED else None

        assert f"crane copy {pushes.address}/{pushes.path}@{digest}" in await until(lacks)
        # What is pushed to production by hand is another image, and never proven.
        await to_production("two")
        refused = await deployed(production, to_production.name())
        assert refused.reason is not None
        assert (refused.status, refused.reason.code) == (Status.FAILED, Code.NOT_PROVEN)
        assert await production.containers() == []
        assert await to_production("one") == digest  # a copy
        done = await until(arrived)
        assert (done.digest, str(done.reference)) == (digest, f"{pushes.address}/{to_production.path}@{digest}")
        assert Digest((await production.serving()).labels[DIGEST]) == digest
        assert (await state() or (None,))[0] is PromotionState.PROMOTED


@pytest.mark.long
async def test_a_restart_of_its_container_starts_the_clock_anew(
    pool: Pool,
    engine: Engine,
    supervisor: Supervisor,
    pushes: Pushes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _ = supervisor
    monkeypatch.setattr(state_monitor, "_SOAK_INTERVAL", 0.3)
    async with applications_of(pool, engine, pushes) as (staging,):
        await pool.execute(
            "INSERT INTO gates (application_id, kind, name, rule) VALUES ($1, 'promotion', 'promotion', $2)",
            (await an_application(pool, engine, Pushes(pushes.address, pushes.path + "-follower"))).application_id,
            {"follows": staging.application_id, "soak": "1h"},
        )
        await pushes("one")
        assert (await deployed(staging, pushes.name())).status is Status.SUCCEEDED

        async def clock() -> str | None:
            found: str | None = await pool.fetchval(
                "SELECT run FROM soaks WHERE application_id = $1 AND longest > '0 seconds'", staging.application_id
            )
            return found

        async def anew() -> str | None:
            run = await clock()
            return run if run != before else None

        before = await until(clock)
        await engine.call("POST", f"containers/{(await staging.serving()).container_id}/restart", params={"t": 1})
        assert (await until(anew)).partition(" ")[0] == before.partition(" ")[0], "it is the same container"
