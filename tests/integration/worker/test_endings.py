"""Tests that each deployment ends or waits, whatever kills its gateways or fails in the middle."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any
from unittest.mock import AsyncMock

import asyncpg
import pytest

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.process import until
from gateway.docker.container.runtime import ContainerRuntime
from gateway.docker.engine.client import Engine
from gateway.docker.engine.containers import Container
from gateway.model.deployments import Deployment, Kind, Status, Swap
from gateway.model.errors import Code, Reason
from gateway.rollout import recipes
from gateway.store import deployments, leases, swaps
from gateway.worker import claims, retry
from gateway.worker.supervisor import Supervisor
from tests.integration.rollout.test_manual_changes import left_open
from tests.support.api_client import Web
from tests.support.real_parts import Pushes
from tests.support.rollout_env import DeployedApp, RecordedAlerts, a_gateway


async def silent(app: DeployedApp, takeovers: int, *, replaces: Container | None = None) -> str:
    """Insert a deployment that so many gateways and one more fell silent on, as they replaced a container."""
    async with app.pool.acquire() as connection, connection.transaction():
        deployment_id = str(
            await connection.fetchval(
                "INSERT INTO deployments (application_id, kind, forced, title, reference, status, takeovers,"
                " lease_until, claimed_by, epoch)"
                " SELECT application_id, 'deploy', false, '', docker_image, 'running', $2, now(), 'killed', 1"
                "   FROM applications WHERE application_id = $1 RETURNING deployment_id",
                app.application_id,
                takeovers,
            )
        )
        if replaces is not None:
            application_id, old, policy = app.application_id, replaces.container_id, replaces.restart_policy
            swap = Swap(application_id, deployment_id, replaces.name, old, policy, "0" * 64)
            await swaps.insert_swap(connection, swap, 1, 0, None)
            await connection.execute(
                "UPDATE deployments SET lease_until = now() WHERE deployment_id = $1", deployment_id
            )
    return deployment_id


async def open_swap(app: DeployedApp) -> bool:
    async with app.pool.acquire() as connection:
        return await swaps.select_swap(connection, app.application_id) is not None


async def test_a_deployment_that_kills_its_gateways_fails_with_a_reason(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("1")
    found = await app.ended(await silent(app, takeovers=5))
    assert found.reason is not None
    assert (found.status, found.reason.code) == (Status.FAILED, Code.GATEWAY_KILLED)
    assert found.reason.message.startswith("6 gateways in a row ended in the middle of deploy")
    assert await app.containers() == []


async def test_a_deployment_that_killed_few_gateways_is_retried(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("1")
    assert (await app.ended(await silent(app, takeovers=4))).status is Status.SUCCEEDED


@pytest.mark.long
@pytest.mark.parametrize(("takeovers", "status", "between"), [(5, Status.ROLLED_BACK, False), (8, Status.FAILED, True)])
async def test_a_swap_that_kills_its_gateways_is_put_back_then_left_to_the_next_deployment(
    app: DeployedApp, pushes: Pushes, takeovers: int, status: Status, between: bool
) -> None:
    # A call of the killed gateway is waited for as long as it may take, the stop's grace included.
    await app.set(configuration={"stopGrace": 1})
    await pushes("1")
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    found = await app.ended(await silent(app, takeovers, replaces=await app.serving()))
    assert found.reason is not None
    assert (found.status, found.reason.code) == (status, Code.GATEWAY_KILLED)
    assert await open_swap(app) is between
    digest = await pushes("2")
    assert (await app.ask(Kind.DEPLOY)).digest == digest
    assert not await open_swap(app)


def fail(monkeypatch: pytest.MonkeyPatch, application_id: str, times: int) -> None:
    """Let so many attempts of an application end on a defect; what other tests left queued is not counted."""
    left, roll_out = [None] * times, recipes.roll_out

    async def broken(context: Any, task: Any, *given: Any) -> Any:
        if left and task.application.application_id == application_id:
            left.pop()
            raise KeyError("a defect")
        return await roll_out(context, task, *given)

    monkeypatch.setattr("gateway.worker.execution.roll_out", broken)


@pytest.mark.parametrize(
    ("defects", "status"), [pytest.param(2, Status.SUCCEEDED, marks=pytest.mark.long), (3, Status.FAILED)]
)
async def test_a_defect_before_the_swap_is_retried_a_few_times(
    app: DeployedApp, pushes: Pushes, monkeypatch: pytest.MonkeyPatch, defects: int, status: Status
) -> None:
    monkeypatch.setattr(retry, "_MAX_DELAY", 0.1)
    await pushes("1")
    fail(monkeypatch, app.application_id, defects)
    assert (await app.ask(Kind.DEPLOY)).status is status


@pytest.mark.long
@pytest.mark.parametrize(("also", "ours"), [((), True), (("serving",), True), ((), False)])
async def test_a_swap_that_always_hits_a_defect_is_closed_as_observed(
    app: DeployedApp,
    pushes: Pushes,
    supervisor: Supervisor,
    monkeypatch: pytest.MonkeyPatch,
    also: Sequence[str],
    ours: bool,
) -> None:
    monkeypatch.setattr(retry, "_MAX_DELAY_UNSERVED", 0.01)
    monkeypatch.setattr(supervisor.context, "alerts", told := RecordedAlerts())
    first = await pushes("1")
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    serving = await app.serving()
    with monkeypatch.context() as broken:
        for name in ("is_superseded", *also):
            broken.setattr(ContainerRuntime, name, AsyncMock(side_effect=KeyError("a defect")))
        if ours:
            found = await app.ended(await silent(app, 0, replaces=serving))
            assert found.reason is not None
            assert "is closed as it is" in found.reason.message
            assert (found.status, "is unknown: " in found.reason.message) == (
                (Status.FAILED, True) if also else (Status.ROLLED_BACK, False)
            )
        else:
            await left_open(app, serving.container_id, "0" * 64)
            found = await app.ask(Kind.DEPLOY)
            assert (found.status, found.digest) == (Status.UNCHANGED, first)
    assert any("a swap could not be settled" in alert.title for alert in told)
    assert not await open_swap(app)
    digest = await pushes("2")
    assert (await app.ask(Kind.DEPLOY)).digest == digest


async def test_a_deployment_claimed_during_shutdown_goes_back_to_the_queue(
    web: Web, engine: Engine, dockerd: PrivateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed, go_on, claim = asyncio.Event(), asyncio.Event(), claims.claim

    async def slowly(*given: Any, **named: Any) -> list[Deployment]:
        if found := await claim(*given, **named):
            claimed.set()
            await go_on.wait()
        return found

    monkeypatch.setattr(claims, "claim", slowly)
    await web.mutate("application.create", name="Web", applicationId="app", dockerImage="acme/web")
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(a_gateway(web.pool, engine, dockerd.host))
        await web.mutate("application.deploy", applicationId="app")
        one.wake()
        await claimed.wait()
        stopping = asyncio.create_task(stack.aclose())

        async def retired() -> bool | None:
            return one.engine_pool.retired or None

        await until(retired)
        go_on.set()
        await stopping
    async with web.pool.acquire() as connection:
        (found,) = await deployments.select_deployments_of(connection, ["app"])
    assert (found.status, found.attempts) == (Status.QUEUED, 0)


async def test_a_deployment_waits_while_the_database_refuses_writes(
    app: DeployedApp, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals: list[Exception] = [asyncpg.TooManyConnectionsError(""), asyncpg.ReadOnlySQLTransactionError("")]
    postpone, told = leases.postpone_deployment, []

    def refusing(act: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def refused(connection: Any, of: Deployment | str) -> Any:
            # Applications of other tests may still be tried again.
            if refusals and app.application_id in {of, getattr(of, "application_id", None)}:
                raise refusals.pop()
            return await act(connection, of)

        return refused

    async def seen(connection: Any, deployment: Deployment, reason: Reason, *given: Any, **named: Any) -> bool:
        if deployment.application_id == app.application_id:
            told.append(reason)
        return await postpone(connection, deployment, reason, *given, **named)

    monkeypatch.setattr(retry, "_MAX_DELAY", 0.1)
    # The one is asked by the attempt, the other by its end.
    monkeypatch.setattr(deployments, "select_surroundings", refusing(deployments.select_surroundings))
    monkeypatch.setattr(swaps, "select_swap", refusing(swaps.select_swap))
    monkeypatch.setattr(leases, "postpone_deployment", seen)
    await pushes("1")
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    assert [reason.code for reason in told] == [Code.DATABASE_UNAVAILABLE]
    assert told[0].message == "the database is read-only: try again"
