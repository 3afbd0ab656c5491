"""A real gateway process, from the hook to the container."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.process import GatewayProcess, until
from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine
from tests.support.command_line import gateway_process
from tests.support.databases import database_settings
from tests.support.distribution_hooks import Hook, envelope
from tests.support.real_parts import Pushes

FAST = {"GATEWAY_STABLE_WINDOW": "0.3", "GATEWAY_LEASE": "1", "GATEWAY_REGISTRY_LAG": "1", "GATEWAY_LOG_FORMAT": "text"}


@pytest.fixture
async def settings(postgres_server: str) -> dict[str, str]:
    return {**FAST, **await database_settings(postgres_server, "hooks")}


@pytest.fixture
async def gateway(
    tmp_path: Path, dockerd: PrivateEngine, engine: Engine, settings: dict[str, str]
) -> AsyncIterator[GatewayProcess]:
    async with gateway_process(tmp_path, dockerd.host, settings) as process:
        yield process
        for one in await process.query("application.all"):
            for container in await containers.list_labelled(engine, one["applicationId"]):
                await containers.remove(engine, container.container_id)


async def running_digest(engine: Engine, application_id: str) -> list[str]:
    found = await containers.list_labelled(engine, application_id)
    return [container.labels["gateway.digest"] for container in found if container.running]


@pytest.mark.long
async def test_pushed_forth_and_back_it_ends_on_the_first_and_an_old_hook_changes_nothing(
    gateway: GatewayProcess, engine: Engine, pushes: Pushes
) -> None:
    hook = await Hook.open(gateway)
    name = pushes.name()
    await gateway.mutate("application.create", {"name": "a", "applicationId": "aba", "dockerImage": name})
    digests = {}
    for count, version in enumerate(("A", "B", "A"), start=1):
        digests[version] = await pushes(version)
        assert (await hook.post(envelope(name, digests[version])))[0] == 202
        assert (await gateway.settled("aba", count=count))["state"] == "succeeded"
        assert await running_digest(engine, "aba") == [digests[version]]

    assert (await hook.post(envelope(name, digests["B"])))[0] == 202
    late = await gateway.settled("aba", count=4)
    assert (late["state"], late["reason"]["code"]) == ("unchanged", "up_to_date")
    assert await running_digest(engine, "aba") == [digests["A"]]


async def test_a_stop_in_the_middle_puts_back_and_the_next_start_finishes(
    gateway: GatewayProcess, engine: Engine, pushes: Pushes
) -> None:
    hook, name = await Hook.open(gateway), pushes.name()
    await gateway.mutate(
        "application.create", {"name": "a", "applicationId": "cut", "dockerImage": name, "order": "stop-first"}
    )
    first = await pushes("v1")
    await hook.post(envelope(name, first))
    await gateway.settled("cut")
    gateway.environment |= {"GATEWAY_STABLE_WINDOW": "60", "GATEWAY_SHUTDOWN_GRACE": "0"}
    await gateway.stop()
    await gateway.start()
    second = await pushes("v2")
    await hook.post(envelope(name, second))

    async def proving() -> bool | None:
        return await running_digest(engine, "cut") == [second] or None

    await until(proving)
    assert await gateway.stop(signal.SIGTERM) == 0
    assert await running_digest(engine, "cut") == [first]

    gateway.environment |= {"GATEWAY_STABLE_WINDOW": "0.3"}
    await gateway.start()
    assert (await gateway.settled("cut", count=2))["state"] == "succeeded"
    assert await running_digest(engine, "cut") == [second]


@pytest.mark.long
async def test_a_second_gateway_takes_over_from_one_that_was_killed(
    gateway: GatewayProcess,
    dockerd: PrivateEngine,
    engine: Engine,
    pushes: Pushes,
    tmp_path: Path,
    settings: dict[str, str],
) -> None:
    hook, name = await Hook.open(gateway), pushes.name()
    await gateway.mutate(
        "application.create",
        {"name": "a", "applicationId": "two", "dockerImage": name, "order": "stop-first", "stopGrace": 1},
    )
    await hook.post(envelope(name, await pushes("v1")))
    await gateway.settled("two")
    gateway.environment |= {"GATEWAY_STABLE_WINDOW": "60"}
    await gateway.stop()
    await gateway.start()
    digest = await pushes("v2")
    await hook.post(envelope(name, digest))

    async def proving() -> bool | None:
        return await running_digest(engine, "two") == [digest] or None

    await until(proving)
    second = GatewayProcess(tmp_path, dockerd.host, settings)
    second.key = gateway.key
    await second.start()
    try:
        await gateway.stop(signal.SIGKILL)
        taken = await second.settled("two", count=2)
        assert (taken["state"], taken["attempts"]) == ("succeeded", 2)
        assert await running_digest(engine, "two") == [digest]
    finally:
        await gateway.start()
        await second.stop()


async def test_without_an_engine_it_accepts_and_waits_and_says_why(
    tmp_path: Path, pushes: Pushes, settings: dict[str, str]
) -> None:
    async with gateway_process(tmp_path, f"unix://{tmp_path}/nobody.sock", settings) as gateway:
        hook, name = await Hook.open(gateway), pushes.name()
        await gateway.mutate("application.create", {"name": "a", "applicationId": "a", "dockerImage": name})
        status, _ = await hook.post(envelope(name, await pushes("v1")))
        assert status == 202

        async def waiting() -> dict[str, object] | None:
            found = (await gateway.deployments("a"))[0]
            return found if found["reason"] else None

        found = await until(waiting)
        assert found["state"] == "queued"
        assert found["reason"]["code"] == "engine_unreachable"  # type: ignore[index]  # an object of JSON
