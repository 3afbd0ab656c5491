"""The runtime recovers from states that only a crash at the wrong moment leaves behind."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.docker.container import isolation
from gateway.docker.container.runtime import ContainerRuntime
from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine
from gateway.docker.runtime import Timeouts, Version
from gateway.model.applications import Application, Desired
from gateway.model.configuration import Configuration
from gateway.model.deployments import Swap
from gateway.model.reference import Reference
from gateway.model.registries import anonymous
from tests.support.real_parts import Pushes

PACE = Timeouts(stable_window=0.2, health_deadline=20, pull_stall=20, call_margin=5, kept_for=3600)


@pytest.fixture
async def runtime(engine: Engine, pushes: Pushes) -> AsyncIterator[ContainerRuntime]:
    name = pushes.path.rpartition("/")[2]
    application = Application(
        application_id=name,
        name=name,
        app_name=f"app-{name}",
        description=None,
        docker_image=pushes.name(),
        registry_url=None,
        credentials=None,
        environment=None,
        configuration=Configuration(drain=0),
        other_columns={},
        auto_deploy=True,
        desired=Desired.RUNNING,
        server_id=None,
        engine_id=None,
        created_at=datetime.now(UTC),
    )
    runtime = ContainerRuntime(engine, (await engine.identify()).platform, application, anonymous, PACE)
    yield runtime
    await runtime.remove()


async def quiet(_detail: str) -> None:
    """Nobody watches the pull."""


async def shown(runtime: ContainerRuntime, pushes: Pushes, version: str) -> Swap:
    """Return the swap that let the version serve; what comes after it was not done."""
    digest = await pushes(version)
    reference = Reference.parse(pushes.name()).with_digest(digest)
    await runtime.pull(reference, quiet)
    swap = await runtime.create(Version(reference, digest, f"deployment-{version}", 1), await runtime.serving())
    await runtime.start_beside(swap)
    await runtime.switch_over(swap)
    return swap


async def test_what_the_engine_leaves_out_of_a_container_is_logged(engine: Engine, pushes: Pushes) -> None:
    """A port in the host's network is an example; a limit that the host cannot set is another one."""
    await pushes("v1")
    await engine.images.pull(pushes.name())
    host = {"NetworkMode": "host", "PortBindings": {"8080/tcp": [{"HostPort": "18123"}]}}
    name, body = f"less-{pushes.path.rpartition('/')[2]}", {"Image": pushes.name(), "HostConfig": host}
    with capture_logs() as lines:
        made = await containers.create(engine, name, body, {})
    await containers.remove(engine, made)
    (said,) = [line for line in lines if line.get("container") == name]
    discarded = ["Published ports are discarded when using host network mode"]
    assert (said["log_level"], said["warnings"]) == ("warning", discarded)


async def test_a_version_without_a_predecessor_keeps_serving(runtime: ContainerRuntime, pushes: Pushes) -> None:
    await shown(runtime, pushes, "v1")
    swap = await shown(runtime, pushes, "v2")
    assert swap.old is not None
    await containers.remove(runtime.engine, swap.old)
    await runtime.put_back(swap)
    serving = await runtime.serving()
    assert serving is not None
    assert (serving.object_id, serving.running) == (swap.new, True)


async def test_what_serves_is_looked_at_again_when_removing_what_is_left_took_long(
    runtime: ContainerRuntime, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap = await shown(runtime, pushes, "v1")

    async def slow_sweep(*_: object) -> None:
        await containers.remove(runtime.engine, swap.new)  # as somebody else does meanwhile
        await asyncio.sleep(0.01)

    monkeypatch.setattr(isolation, "sweep", slow_sweep)
    monkeypatch.setattr("gateway.docker.container.runtime._JUST_NOW", 0.01)
    await runtime.remove_leftovers()
    assert await runtime.serving() is None


async def test_the_new_version_serves_when_the_old_one_cannot_start(
    runtime: ContainerRuntime, pushes: Pushes, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    bind = {"type": "bind", "source": str(place), "target": "/place", "readOnly": True}
    bound = Configuration.model_validate({"drain": 0, "order": "stop-first", "mounts": [bind]})
    await shown(replace(runtime, application=replace(runtime.application, configuration=bound)), pushes, "v1")
    plain = Configuration.model_validate({"drain": 0, "order": "stop-first"})
    runtime = replace(runtime, application=replace(runtime.application, configuration=plain))
    swap = await shown(runtime, pushes, "v2")
    place.rmdir()
    await runtime.put_back(swap)
    serving = await runtime.serving()
    assert serving is not None
    assert (serving.object_id, serving.running) == (swap.new, True)
    new = await containers.inspect(runtime.engine, swap.new)
    assert new is not None
    assert new.restart_policy["Name"] == "unless-stopped"


async def test_a_kept_container_of_an_interrupted_rollback_is_stopped(
    runtime: ContainerRuntime, pushes: Pushes
) -> None:
    first = await shown(runtime, pushes, "v1")
    second = await shown(runtime, pushes, "v2")
    await runtime.stop_old(second)
    await containers.start(runtime.engine, first.new)
    await runtime.remove_leftovers()
    kept = await containers.inspect(runtime.engine, first.new)
    assert kept is not None
    assert (kept.running, kept.restart_policy["Name"]) == (False, "no")


async def test_putting_back_can_be_interrupted_anywhere_and_repeated(runtime: ContainerRuntime, pushes: Pushes) -> None:
    first = await shown(runtime, pushes, "v1")
    swap = await shown(runtime, pushes, "v2")
    await runtime.stop_old(swap)
    new = await containers.inspect(runtime.engine, swap.new)
    assert new is not None
    # As far as one rename, and dead.
    await containers.rename(runtime.engine, new, new.name.swapcase())
    for _ in range(2):
        await runtime.put_back(swap)
    serving = await runtime.serving()
    assert serving is not None
    assert (serving.object_id, serving.running) == (first.new, True)
    assert await containers.inspect(runtime.engine, swap.new) is None
