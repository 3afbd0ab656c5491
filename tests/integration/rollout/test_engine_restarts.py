"""Tests that no version is judged by a restart of its engine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import pytest

from gateway.cli.demo.engine import PrivateEngine, private_engine
from gateway.cli.demo.images import Behaviour, Image, push
from gateway.cli.demo.process import until
from gateway.docker.container import stop_cause
from gateway.docker.container.runtime import ContainerRuntime
from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine, EngineIdentity, connect
from gateway.model.deployments import Kind, Status
from gateway.model.errors import Code, Failed, Postponed, Reason
from gateway.store import database
from tests.support.databases import create_database
from tests.support.real_parts import SIDE_BY_SIDE, Pushes
from tests.support.rollout_env import DeployedApp, a_gateway, an_application

#: stays down once it has stopped, also when the engine starts again
STAYS_DOWN = {"restartPolicySwarm": {"Condition": "none"}}


@pytest.fixture(scope="module")
async def own() -> AsyncIterator[PrivateEngine]:
    async with private_engine(arguments=SIDE_BY_SIDE) as one:
        yield one


@pytest.fixture(scope="module")
async def client(own: PrivateEngine) -> AsyncIterator[Engine]:
    async with connect(own.host) as engine:
        yield engine


@pytest.fixture
async def alone(postgres: str, client: Engine, pushes: Pushes) -> AsyncIterator[DeployedApp]:
    """An application on an engine of its own, on a database of its own."""
    name = f"alone_{pushes.path.rpartition('/')[2]}"
    async with database.connect(await create_database(postgres, name)) as its:
        yield await an_application(its, client, pushes)


async def restarted(engine: PrivateEngine) -> None:
    """Restart it as systemctl does: its containers end while it still answers."""
    engine.tell()
    await engine.stop()
    await engine.start()


@pytest.mark.parametrize("more", [{}, STAYS_DOWN], ids=["started again", "stays down"])
@pytest.mark.long
async def test_an_engine_restart_causes_no_rollback_in_the_monitor_window(
    alone: DeployedApp, pushes: Pushes, own: PrivateEngine, more: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, trouble = list[str](), ContainerRuntime.failure_reason

    async def counted(runtime: ContainerRuntime, object_id: str, restarts: int) -> Reason | None:
        found = await trouble(runtime, object_id, restarts)
        looks.append(object_id)
        return found

    monkeypatch.setattr(ContainerRuntime, "failure_reason", counted)
    await alone.set(configuration={"watch": 300, **more})
    async with a_gateway(alone.pool, alone.engine, own.host):
        last = None
        for version in ("v1", "v2"):
            await push(Image(version, Behaviour.FINISHES), pushes.name())
            last = await alone.ask(Kind.DEPLOY)
        await restarted(own)
        looks.clear()

        async def looked_at() -> bool | None:
            # Two looks would be enough to bring the former version back.
            return True if len(looks) > 3 else None

        await until(looked_at)
        newest = await alone.newest()
    assert last is not None
    assert (newest.deployment_id, newest.status) == (last.deployment_id, Status.SUCCEEDED)
    for one in await alone.containers():
        await containers.remove(alone.engine, one.container_id)


@pytest.mark.parametrize("order", ["start-first", "stop-first"])
@pytest.mark.long
async def test_an_engine_shutdown_does_not_fail_a_starting_version(
    alone: DeployedApp, pushes: Pushes, own: PrivateEngine, order: str
) -> None:
    await alone.set(configuration={"order": order, "stableWindow": 3})
    async with a_gateway(alone.pool, alone.engine, own.host):
        await push(Image("v1", Behaviour.FINISHES), pushes.name())
        await alone.ask(Kind.DEPLOY)
        digest = await push(Image("v2", Behaviour.FINISHES), pushes.name())
        asked = asyncio.create_task(alone.ask(Kind.DEPLOY))

        async def proves_itself() -> bool | None:
            found = [one for one in await alone.containers() if one.labels["gateway.digest"] == digest and one.running]
            return bool(found) or None

        await until(proves_itself)
        await restarted(own)
        deployment = await asked
    assert (deployment.status, deployment.digest, deployment.reason) == (Status.SUCCEEDED, digest, None)
    running = [one for one in await alone.containers() if one.running]
    assert [one.labels["gateway.digest"] for one in running] == [digest]
    for one in await alone.containers():
        await containers.remove(alone.engine, one.container_id)


async def test_the_cause_of_a_stop_is_distinguished(engine: Engine, pushes: Pushes) -> None:
    await pushes("v1")
    with suppress(Exception):
        await engine.images.pull(pushes.name())
    name = pushes.path.rpartition("/")[2]
    command = {"Image": pushes.name(), "Entrypoint": ["/bin/busybox", "sleep", "0.1"]}
    ended = await containers.create(engine, f"ended-{name}", command, {})
    stopped = await containers.create(engine, f"stopped-{name}", {"Image": pushes.name()}, {})
    for one in (ended, stopped):
        await containers.start(engine, one)
    await containers.stop(engine, stopped, grace=1)

    async def down() -> bool | None:
        found = await containers.inspect(engine, ended)
        return True if found is not None and found.stopped else None

    await until(down)
    told = {}
    for one in (ended, stopped):
        found = await containers.inspect(engine, one)
        assert found is not None
        told[one] = await stop_cause.was_stopped(engine, found)
        await containers.remove(engine, one)
    assert told == {ended: False, stopped: True}


@pytest.mark.long
async def test_it_waits_until_an_engine_has_shut_down(own: PrivateEngine, client: Engine, pushes: Pushes) -> None:
    await push(Image("v1", Behaviour.FINISHES), pushes.name())
    await client.images.pull(pushes.name())
    made = await containers.create(client, "waits", {"Image": pushes.name()}, {})
    await containers.start(client, made)
    found = await containers.inspect(client, made)
    assert found is not None
    waiting = asyncio.create_task(stop_cause.wait_out_shutdown(client, found))
    await restarted(own)
    with pytest.raises(Postponed) as caught:
        await waiting
    assert caught.value.reason.code is Code.ENGINE_UNREACHABLE
    await containers.remove(client, made)


async def test_what_an_engine_refuses_while_it_shuts_down_is_tried_again(
    app: DeployedApp, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has closed its stores by then, and still answers: the version is not at fault."""
    await app.set(configuration={"order": "stop-first"})
    await pushes("v1")
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    start, identify = containers.start, Engine.identify

    async def refused(engine: Engine, container_id: str) -> None:
        monkeypatch.setattr(containers, "start", start)
        monkeypatch.setattr(Engine, "identify", restarted_meanwhile)
        raise Failed(Code.ENGINE_REFUSED, "failed to update store: open : no such file or directory")

    async def restarted_meanwhile(engine: Engine, *, same_run: bool = False) -> EngineIdentity:
        monkeypatch.setattr(Engine, "identify", identify)
        return replace(await identify(engine, same_run=same_run), run="the next")

    monkeypatch.setattr(containers, "start", refused)
    digest = await pushes("v2")
    deployment = await app.ask(Kind.DEPLOY)
    assert (deployment.status, deployment.digest, deployment.attempts) == (Status.SUCCEEDED, digest, 2)


async def test_a_container_that_the_engine_cannot_remove_stands_in_nobodys_way(
    app: DeployedApp, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the engine was stopped while it started one: the container's file system is in use until it restarts."""
    await pushes("v1")
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    serving, remove = await app.serving(), containers.remove
    body = {"Image": serving.image_id, "Labels": serving.labels}
    stuck = await containers.create(app.engine, f"{serving.name}.new.0123456789ab", body, {})

    async def in_use(engine: Engine, container_id: str, *, running: bool = True) -> None:
        if container_id == stuck:
            raise Failed(Code.ENGINE_REFUSED, "failed to remove root filesystem: device or resource busy")
        await remove(engine, container_id, running=running)

    monkeypatch.setattr(containers, "remove", in_use)
    await pushes("v2")
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    found = await containers.inspect(app.engine, stuck)
    assert found is not None
    assert found.name == f"{serving.name}.new.{stuck[:12]}", "its name is free for another one"
    monkeypatch.setattr(containers, "remove", remove)
    await pushes("v3")
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    assert await containers.inspect(app.engine, stuck) is None
