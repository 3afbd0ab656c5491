"""Tests swaps that are left open and resumed after somebody has changed the application."""

import pytest

from gateway.admin.application_update import select_pending_changes
from gateway.docker.engine import containers
from gateway.model.deployments import Kind, Status
from gateway.rollout import swap as rollout_swap
from gateway.store import applications
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, DeployedApp, interrupt_swap

ORDERS = pytest.mark.parametrize("order", ["stop-first", pytest.param("start-first", marks=pytest.mark.long)])


async def variables(app: DeployedApp) -> list[str]:
    """Return the variables of the container that serves, without those of its image."""
    found = await containers.inspect_raw(app.engine, (await app.serving()).container_id)
    assert found is not None
    return [one for one in found["Config"]["Env"] if one.startswith("A=")]


async def pending(app: DeployedApp) -> list[tuple[str, object]]:
    async with app.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, app.application_id)
        return [(one.field, one.wanted) for one in await select_pending_changes(connection, VAULT, application)]


async def serve(app: DeployedApp, pushes: Pushes, order: str) -> None:
    await pushes("v1")
    await app.set(environment="A=1", configuration={"order": order})
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    await app.set(environment="A=2")


@ORDERS
async def test_what_a_resumed_swap_ran_is_what_its_container_was_made_from(
    app: DeployedApp, pushes: Pushes, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    await serve(app, pushes, order)
    interrupt_swap(monkeypatch, app, environment="A=3")
    resumed = await app.ask(Kind.DEPLOY)
    assert resumed.status is Status.SUCCEEDED, resumed.reason
    assert await variables(app) == ["A=2"]
    assert await pending(app) == [("env", "A changed")]
    await app.set(environment="A=9")
    await app.ask(Kind.DEPLOY)
    assert await variables(app) == ["A=9"]
    assert (await app.roll_back(resumed.deployment_id)).status is Status.SUCCEEDED
    assert await variables(app) == ["A=2"]


@ORDERS
async def test_a_resumed_swap_proves_its_container_with_the_probe_that_it_was_made_with(
    app: DeployedApp, pushes: Pushes, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    await serve(app, pushes, order)
    probe = {"order": order, "probe": {"type": "tcp", "port": 9090}, "healthDeadline": 1}
    interrupt_swap(monkeypatch, app, configuration=probe)
    resumed = await app.ask(Kind.DEPLOY)
    assert resumed.status is Status.SUCCEEDED, resumed.reason
    assert await variables(app) == ["A=2"]


async def test_a_rollback_that_is_resumed_keeps_what_it_brought_back(
    app: DeployedApp, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await serve(app, pushes, "stop-first")
    await app.ask(Kind.DEPLOY)
    interrupt_swap(monkeypatch, app, environment="A=3")
    back = await app.roll_back()
    assert back.status is Status.SUCCEEDED, back.reason
    assert await variables(app) == ["A=1"]
    assert await pending(app) == [("env", "A changed")]


async def test_after_a_swap_is_put_back_the_newest_configuration_is_deployed(
    app: DeployedApp, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout_swap, "_MAX_FORWARD", 0)
    await serve(app, pushes, "stop-first")
    interrupt_swap(monkeypatch, app, environment="A=3")
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    assert await variables(app) == ["A=3"]
    assert await pending(app) == []
