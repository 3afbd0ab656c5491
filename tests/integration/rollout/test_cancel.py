"""Tests cancelling queued and running deployments on a real engine."""

from typing import Any

import pytest

from gateway.cli.demo.process import free_port, until
from gateway.docker.container.runtime import ContainerRuntime
from gateway.docker.engine.client import ReachedEngine
from gateway.docker.engine.labels import APPLICATION, DEPLOYMENT, ORIGIN
from gateway.docker.snapshot import ListedContainer
from gateway.model.applications import Application, Desired
from gateway.model.deployments import Deployment, Kind, Status, Step, Swap
from gateway.model.errors import Code, Conflict, NotFound, Postponed
from gateway.queue import cancel, enqueue
from gateway.store import applications, cancellations, deployments, queue_position, steps
from gateway.worker.abandoned import is_named_new, never_served
from gateway.worker.state_monitor import StateMonitor
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, DeployedApp, RecordedAlerts


async def application_of(app: DeployedApp) -> Application:
    async with app.pool.acquire() as connection:
        return await applications.select_application(connection, VAULT, app.application_id)


async def asked(app: DeployedApp, kind: Kind = Kind.DEPLOY) -> str:
    """Queue it, without waiting for its end."""
    if kind is Kind.DEPLOY:
        return await enqueue.request_deployment(app.pool, await application_of(app), kind, title="asked")
    queued = await enqueue.request_state(app.pool, await application_of(app), kind, title="asked")
    assert queued is not None
    return queued


async def proving(app: DeployedApp, pushes: Pushes) -> str:
    """Deploy a version that never says whether it is healthy, until it is asked."""
    await pushes("v2", health="/bin/busybox sleep 60")
    deployment_id = await asked(app)

    async def look() -> bool | None:
        async with app.pool.acquire() as connection:
            records = (await steps.select_steps(connection, [deployment_id]))[deployment_id]
        return True if records and records[-1].step is Step.PROVE else None

    await until(look)
    return deployment_id


async def serves_as(app: DeployedApp, container_id: str) -> None:
    (serving,) = await app.containers()
    assert (serving.container_id, serving.healthy) == (container_id, True)
    assert serving.name == f"app-{app.application_id}"


@pytest.mark.parametrize("order", ["stop-first", pytest.param("start-first", marks=pytest.mark.long)])
async def test_cancelling_a_running_deployment_restores_the_old_version(
    app: DeployedApp, pushes: Pushes, order: str
) -> None:
    await app.set(configuration={"order": order})
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    before = await app.serving()
    deployment_id = await proving(app, pushes)
    assert await cancel.cancel_deployment(app.pool, deployment_id) is Status.RUNNING
    ended = await app.ended(deployment_id)
    assert ended.status is Status.CANCELLED
    assert ended.reason is not None
    assert ended.reason.code is Code.CANCELLED
    await serves_as(app, before.container_id)
    await pushes("v3")
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED


async def test_a_cancelled_first_deployment_leaves_nothing(app: DeployedApp, pushes: Pushes) -> None:
    await cancel.cancel_deployment(app.pool, deployment_id := await proving(app, pushes))
    assert (await app.ended(deployment_id)).status is Status.CANCELLED
    assert await app.containers() == []


async def test_a_swap_of_a_killed_gateway_is_put_back_by_the_next_attempt(app: DeployedApp, pushes: Pushes) -> None:
    await app.set(configuration={"order": "stop-first"})
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    before = await app.serving()
    deployment_id = await proving(app, pushes)
    async with app.pool.acquire() as connection, connection.transaction():
        await connection.execute(
            "UPDATE deployments SET claimed_by = 'dead', epoch = epoch + 1, lease_until = now() - interval '1 second' "
            "WHERE deployment_id = $1",
            deployment_id,
        )
        await cancellations.request_cancel(connection, deployment_id)
    ended = await app.ended(deployment_id)
    assert (ended.status, ended.epoch) == (Status.CANCELLED, 3)
    assert Step.SETTLE in await app.steps(ended)
    await serves_as(app, before.container_id)


