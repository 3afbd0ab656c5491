"""Tests what becomes of Swarm services whose new version fails, or that somebody changes meanwhile."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
import pytest

from gateway.cli.demo.images import Behaviour, Image, push
from gateway.cli.demo.process import until
from gateway.cli.demo.registry import PrivateRegistry
from gateway.docker.engine import services
from gateway.docker.engine.labels import DIGEST
from gateway.docker.runtime import Version
from gateway.docker.swarm.convergence import ServiceProgress
from gateway.docker.swarm.watcher import ServiceWatcher
from gateway.model.deployments import Deployment, Kind, Status
from gateway.model.errors import Code, Postponed
from gateway.model.reference import Reference
from gateway.store import versions, watches
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, DeployedApp
from tests.support.swarm_application import QUICK, app, pushes, running, runtime_of, service_of, supervised_swarm
from tests.support.swarm_nodes import Node, Supervised

__all__ = ["app", "pushes", "supervised_swarm"]  # fixtures


async def test_a_version_that_exits_is_rolled_back_with_its_last_log_lines(app: DeployedApp, pushes: Pushes) -> None:
    digest = await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await pushes("v2", behaviour=Behaviour.EXITS)
    failed = await app.ask(Kind.DEPLOY)
    assert failed.status is Status.ROLLED_BACK
    assert failed.reason is not None
    assert failed.reason.code is Code.EXITED
    assert "non-zero exit (3)" in failed.reason.message
    assert "boom: cannot reach the database" in failed.log
    assert (await service_of(app)).labels[DIGEST] == digest
    assert [task.labels[DIGEST] for task in await running(app)] == [digest]


@pytest.mark.long
async def test_a_former_version_that_fails_once_when_the_swarm_rolls_back_serves_after_all(
    app: DeployedApp, pushes: Pushes
) -> None:
    """Its failure makes the Swarm pause the rollback."""
    volume = {"type": "volume", "source": f"stumble-{app.application_id}", "target": "/data"}
    await app.set(configuration=QUICK | {"mounts": [volume]})

    async def deploy(script: str) -> Deployment:
        entry = ["/bin/busybox", "sh", "-c", script]
        await push(Image("v1", config={"Entrypoint": entry, "Env": ["PATH=/bin"]}), pushes.name())
        return await app.ask(Kind.DEPLOY)

    serves = "trap exit TERM; while :; do /bin/busybox sleep 0.1; done"
    first = await deploy(f"/bin/busybox rm /data/stumble && exit 1; {serves}")
    assert first.status is Status.SUCCEEDED, first.reason
    failed = await deploy("/bin/busybox touch /data/stumble; exit 3")
    assert failed.status is Status.ROLLED_BACK, failed.reason
    assert (await service_of(app)).update_state != "rollback_paused"
    assert [task.labels[DIGEST] for task in await running(app)] == [first.digest]


@pytest.mark.parametrize(
    ("files", "config", "code", "says"),
    [
        pytest.param(
            {"entry": b"no interpreter\n"},
            {},
            Code.WRONG_ARCHITECTURE,
            "exec format error; its node is linux, uname -m ",
            marks=pytest.mark.long,
        ),
        ({}, {"Entrypoint": ["nowhere"]}, Code.COMMAND_NOT_FOUND, 'the image has no program "nowhere"'),
    ],
)
async def test_a_task_that_could_not_be_executed_says_why(
    app: DeployedApp, pushes: Pushes, files: dict[str, bytes], config: dict[str, object], code: Code, says: str
) -> None:
    await push(Image("v1", files=files, config=config), pushes.name())
    failed = await app.ask(Kind.DEPLOY)
    assert failed.reason is not None
    assert (failed.status, failed.reason.code) == (Status.FAILED, code)
    assert says in failed.reason.message


@pytest.mark.long
async def test_a_rollback_by_the_swarm_is_reported_as_one(app: DeployedApp, pushes: Pushes) -> None:
    # With a share of failures allowed, it is for the Swarm to say when there are too many.
    patient = {"updateConfigSwarm": {"Parallelism": 1, "Monitor": 1_000_000_000, "MaxFailureRatio": 0.1}}
    await app.set(configuration=QUICK | patient)
    digest = await pushes("v1")
    await app.ask(Kind.DEPLOY)
    bad = await pushes("v2", behaviour=Behaviour.EXITS)
    failed = await app.ask(Kind.DEPLOY)
    assert failed.status is Status.ROLLED_BACK
    assert failed.reason is not None
    assert "the Swarm rolled" in failed.reason.message
    after = await service_of(app)
    assert after.labels[DIGEST] == digest
    runtime = await runtime_of(app)
    version = Version(Reference.parse(pushes.name()), bad, failed.deployment_id, failed.epoch)
    await runtime.switch_over(await runtime.create(version, await runtime.serving()))
    assert (await service_of(app)).spec == after.spec


@pytest.mark.long
async def test_an_update_that_the_swarm_pauses_is_put_back(app: DeployedApp, pushes: Pushes) -> None:
    pausing = {"Parallelism": 1, "Monitor": 1_000_000_000, "MaxFailureRatio": 0.1, "FailureAction": "pause"}
    await app.set(configuration=QUICK | {"updateConfigSwarm": pausing})
    digest = await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await pushes("v2", behaviour=Behaviour.EXITS)
    failed = await app.ask(Kind.DEPLOY)
    assert failed.status is Status.ROLLED_BACK
    assert failed.reason is not None
    assert "the Swarm paused" in failed.reason.message

    # Swarms of 20.10 may start two tasks in a slot when an update replaces one that they have paused.
    assert [task.labels[DIGEST] for task in await running(app)] == [digest]


@pytest.mark.long
async def test_a_restored_version_whose_task_is_being_replaced_counts_once_it_runs(
    app: DeployedApp, pushes: Pushes
) -> None:
    digest = await pushes("v1")
    stop_first = {"Parallelism": 1, "Monitor": 300_000_000, "Order": "stop-first"}
    await app.set(configuration=QUICK | {"updateConfigSwarm": stop_first})
    await app.ask(Kind.DEPLOY)
    runtime = await runtime_of(app)
    async with app.pool.acquire() as connection:
        runtime = replace(runtime, previous=await versions.select_serving(connection, VAULT, runtime.application))
    serving = await runtime.serving()
    assert serving is not None
    swap = await runtime.create(Version(Reference.parse(pushes.name()), digest, "bad", 1), serving)
    service = await service_of(app)
    made = {**service.spec, "TaskTemplate": {**service.spec["TaskTemplate"], "ForceUpdate": 1}}
    (before,) = await running(app)
    await services.update(app.engine, service, made, {})

    async def is_replacing() -> bool | None:
        return (await service_of(app)).update_state == "updating" or None

    await until(is_replacing)
    await runtime.check_restored(swap, serving)
    (after,) = await running(app)
    assert after.task_id != before.task_id


async def test_a_slot_that_a_rollback_leaves_with_two_tasks_makes_the_gateway_send_the_spec_again(
    app: DeployedApp, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    runtime = await runtime_of(app)
    version = Version(Reference.parse(pushes.name()), await pushes("v2"), "bad", 1)
    swap = await runtime.create(version, await runtime.serving())
    before, tasks = await service_of(app), await running(app)
    observe = ServiceWatcher.observe

    async def crowded_at_first(*given: Any) -> ServiceProgress:
        return replace(await observe(*given), crowded=(await service_of(app)).version == before.version)

    monkeypatch.setattr(ServiceWatcher, "observe", crowded_at_first)
    monkeypatch.setattr("gateway.docker.swarm.runtime._STALLED_AFTER", 0)
    await runtime.put_back(swap)
    after = await service_of(app)
    assert after.version > before.version
    assert after.spec == before.spec
    assert await running(app) == tasks


async def test_a_first_version_that_exits_fails_and_leaves_nothing(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1", behaviour=Behaviour.EXITS)
    failed = await app.ask(Kind.DEPLOY)
    assert failed.status is Status.FAILED
    assert "boom: cannot reach the database" in failed.log
    assert await services.inspect(app.engine, f"app-{app.application_id}") is None


async def test_an_unplaced_task_fails_the_deployment_with_its_message(app: DeployedApp, pushes: Pushes) -> None:
    nowhere = {"placementSwarm": {"Constraints": ["node.labels.disk==fast"]}, "healthDeadline": 1}
    await app.set(configuration=QUICK | nowhere)
    await pushes("v1")
    failed = await app.ask(Kind.DEPLOY)
    assert failed.status is Status.FAILED
    assert failed.reason is not None
    assert failed.reason.code is Code.NO_SUITABLE_NODE
    assert "scheduling constraints not satisfied" in failed.reason.message


async def test_a_node_that_cannot_pull_fails_the_deployment(app: DeployedApp, registry: PrivateRegistry) -> None:
    # A registry on this machine's loopback; on the node's there is none.
    elsewhere = f"{registry.address}/tests/services:v1"
    await push(Image("v1"), elsewhere)
    await app.set(docker_image=elsewhere)
    failed = await app.ask(Kind.DEPLOY)
    assert failed.status is Status.FAILED
    assert failed.reason is not None
    assert failed.reason.code is Code.NODE_CANNOT_PULL
    assert "rejected: No such image" in failed.reason.message


@pytest.mark.long
async def test_an_unhealthy_version_is_rolled_back(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1", health="echo fine")
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    await pushes("v2", health="echo the cache is cold; exit 1")
    failed = await app.ask(Kind.DEPLOY)
    assert failed.status is Status.ROLLED_BACK
    assert failed.reason is not None
    assert failed.reason.code is Code.UNHEALTHY
    assert "the cache is cold" in failed.reason.message


async def restart(node: Node) -> None:
    """Do as systemctl restart docker does."""
    await node.dockerd.stop()
    await node.restart()


async def begun(app: DeployedApp, digest: str) -> None:
    async def look() -> bool | None:
        one = await services.inspect(app.engine, f"app-{app.application_id}")
        return (one is not None and one.labels[DIGEST] == digest) or None

    await until(look)


@pytest.mark.long
async def test_a_node_restart_does_not_fail_a_healthy_version(
    app: DeployedApp, pushes: Pushes, supervised_swarm: Supervised
) -> None:
    await pushes("v1")
    await app.set(configuration=QUICK | {"replicas": 3, "stableWindow": 4})
    await app.ask(Kind.DEPLOY)
    digest = await pushes("v2")
    await app.set(configuration=QUICK | {"replicas": 3, "stableWindow": 4, "watch": 300})
    asked = asyncio.create_task(app.ask(Kind.DEPLOY))
    await begun(app, digest)
    await restart(supervised_swarm.node)
    deployment = await asked
    assert (deployment.status, deployment.digest) == (Status.SUCCEEDED, digest), deployment.reason
    await restart(supervised_swarm.node)

    async def three() -> bool | None:
        with suppress(Postponed):
            return [task.labels[DIGEST] for task in await running(app)] == [digest] * 3 or None
        return None

    await until(three)
    runtime = await runtime_of(app)
    assert await runtime.failure_reason((await service_of(app)).service_id, 0) is None
    async with app.pool.acquire() as connection:
        assert await watches.select_window_end(connection, deployment.deployment_id) is not None
    await app.end_monitoring()


@pytest.mark.long
async def test_a_service_removed_during_an_update_is_created_again(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1")
    await app.set(configuration=QUICK | {"stableWindow": 2})
    await app.ask(Kind.DEPLOY)
    digest = await pushes("v2")
    asked = asyncio.create_task(app.ask(Kind.DEPLOY))
    await begun(app, digest)
    await services.remove(app.engine, await service_of(app))
    deployment = await asked
    assert (deployment.status, deployment.digest) == (Status.SUCCEEDED, digest), deployment.reason
    assert [task.labels[DIGEST] for task in await running(app)] == [digest]


@pytest.mark.long
async def test_a_removed_service_with_a_bad_version_is_restored_from_the_record(
    app: DeployedApp, pushes: Pushes
) -> None:
    first = await pushes("v1")
    await app.set(configuration=QUICK | {"stableWindow": 2})
    good = await app.ask(Kind.DEPLOY)
    before = await service_of(app)
    runtime = await runtime_of(app)
    async with app.pool.acquire() as connection:
        previous = await versions.select_serving(connection, VAULT, runtime.application)
    runtime = replace(runtime, previous=previous)
    second = await pushes("v2")
    swap = await runtime.create(Version(Reference.parse(pushes.name()), second, "bad", 1), await runtime.serving())
    await runtime.switch_over(swap)
    assert not await runtime.is_superseded(swap)
    assert await runtime.is_superseded(replace(swap, deployment_id="of a backup"))
    await services.remove(app.engine, await service_of(app))
    await runtime.put_back(swap)
    serving = await runtime.serving()
    assert serving is not None
    await runtime.check_restored(swap, serving)
    assert (serving.digest, serving.deployment_id) == (first, good.deployment_id)
    assert (await service_of(app)).service_id != before.service_id
    assert (await app.ask(Kind.DEPLOY)).digest == second


@pytest.mark.long
async def test_an_image_that_somebody_set_is_not_reported_as_deployed(app: DeployedApp, pushes: Pushes) -> None:
    other = f"{pushes.address}/{pushes.path}@{await pushes('other', tag='other')}"
    await pushes("v1")
    await app.set(configuration=QUICK | {"stableWindow": 2})
    await app.ask(Kind.DEPLOY)
    digest = await pushes("v2")
    asked = asyncio.create_task(app.ask(Kind.DEPLOY))
    await begun(app, digest)

    async def set_image() -> None:
        service = await service_of(app)
        template = service.spec["TaskTemplate"]
        container = {**template["ContainerSpec"], "Image": other}
        made = {**service.spec, "TaskTemplate": {**template, "ContainerSpec": container}}
        await services.update(app.engine, service, made, {})

    await set_image()
    deployment = await asked
    assert deployment.status is Status.FAILED
    assert deployment.reason is not None
    assert f"somebody else set the image of app-{app.application_id} to {other}" in deployment.reason.message
    assert (await service_of(app)).image == other  # theirs is left
    again = await app.ask(Kind.DEPLOY)
    assert (again.status, again.digest) == (Status.SUCCEEDED, digest), again.reason
    await set_image()  # at rest
    assert (await app.ask(Kind.REDEPLOY)).status is Status.SUCCEEDED
    assert [task.image for task in await running(app)] == [f"{pushes.name()}@{digest}"]


@pytest.mark.long
async def test_a_task_that_dies_within_the_watch_window_brings_the_former_version_back(
    app: DeployedApp, pushes: Pushes
) -> None:
    await app.set(configuration=QUICK | {"watch": 300})
    digest = await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await pushes("v2")
    watched = await app.ask(Kind.DEPLOY)
    name = orjson.dumps({"label": [f"com.docker.swarm.service.name=app-{app.application_id}"]}).decode()
    (task,) = await app.engine.call("GET", "containers/json", params={"filters": name})
    await app.inside(task["Id"], "kill", "1")
    back = await app.went_back()
    assert (back.digest, back.forced) == (digest, False)
    assert watched.deployment_id in back.description
    assert (await service_of(app)).labels[DIGEST] == digest
    await app.end_monitoring()
