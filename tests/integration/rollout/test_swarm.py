"""Tests rollouts of Swarm services on a real Swarm."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.admin.adoption import adopt
from gateway.cli.demo.images import Behaviour, Image, push
from gateway.cli.demo.process import free_port, until
from gateway.cli.demo.registry import PrivateRegistry
from gateway.docker.engine import containers, services
from gateway.docker.engine.client import ReachedEngine
from gateway.docker.engine.labels import DEPLOYMENT, DIGEST, LOGIN_UNTIL
from gateway.docker.engine.services import Service, Task
from gateway.docker.runtime import Timeouts, Version
from gateway.docker.swarm import convergence, file_secrets
from gateway.docker.swarm.convergence import ServiceProgress
from gateway.docker.swarm.runtime import ServiceRuntime
from gateway.docker.swarm.watcher import ServiceWatcher
from gateway.model.deployments import Deployment, Kind, Status
from gateway.model.errors import Code, Conflict, Failed, InvalidInput, Postponed
from gateway.model.observations import State
from gateway.model.reference import Reference, parse_domain
from gateway.model.registries import Registration, anonymous
from gateway.queue import enqueue
from gateway.registry import client as registry_client
from gateway.store import applications, observations, registries, versions, watches
from gateway.worker.login_renewal import renew_logins
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, Lane, an_application, interrupt_swap
from tests.support.swarm_nodes import Node, Supervised, supervised, swarm_of
from tests.support.token_registries import amazon, filled, gate

#: so that a test does not wait for a task to be watched, or restarted
QUICK = {
    "updateConfigSwarm": {"Parallelism": 1, "Monitor": 300_000_000},
    "rollbackConfigSwarm": {"Parallelism": 1, "Monitor": 300_000_000},
    "restartPolicySwarm": {"Delay": 100_000_000},
    "stopGrace": 1,
}


@pytest.fixture(scope="module")
async def supervised_swarm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Supervised]:
    quick = {"GATEWAY_STABLE_WINDOW": "0.3", "GATEWAY_HEALTH_DEADLINE": "15", "GATEWAY_WATCH_WINDOW": "0"}
    async with swarm_of(1) as swarm, supervised(swarm, tmp_path_factory.mktemp("swarm"), **quick) as one:
        yield one


@pytest.fixture
def pushes(supervised_swarm: Supervised, request: pytest.FixtureRequest) -> Pushes:
    return Pushes(supervised_swarm.registry, f"tests/{abs(hash(request.node.nodeid)):x}")


@pytest.fixture
async def lane(supervised_swarm: Supervised, pushes: Pushes) -> AsyncIterator[Lane]:
    lane = await an_application(supervised_swarm.pool, supervised_swarm.engine, pushes)
    await lane.set(configuration=QUICK)
    yield lane
    for service in await services.list_all(lane.engine):
        await services.remove(lane.engine, service)


async def service_of(lane: Lane) -> Service:
    found = await services.inspect(lane.engine, f"app-{lane.application_id}")
    assert found is not None
    return found


async def runtime_of(lane: Lane) -> ServiceRuntime:
    async with lane.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, lane.application_id)
    timeouts = Timeouts(stable_window=0.3, health_deadline=15, pull_stall=15, call_margin=5, kept_for=60)
    return ServiceRuntime(lane.engine, application, anonymous, timeouts)


async def running(lane: Lane) -> list[Task]:
    found = await services.tasks(lane.engine, await service_of(lane))
    return [task for task in found if task.state == "running"]


async def test_on_a_manager_it_runs_as_a_service_pinned_by_digest(lane: Lane, pushes: Pushes) -> None:
    digest = await pushes("v1")
    deployment = await lane.ask(Kind.DEPLOY)
    assert (deployment.status, deployment.digest) == (Status.SUCCEEDED, digest), deployment.reason
    service = await service_of(lane)
    assert service.spec["TaskTemplate"]["ContainerSpec"]["Image"] == f"{pushes.name()}@{digest}"
    assert service.labels[DEPLOYMENT] == deployment.deployment_id
    assert service.spec["UpdateConfig"]["FailureAction"] == "rollback"
    assert len(await running(lane)) == 1
    assert (await lane.ask(Kind.DEPLOY)).status is Status.UNCHANGED


async def test_a_deployment_succeeds_only_after_every_replica_is_replaced(lane: Lane, pushes: Pushes) -> None:
    at_once = {"replicas": 3, "updateConfigSwarm": {"Parallelism": 2, "Monitor": 300_000_000}}
    await lane.set(configuration=QUICK | at_once)
    await pushes("v1")
    await lane.ask(Kind.DEPLOY)
    digest = await pushes("v2")
    deployment = await lane.ask(Kind.DEPLOY)
    assert deployment.status is Status.SUCCEEDED, deployment.reason
    assert [task.labels[DIGEST] for task in await running(lane)] == [digest] * 3
    assert (await service_of(lane)).update_state == "completed"


async def test_the_production_example_converges_as_three_tasks_with_its_limits_and_its_port(
    lane: Lane, pushes: Pushes
) -> None:
    port = free_port()
    production = {
        "memoryLimit": "2048MB",
        "cpuLimit": "2",
        "replicas": 3,
        "ports": [{"targetPort": 3000, "publishedPort": port}],
    }
    await pushes("v1")
    variables = "DATABASE_URL=postgresql://... \n REDIS_URL=redis://..."
    await lane.set(configuration=QUICK | production, environment=variables)
    deployment = await lane.ask(Kind.DEPLOY)
    assert deployment.status is Status.SUCCEEDED, deployment.reason
    assert len(await running(lane)) == 3
    found = (await service_of(lane)).spec
    task = found["TaskTemplate"]
    assert task["Resources"]["Limits"] == {"MemoryBytes": 2 * 1024**3, "NanoCPUs": 2 * 10**9}
    assert task["ContainerSpec"]["Env"] == ["DATABASE_URL=postgresql://...", "REDIS_URL=redis://..."]
    (published,) = found["EndpointSpec"]["Ports"]
    assert published == {"Protocol": "tcp", "TargetPort": 3000, "PublishedPort": port, "PublishMode": "ingress"}
    (inside, *_) = [await containers.inspect_raw(lane.engine, one.container_id) for one in await running(lane)]
    assert inside is not None
    assert (inside["HostConfig"]["Memory"], inside["HostConfig"]["NanoCpus"]) == (2 * 1024**3, 2 * 10**9)


@pytest.mark.parametrize("sent", [True, pytest.param(False, marks=pytest.mark.long)])
async def test_a_resumed_update_runs_and_records_the_configuration_that_it_began_with(
    lane: Lane, pushes: Pushes, monkeypatch: pytest.MonkeyPatch, sent: bool
) -> None:
    await pushes("v1")
    await lane.set(environment="A=1")
    await lane.ask(Kind.DEPLOY)
    await lane.set(environment="A=2")
    interrupt_swap(monkeypatch, lane, ServiceRuntime, sent=sent, environment="A=3")
    resumed = await lane.ask(Kind.DEPLOY)
    assert resumed.status is Status.SUCCEEDED, resumed.reason
    assert (await service_of(lane)).spec["TaskTemplate"]["ContainerSpec"]["Env"] == ["A=2"]
    async with lane.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, lane.application_id)
        serving = await versions.select_serving(connection, VAULT, application)
    assert serving is not None
    assert (serving.deployment_id, serving.application.environment) == (resumed.deployment_id, "A=2")


@pytest.mark.long
async def test_a_missing_host_folder_leaves_the_service_unchanged(lane: Lane, pushes: Pushes) -> None:
    await pushes("v1")
    await lane.ask(Kind.DEPLOY)
    before = await service_of(lane)
    binds = [{"type": "bind", "source": "/nowhere/web", "target": "/data"}]
    await lane.set(configuration=QUICK | {"mounts": [*binds, {"type": "bind", "source": "/etc", "target": "/etc2"}]})
    failed = await lane.ask(Kind.DEPLOY)
    assert failed.reason is not None
    assert (failed.status, failed.reason.code) == (Status.FAILED, Code.VOLUME_MISSING)
    assert "the path /nowhere/web to mount does not exist" in failed.reason.message
    assert (await service_of(lane)).version == before.version
    await lane.set(configuration=QUICK | {"mounts": [{"type": "bind", "source": "/etc", "target": "/etc2"}]})
    assert (await lane.ask(Kind.DEPLOY)).status is Status.SUCCEEDED


@pytest.mark.long
async def test_a_file_is_a_secret_that_changes_with_it_and_goes_when_no_spec_names_it(
    lane: Lane, pushes: Pushes
) -> None:
    image = Image("v1", config={"Entrypoint": ["/bin/busybox", "sh", "-c"], "Env": ["PATH=/bin"]})
    await push(image, pushes.name())

    async def deploy(content: str) -> str:
        """Return what the tasks of the new version have logged, which is the file."""
        mounts = [{"type": "file", "mountPath": "/etc/settings/web.conf", "content": content}]
        script = "/bin/busybox cat /etc/settings/web.conf; trap exit TERM; while :; do /bin/busybox sleep 0.1; done"
        await lane.set(configuration=QUICK | {"mounts": mounts, "args": [script], "readOnly": True})
        deployment = await lane.ask(Kind.DEPLOY)
        assert deployment.status is Status.SUCCEEDED, deployment.reason
        (task,) = await running(lane)
        return await services.last_lines(lane.engine, task)

    async def secrets() -> int:
        return len(await lane.engine.call("GET", "secrets"))

    assert await deploy("first\n") == "first\n"
    assert await secrets() == 1
    assert await deploy("second\n") == "second\n"
    assert await secrets() == 2  # the Swarm may go back to the spec before
    assert await deploy("third\n") == "third\n"
    assert await secrets() == 2
    assert "third" not in str((await service_of(lane)).spec)
    await (await runtime_of(lane)).remove()
    assert await secrets() == 0


async def test_another_installation_neither_adopts_nor_removes_a_service_and_its_secrets(
    lane: Lane, pushes: Pushes
) -> None:
    await pushes("v1")
    mounts = [{"type": "file", "mountPath": "/etc/web.conf", "content": "x"}]
    await lane.set(configuration=QUICK | {"mounts": mounts})
    assert (await lane.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    ours = await runtime_of(lane)
    another = replace(
        ours, application=replace(ours.application, installation_id="another", unlabelled_deployments=frozenset())
    )
    with pytest.raises(Failed, match="another gateway, with a database of its own") as refused:
        await another.serving()
    assert refused.value.reason.code is Code.NAME_TAKEN
    assert await file_secrets.ensure(lane.engine, another.application) != await file_secrets.ensure(
        lane.engine, ours.application
    )
    await file_secrets.prune(lane.engine, another.application)
    assert len(await lane.engine.call("GET", "secrets")) == 1
    assert (await lane.ask(Kind.DEPLOY)).status is Status.UNCHANGED
    await ours.remove()


async def test_a_version_that_exits_is_rolled_back_with_its_last_log_lines(lane: Lane, pushes: Pushes) -> None:
    digest = await pushes("v1")
    await lane.ask(Kind.DEPLOY)
    await pushes("v2", behaviour=Behaviour.EXITS)
    failed = await lane.ask(Kind.DEPLOY)
    assert failed.status is Status.ROLLED_BACK
    assert failed.reason is not None
    assert failed.reason.code is Code.EXITED
    assert "non-zero exit (3)" in failed.reason.message
    assert "boom: cannot reach the database" in failed.log
    assert (await service_of(lane)).labels[DIGEST] == digest
    assert [task.labels[DIGEST] for task in await running(lane)] == [digest]


async def test_a_former_version_that_fails_once_when_the_swarm_rolls_back_serves_after_all(
    lane: Lane, pushes: Pushes
) -> None:
    """Its failure makes the Swarm pause the rollback."""
    volume = {"type": "volume", "source": f"stumble-{lane.application_id}", "target": "/data"}
    await lane.set(configuration=QUICK | {"mounts": [volume]})

    async def deploy(script: str) -> Deployment:
        entry = ["/bin/busybox", "sh", "-c", script]
        await push(Image("v1", config={"Entrypoint": entry, "Env": ["PATH=/bin"]}), pushes.name())
        return await lane.ask(Kind.DEPLOY)

    serves = "trap exit TERM; while :; do /bin/busybox sleep 0.1; done"
    first = await deploy(f"/bin/busybox rm /data/stumble && exit 1; {serves}")
    assert first.status is Status.SUCCEEDED, first.reason
    failed = await deploy("/bin/busybox touch /data/stumble; exit 3")
    assert failed.status is Status.ROLLED_BACK, failed.reason
    assert (await service_of(lane)).update_state != "rollback_paused"
    assert [task.labels[DIGEST] for task in await running(lane)] == [first.digest]


@pytest.mark.parametrize(
    ("files", "config", "code", "says"),
    [
        (
            {"entry": b"no interpreter\n"},
            {},
            Code.WRONG_ARCHITECTURE,
            "exec format error; its node is linux, uname -m ",
        ),
        ({}, {"Entrypoint": ["nowhere"]}, Code.COMMAND_NOT_FOUND, 'the image has no program "nowhere"'),
    ],
)
async def test_a_task_that_could_not_be_executed_says_why(
    lane: Lane, pushes: Pushes, files: dict[str, bytes], config: dict[str, object], code: Code, says: str
) -> None:
    await push(Image("v1", files=files, config=config), pushes.name())
    failed = await lane.ask(Kind.DEPLOY)
    assert failed.reason is not None
    assert (failed.status, failed.reason.code) == (Status.FAILED, code)
    assert says in failed.reason.message


async def test_a_rollback_by_the_swarm_is_reported_as_one(lane: Lane, pushes: Pushes) -> None:
    # With a share of failures allowed, it is for the Swarm to say when there are too many.
    patient = {"updateConfigSwarm": {"Parallelism": 1, "Monitor": 1_000_000_000, "MaxFailureRatio": 0.1}}
    await lane.set(configuration=QUICK | patient)
    digest = await pushes("v1")
    await lane.ask(Kind.DEPLOY)
    bad = await pushes("v2", behaviour=Behaviour.EXITS)
    failed = await lane.ask(Kind.DEPLOY)
    assert failed.status is Status.ROLLED_BACK
    assert failed.reason is not None
    assert "the Swarm rolled" in failed.reason.message
    after = await service_of(lane)
    assert after.labels[DIGEST] == digest
    runtime = await runtime_of(lane)
    version = Version(Reference.parse(pushes.name()), bad, failed.deployment_id, failed.epoch)
    await runtime.switch_over(await runtime.create(version, await runtime.serving()))
    assert (await service_of(lane)).spec == after.spec


@pytest.mark.long
async def test_an_update_that_the_swarm_pauses_is_put_back(lane: Lane, pushes: Pushes) -> None:
    pausing = {"Parallelism": 1, "Monitor": 1_000_000_000, "MaxFailureRatio": 0.1, "FailureAction": "pause"}
    await lane.set(configuration=QUICK | {"updateConfigSwarm": pausing})
    digest = await pushes("v1")
    await lane.ask(Kind.DEPLOY)
    await pushes("v2", behaviour=Behaviour.EXITS)
    failed = await lane.ask(Kind.DEPLOY)
    assert failed.status is Status.ROLLED_BACK
    assert failed.reason is not None
    assert "the Swarm paused" in failed.reason.message

    # Swarms of 20.10 may start two tasks in a slot when an update replaces one that they have paused.
    assert [task.labels[DIGEST] for task in await running(lane)] == [digest]


async def test_a_restored_version_whose_task_is_being_replaced_counts_once_it_runs(lane: Lane, pushes: Pushes) -> None:
    digest = await pushes("v1")
    stop_first = {"Parallelism": 1, "Monitor": 300_000_000, "Order": "stop-first"}
    await lane.set(configuration=QUICK | {"updateConfigSwarm": stop_first})
    await lane.ask(Kind.DEPLOY)
    runtime = await runtime_of(lane)
    async with lane.pool.acquire() as connection:
        runtime = replace(runtime, former=await versions.select_serving(connection, VAULT, runtime.application))
    serving = await runtime.serving()
    assert serving is not None
    swap = await runtime.create(Version(Reference.parse(pushes.name()), digest, "bad", 1), serving)
    service = await service_of(lane)
    made = {**service.spec, "TaskTemplate": {**service.spec["TaskTemplate"], "ForceUpdate": 1}}
    (before,) = await running(lane)
    await services.update(lane.engine, service, made, {})

    async def is_replacing() -> bool | None:
        return (await service_of(lane)).update_state == "updating" or None

    await until(is_replacing)
    await runtime.check_restored(swap, serving)
    (after,) = await running(lane)
    assert after.task_id != before.task_id


async def test_a_slot_that_a_rollback_leaves_with_two_tasks_makes_the_gateway_send_the_spec_again(
    lane: Lane, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pushes("v1")
    await lane.ask(Kind.DEPLOY)
    runtime = await runtime_of(lane)
    version = Version(Reference.parse(pushes.name()), await pushes("v2"), "bad", 1)
    swap = await runtime.create(version, await runtime.serving())
    before, tasks = await service_of(lane), await running(lane)
    observe = ServiceWatcher.observe

    async def crowded_at_first(*given: Any) -> ServiceProgress:
        return replace(await observe(*given), crowded=(await service_of(lane)).version == before.version)

    monkeypatch.setattr(ServiceWatcher, "observe", crowded_at_first)
    monkeypatch.setattr("gateway.docker.swarm.runtime._STALLED_AFTER", 0)
    await runtime.put_back(swap)
    after = await service_of(lane)
    assert after.version > before.version
    assert after.spec == before.spec
    assert await running(lane) == tasks


async def test_a_first_version_that_exits_fails_and_leaves_nothing(lane: Lane, pushes: Pushes) -> None:
    await pushes("v1", behaviour=Behaviour.EXITS)
    failed = await lane.ask(Kind.DEPLOY)
    assert failed.status is Status.FAILED
    assert "boom: cannot reach the database" in failed.log
    assert await services.inspect(lane.engine, f"app-{lane.application_id}") is None


async def test_an_unplaced_task_fails_the_deployment_with_its_message(lane: Lane, pushes: Pushes) -> None:
    nowhere = {"placementSwarm": {"Constraints": ["node.labels.disk==fast"]}, "healthDeadline": 1}
    await lane.set(configuration=QUICK | nowhere)
    await pushes("v1")
    failed = await lane.ask(Kind.DEPLOY)
    assert failed.status is Status.FAILED
    assert failed.reason is not None
    assert failed.reason.code is Code.NO_SUITABLE_NODE
    assert "scheduling constraints not satisfied" in failed.reason.message


async def test_a_node_that_cannot_pull_fails_the_deployment(lane: Lane, registry: PrivateRegistry) -> None:
    # A registry on this machine's loopback; on the node's there is none.
    elsewhere = f"{registry.address}/tests/services:v1"
    await push(Image("v1"), elsewhere)
    await lane.set(docker_image=elsewhere)
    failed = await lane.ask(Kind.DEPLOY)
    assert failed.status is Status.FAILED
    assert failed.reason is not None
    assert failed.reason.code is Code.NODE_CANNOT_PULL
    assert "rejected: No such image" in failed.reason.message


async def test_an_unhealthy_version_is_rolled_back(lane: Lane, pushes: Pushes) -> None:
    await pushes("v1", health="echo fine")
    assert (await lane.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    await pushes("v2", health="echo the cache is cold; exit 1")
    failed = await lane.ask(Kind.DEPLOY)
    assert failed.status is Status.ROLLED_BACK
    assert failed.reason is not None
    assert failed.reason.code is Code.UNHEALTHY
    assert "the cache is cold" in failed.reason.message


async def test_stopped_means_no_task_started_all_again_and_deleted_no_service(lane: Lane, pushes: Pushes) -> None:
    await lane.set(configuration=QUICK | {"replicas": 2})
    await pushes("v1")
    await lane.ask(Kind.DEPLOY)
    assert (await lane.ask(Kind.STOP)).status is Status.SUCCEEDED
    assert await running(lane) == []
    assert (await lane.ask(Kind.START)).status is Status.SUCCEEDED
    assert len(await running(lane)) == 2
    async with lane.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, lane.application_id)
    await enqueue.request_state(lane.pool, application, Kind.DELETE, title="asked")

    async def gone() -> bool | None:
        async with lane.pool.acquire() as connection:
            row = await connection.fetchval("SELECT 1 FROM applications WHERE application_id = $1", lane.application_id)
        return None if row else True

    assert await until(gone)
    assert await services.inspect(lane.engine, f"app-{lane.application_id}") is None
    assert not any(one.running for one in await containers.list_labelled(lane.engine, lane.application_id))


async def test_a_host_port_forces_stop_first(lane: Lane, pushes: Pushes) -> None:
    port = {"targetPort": 8080, "publishedPort": 18080, "publishMode": "host"}
    await lane.set(configuration=QUICK | {"ports": [port]})
    await pushes("v1")
    await lane.ask(Kind.DEPLOY)
    digest = await pushes("v2")
    assert (await lane.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    assert (await service_of(lane)).spec["UpdateConfig"]["Order"] == "stop-first"
    assert [task.labels[DIGEST] for task in await running(lane)] == [digest]


def on_the_hosts_network(version: str, port: int) -> Image:
    script = f'#!/bin/busybox sh\ntrap "kill $!; exit 0" TERM\n/bin/busybox httpd -f -p {port} -h /www &\nwait $!\n'
    return Image(version, files={"entry": script.encode()})


@pytest.mark.long
async def test_a_service_on_the_host_network_is_updated_stop_first(lane: Lane, pushes: Pushes) -> None:
    await lane.set(configuration=QUICK | {"networks": ["host"]})
    port, digest = free_port(), None
    for version in ("v1", "v2"):
        digest = await push(on_the_hosts_network(version, port), pushes.name())
        deployment = await lane.ask(Kind.DEPLOY)
        assert deployment.status is Status.SUCCEEDED, deployment.reason
    assert [task.labels[DIGEST] for task in await running(lane)] == [digest]


async def test_an_adopted_service_on_the_hosts_network_is_replaced_or_refused_at_once(
    lane: Lane, pushes: Pushes
) -> None:
    port, name = free_port(), f"host_{lane.application_id}"
    first = await push(on_the_hosts_network("v1", port), pushes.name())
    host = (await lane.engine.call("GET", "networks/host", params={"scope": "swarm"}))["Id"]
    wanted = {
        "Name": name,
        "TaskTemplate": {
            "ContainerSpec": {"Image": f"{pushes.name()}@{first}", "StopGracePeriod": 10**9},
            "Networks": [{"Target": host}],
            "LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}},
        },
        "Mode": {"Global": {}},
        "UpdateConfig": {"Parallelism": 1, "Monitor": 300_000_000, "Order": "start-first"},
    }
    await services.create(lane.engine, wanted, {})
    with pytest.raises(InvalidInput, match="set the update order to stop-first"):
        await adopt(lane.pool, VAULT, lane.engine, name)
    found = await services.inspect(lane.engine, name)
    assert found is not None
    made = {**found.spec, "UpdateConfig": {**found.spec["UpdateConfig"], "Order": "stop-first"}}
    await services.update(lane.engine, found, made, {})
    stack = Lane(lane.pool, lane.engine, await adopt(lane.pool, VAULT, lane.engine, name), lane.endpoint)
    second = await push(on_the_hosts_network("v2", port), pushes.name())
    deployment = await stack.ask(Kind.DEPLOY)
    assert (deployment.status, deployment.digest) == (Status.SUCCEEDED, second), deployment.reason
    now = await services.inspect(lane.engine, name)
    assert now is not None
    assert now.spec["TaskTemplate"]["LogDriver"] == wanted["TaskTemplate"]["LogDriver"]  # type: ignore[index]


async def test_a_port_of_another_service_is_named_and_nothing_changes(lane: Lane, pushes: Pushes) -> None:
    await pushes("v1")
    await lane.ask(Kind.DEPLOY)
    before = await service_of(lane)
    other = {
        "Name": "other",
        "TaskTemplate": {"ContainerSpec": {"Image": pushes.name()}},
        "Mode": {"Replicated": {"Replicas": 0}},
        "EndpointSpec": {"Ports": [{"TargetPort": 1, "PublishedPort": 18081}]},
    }
    await services.create(lane.engine, other, {})
    await lane.set(configuration=QUICK | {"ports": [{"targetPort": 8080, "publishedPort": 18081}]})
    failed = await lane.ask(Kind.DEPLOY)
    assert failed.reason is not None
    assert failed.reason.code is Code.PORT_TAKEN
    assert "the service other" in failed.reason.message
    assert (await service_of(lane)).spec == before.spec


async def restart(node: Node) -> None:
    """Do as systemctl restart docker does."""
    await node.dockerd.stop()
    await node.restart()


async def begun(lane: Lane, digest: str) -> None:
    async def look() -> bool | None:
        one = await services.inspect(lane.engine, f"app-{lane.application_id}")
        return (one is not None and one.labels[DIGEST] == digest) or None

    await until(look)


@pytest.mark.long
async def test_a_node_restart_does_not_fail_a_healthy_version(
    lane: Lane, pushes: Pushes, supervised_swarm: Supervised
) -> None:
    await pushes("v1")
    await lane.set(configuration=QUICK | {"replicas": 3, "stableWindow": 4})
    await lane.ask(Kind.DEPLOY)
    digest = await pushes("v2")
    await lane.set(configuration=QUICK | {"replicas": 3, "stableWindow": 4, "watch": 300})
    asked = asyncio.create_task(lane.ask(Kind.DEPLOY))
    await begun(lane, digest)
    await restart(supervised_swarm.node)
    deployment = await asked
    assert (deployment.status, deployment.digest) == (Status.SUCCEEDED, digest), deployment.reason
    await restart(supervised_swarm.node)

    async def three() -> bool | None:
        with suppress(Postponed):
            return [task.labels[DIGEST] for task in await running(lane)] == [digest] * 3 or None
        return None

    await until(three)
    runtime = await runtime_of(lane)
    assert await runtime.failure_reason((await service_of(lane)).service_id, 0) is None
    async with lane.pool.acquire() as connection:
        assert await watches.select_window_end(connection, deployment.deployment_id) is not None
        await watches.delete_watch(connection, lane.application_id)


async def test_a_service_removed_during_an_update_is_created_again(lane: Lane, pushes: Pushes) -> None:
    await pushes("v1")
    await lane.set(configuration=QUICK | {"stableWindow": 2})
    await lane.ask(Kind.DEPLOY)
    digest = await pushes("v2")
    asked = asyncio.create_task(lane.ask(Kind.DEPLOY))
    await begun(lane, digest)
    await services.remove(lane.engine, await service_of(lane))
    deployment = await asked
    assert (deployment.status, deployment.digest) == (Status.SUCCEEDED, digest), deployment.reason
    assert [task.labels[DIGEST] for task in await running(lane)] == [digest]


@pytest.mark.long
async def test_a_removed_service_with_a_bad_version_is_restored_from_the_record(lane: Lane, pushes: Pushes) -> None:
    first = await pushes("v1")
    await lane.set(configuration=QUICK | {"stableWindow": 2})
    good = await lane.ask(Kind.DEPLOY)
    before = await service_of(lane)
    runtime = await runtime_of(lane)
    async with lane.pool.acquire() as connection:
        former = await versions.select_serving(connection, VAULT, runtime.application)
    runtime = replace(runtime, former=former)
    second = await pushes("v2")
    swap = await runtime.create(Version(Reference.parse(pushes.name()), second, "bad", 1), await runtime.serving())
    await runtime.switch_over(swap)
    assert not await runtime.is_superseded(swap)
    assert await runtime.is_superseded(replace(swap, deployment_id="of a backup"))
    await services.remove(lane.engine, await service_of(lane))
    await runtime.put_back(swap)
    serving = await runtime.serving()
    assert serving is not None
    await runtime.check_restored(swap, serving)
    assert (serving.digest, serving.deployment_id) == (first, good.deployment_id)
    assert (await service_of(lane)).service_id != before.service_id
    assert (await lane.ask(Kind.DEPLOY)).digest == second


@pytest.mark.long
async def test_an_image_that_somebody_set_is_not_reported_as_deployed(lane: Lane, pushes: Pushes) -> None:
    other = f"{pushes.address}/{pushes.path}@{await pushes('other', tag='other')}"
    await pushes("v1")
    await lane.set(configuration=QUICK | {"stableWindow": 2})
    await lane.ask(Kind.DEPLOY)
    digest = await pushes("v2")
    asked = asyncio.create_task(lane.ask(Kind.DEPLOY))
    await begun(lane, digest)

    async def set_image() -> None:
        service = await service_of(lane)
        template = service.spec["TaskTemplate"]
        container = {**template["ContainerSpec"], "Image": other}
        made = {**service.spec, "TaskTemplate": {**template, "ContainerSpec": container}}
        await services.update(lane.engine, service, made, {})

    await set_image()
    deployment = await asked
    assert deployment.status is Status.FAILED
    assert deployment.reason is not None
    assert f"somebody else set the image of app-{lane.application_id} to {other}" in deployment.reason.message
    assert (await service_of(lane)).image == other  # theirs is left
    again = await lane.ask(Kind.DEPLOY)
    assert (again.status, again.digest) == (Status.SUCCEEDED, digest), again.reason
    await set_image()  # at rest
    assert (await lane.ask(Kind.REDEPLOY)).status is Status.SUCCEEDED
    assert [task.image for task in await running(lane)] == [f"{pushes.name()}@{digest}"]


async def test_a_rollback_runs_the_recorded_version_again(lane: Lane, pushes: Pushes) -> None:
    first = await pushes("v1")
    await lane.ask(Kind.DEPLOY)
    await pushes("v2")
    await lane.ask(Kind.DEPLOY)
    back = await lane.roll_back()
    assert back.status is Status.SUCCEEDED, back.reason
    assert [task.labels[DIGEST] for task in await running(lane)] == [first]


async def test_a_spec_is_sent_once_and_overwrites_no_concurrent_update(lane: Lane, pushes: Pushes) -> None:
    digest = await pushes("v1")
    await lane.ask(Kind.DEPLOY)
    runtime = await runtime_of(lane)
    reference = Reference.parse(pushes.name())
    swap = await runtime.create(Version(reference, digest, "another", 1), await runtime.serving())
    before = await service_of(lane)
    await runtime.switch_over(swap)
    sent = await service_of(lane)
    await runtime.switch_over(swap)
    assert (await service_of(lane)).spec == sent.spec != before.spec
    with pytest.raises(Postponed, match="changed by somebody else"):
        await services.update(lane.engine, before, before.spec, {})
    await runtime.put_back(swap)
    assert (await service_of(lane)).spec["Labels"] == before.spec["Labels"]


@pytest.mark.long
async def test_an_interrupted_restart_of_an_update_is_sent_again(lane: Lane, pushes: Pushes) -> None:
    digest = await pushes("v1")
    await lane.ask(Kind.DEPLOY)
    runtime = await runtime_of(lane)
    version = Version(Reference.parse(pushes.name()), digest, "another", 1)
    swap = await runtime.create(version, await runtime.serving())
    await runtime.switch_over(swap)
    sent = await service_of(lane)
    await services.update(lane.engine, sent, sent.spec, {}, rollback=True)
    assert (await service_of(lane)).spec != sent.spec
    await runtime.switch_over(swap)
    assert (await service_of(lane)).spec == sent.spec
    await runtime.wait_until_ready(swap)


@pytest.mark.long
async def test_a_task_that_dies_within_the_watch_window_brings_the_former_version_back(
    lane: Lane, pushes: Pushes
) -> None:
    await lane.set(configuration=QUICK | {"watch": 300})
    digest = await pushes("v1")
    await lane.ask(Kind.DEPLOY)
    await pushes("v2")
    watched = await lane.ask(Kind.DEPLOY)
    name = orjson.dumps({"label": [f"com.docker.swarm.service.name=app-{lane.application_id}"]}).decode()
    (task,) = await lane.engine.call("GET", "containers/json", params={"filters": name})
    await lane.inside(task["Id"], "kill", "1")
    back = await lane.went_back()
    assert (back.digest, back.forced) == (digest, False)
    assert watched.deployment_id in back.description
    assert (await service_of(lane)).labels[DIGEST] == digest
    async with lane.pool.acquire() as connection:
        await watches.delete_watch(connection, lane.application_id)


async def test_a_service_of_a_stack_is_adopted_replaced_and_restored(lane: Lane, pushes: Pushes) -> None:
    first = await pushes("v1")
    name = f"stack_{lane.application_id}"
    wanted = {
        "Name": name,
        "Labels": {"com.docker.stack.namespace": "stack"},
        "TaskTemplate": {
            "ContainerSpec": {"Image": f"{pushes.name()}@{first}", "Env": ["SECRET=1"], "StopGracePeriod": 10**9},
            "RestartPolicy": {"Delay": 100_000_000},
        },
        "Mode": {"Replicated": {"Replicas": 2}},
        "UpdateConfig": {"Parallelism": 2, "Monitor": 300_000_000},
    }
    await services.create(lane.engine, wanted, {})

    async def two() -> Service | None:
        found = await services.inspect(lane.engine, name)
        assert found is not None
        up = [task for task in await services.tasks(lane.engine, found) if task.state == "running"]
        return found if len(up) == 2 else None

    service = await until(two)
    (task, *_) = await services.tasks(lane.engine, service)
    with pytest.raises(Conflict, match=f"a task of the service {name}"):
        await adopt(lane.pool, VAULT, lane.engine, task.container_id)
    application_id = await adopt(lane.pool, VAULT, lane.engine, name)
    stack = Lane(lane.pool, lane.engine, application_id, lane.endpoint)
    assert (await stack.ask(Kind.DEPLOY)).status is Status.UNCHANGED
    assert await services.inspect(lane.engine, name) == service

    second = await pushes("v2")
    deployment = await stack.ask(Kind.DEPLOY)
    assert (deployment.status, deployment.digest) == (Status.SUCCEEDED, second), deployment.reason
    now = await until(two)
    container = now.spec["TaskTemplate"]["ContainerSpec"]
    assert (now.service_id, container["Env"], container["StopGracePeriod"]) == (service.service_id, ["SECRET=1"], 10**9)
    assert now.labels["com.docker.stack.namespace"] == "stack"

    back = await stack.roll_back()
    assert (back.status, back.digest) == (Status.SUCCEEDED, first), back.reason
    with pytest.raises(Conflict, match="belongs to the application"):
        await adopt(lane.pool, VAULT, lane.engine, name)


async def scaled(lane: Lane, replicas: int) -> None:
    """Scale as anybody may, without a login: what the nodes have stays theirs."""
    service = await service_of(lane)
    made = {**service.spec, "Mode": {"Replicated": {"Replicas": replicas}}}
    await services.update(lane.engine, service, made, {})

    async def look() -> bool | None:
        found = await services.tasks(lane.engine, service)
        up = [task for task in found if task.state == "running"]
        return True if len(up) == replicas and (replicas or convergence.all_ended(found)) else None

    await until(look)


@pytest.mark.long
async def test_expiring_credentials_are_renewed_in_the_spec_without_a_restart(
    lane: Lane, supervised_swarm: Supervised, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And what is in the spec is what a node pulls with, long after the token of the deployment has ended."""
    await filled(tmp_path, "team/web", "v1")
    async with amazon() as (aws, url), gate(tmp_path, aws, supervised_swarm.spare) as (guard, address):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        keys = {"access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "wJalrXUtnFEMI"}
        given = {"registry_url": address, "registry_type": "ecr", "region": "eu-central-1", **keys}
        async with lane.pool.acquire() as connection:
            ours = Registration.parse({"registry_name": "Ours", **given})
            await registries.insert_registry(connection, VAULT, ours)
        await lane.set(docker_image=f"{address}/team/web:v1")
        assert (await lane.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
        sent, tasks = await service_of(lane), await running(lane)

        aws.expire()
        reached = ReachedEngine(lane.engine, await lane.engine.identify(), [None])
        async with registry_client.connect(frozenset({parse_domain(address)})) as client:
            await renew_logins(lane.pool, VAULT, client, reached)
            renewed = await service_of(lane)
            await renew_logins(lane.pool, VAULT, client, reached)
        assert renewed.labels[LOGIN_UNTIL] > sent.labels[LOGIN_UNTIL]
        assert renewed.update_state == ""
        assert (await service_of(lane)).version == renewed.version > sent.version
        assert [task.task_id for task in await running(lane)] == [task.task_id for task in tasks]

        await scaled(lane, 0)
        for container in await lane.engine.call("GET", "containers/json", params={"all": 1}):
            await lane.engine.call("DELETE", f"containers/{container['Id']}", params={"force": 1})
        for image in await lane.engine.call("GET", "images/json"):
            if any(name.startswith(address) for name in image["RepoDigests"]):
                await lane.engine.call("DELETE", f"images/{image['Id']}", params={"force": 1})
        guard.passed.clear()
        await scaled(lane, 1)
        assert set(guard.passed) == aws.good  # which is the one that was sent last


async def test_a_manual_change_of_a_service_is_observed_as_drift(lane: Lane, pushes: Pushes) -> None:
    async def until_it_is(state: State) -> None:
        async def look() -> bool | None:
            async with lane.pool.acquire() as connection:
                found = await observations.select_observations(connection, [lane.application_id])
            return (found.get(lane.application_id) is not None and found[lane.application_id].state is state) or None

        await until(look, within=60)

    digest = await pushes("v1")
    await lane.ask(Kind.DEPLOY)
    await until_it_is(State.RUNNING)
    service = await service_of(lane)
    other = await pushes("v2", tag="other")
    made = orjson.loads(orjson.dumps(service.spec).decode().replace(str(digest), str(other)))
    made["Labels"] = service.spec["Labels"]
    await services.update(lane.engine, service, made, {})
    await until_it_is(State.DRIFTED)
    await services.remove(lane.engine, await service_of(lane))
    await until_it_is(State.MISSING)