async def test_a_cancelled_waiting_deployment_ends_at_once_and_names_what_it_waited_for(
    app: DeployedApp, pushes: Pushes
) -> None:
    running = await proving(app, pushes)
    queued = await asked(app, Kind.STOP)
    async with app.pool.acquire() as connection:
        wait = await queue_position.select_wait(connection, await deployments.select_deployment(connection, queued))
        assert (
            await queue_position.select_wait(connection, await deployments.select_deployment(connection, running))
            is None
        )
    assert wait is not None
    assert (wait.position, running in wait.waits_for) == (1, True)
    await cancel.cancel_deployments(app.pool, app.application_id, running=False)
    assert (await app.ended(queued)).status is Status.CANCELLED
    assert (await application_of(app)).desired is Desired.RUNNING
    await cancel.cancel_deployments(app.pool, app.application_id, running=True)
    assert (await app.ended(running)).status is Status.CANCELLED


async def test_a_postponed_deployment_is_not_retried_after_cancellation(app: DeployedApp) -> None:
    await app.set(docker_image=f"127.0.0.1:{free_port()}/app:v1")
    queued = await asked(app)

    async def postponed() -> Deployment | None:
        async with app.pool.acquire() as connection:
            found = await deployments.select_deployment(connection, queued)
        return found if found.status is Status.QUEUED and found.attempts > 1 else None

    await until(postponed)
    await cancel.cancel_deployment(app.pool, queued)
    assert (await app.ended(queued)).status is Status.CANCELLED


async def test_what_a_deployment_created_before_it_was_cancelled_in_the_queue_is_removed(
    app: DeployedApp, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is what a call of a killed gateway created after the end. Nobody asks for another deployment."""
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    before = await app.serving()
    create = ContainerRuntime.create

    async def created(self: ContainerRuntime, *given: Any, **named: Any) -> Swap:
        await create(self, *given, **named)
        raise Postponed(Code.ENGINE_BUSY, "it is away", retry_after=600)

    monkeypatch.setattr(ContainerRuntime, "create", created)
    await pushes("v2")
    queued = await asked(app)

    async def postponed() -> Deployment | None:
        async with app.pool.acquire() as connection:
            found = await deployments.select_deployment(connection, queued)
        return found if found.status is Status.QUEUED and found.attempts else None

    async def seen() -> list[bool]:
        await StateMonitor(app.pool, VAULT, RecordedAlerts()).observe(reached)
        return [one.container_id == before.container_id for one in await app.containers()]

    await until(postponed)
    reached = ReachedEngine(app.engine, await app.engine.identify(), [None])
    assert await seen() == [True, False], "the next attempt removes it"
    assert await cancel.cancel_deployment(app.pool, queued) is Status.CANCELLED
    assert await seen() == [True]
    await serves_as(app, before.container_id)


@pytest.mark.parametrize(
    ("state", "serving", "goes"),
    [
        ("created", None, True),
        ("running", "running", True),
        ("exited", "running", True),
        ("running", None, False),
        ("running", "exited", False),
    ],
)
def test_what_may_be_all_that_serves_is_not_taken_for_abandoned(state: str, serving: str | None, goes: bool) -> None:
    one = ListedContainer("n", "web.new.d", state, "", "i", {})
    there = {} if serving is None else {"web": ListedContainer("o", "web", serving, "", "i", {})}
    assert never_served(one, "web", there) is goes
    assert not never_served(one, "we", there)


@pytest.mark.parametrize(
    ("name", "labels", "ours"),
    [
        ("web.new.0123456789ab", {}, True),
        ("web.new.try", {}, False),
        ("web.new.0123456789ab", {ORIGIN: "c"}, False),
        ("web.new.", {DEPLOYMENT: "another"}, False),
    ],
)
def test_a_copy_with_the_labels_of_a_deployment_is_not_taken_for_its_container(
    name: str, labels: dict[str, str], ours: bool
) -> None:
    known = {APPLICATION: "a", DEPLOYMENT: "0123456789abcdef"}
    assert is_named_new(ListedContainer("n", name, "running", "", "i", known | labels)) is ours


async def test_an_ended_or_unknown_deployment_cannot_be_cancelled(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1")
    ended = await app.ask(Kind.DEPLOY)
    with pytest.raises(Conflict, match="has already ended: succeeded"):
        await cancel.cancel_deployment(app.pool, ended.deployment_id)
    with pytest.raises(NotFound):
        await cancel.cancel_deployment(app.pool, "nothing")
