"""Tests deployments of Swarm services on a real Swarm."""

from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from gateway.admin.adoption import adopt
from gateway.cli.demo.images import Image, push
from gateway.cli.demo.process import free_port, until
from gateway.docker.engine import containers, services
from gateway.docker.engine.client import ReachedEngine
from gateway.docker.engine.labels import DEPLOYMENT, DIGEST, LOGIN_UNTIL
from gateway.docker.engine.services import Service
from gateway.docker.runtime import Version
from gateway.docker.snapshot import observe, take_snapshot
from gateway.docker.swarm import convergence, file_secrets
from gateway.docker.swarm.runtime import ServiceRuntime
from gateway.model.deployments import Kind, Status
from gateway.model.errors import Code, Conflict, Failed, InvalidInput, Postponed
from gateway.model.observations import State
from gateway.model.reference import Reference, parse_domain
from gateway.model.registries import Registration
from gateway.queue import enqueue
from gateway.registry import client as registry_client
from gateway.store import applications, observations, registries, versions
from gateway.worker.login_renewal import renew_logins
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, DeployedApp, interrupt_swap
from tests.support.swarm_application import QUICK, app, pushes, running, runtime_of, service_of, supervised_swarm
from tests.support.swarm_nodes import Supervised
from tests.support.token_registries import amazon, filled, gate

__all__ = ["app", "pushes", "supervised_swarm"]  # fixtures


async def test_on_a_manager_it_runs_as_a_service_pinned_by_digest(app: DeployedApp, pushes: Pushes) -> None:
    digest = await pushes("v1")
    deployment = await app.ask(Kind.DEPLOY)
    assert (deployment.status, deployment.digest) == (Status.SUCCEEDED, digest), deployment.reason
    service = await service_of(app)
    assert service.spec["TaskTemplate"]["ContainerSpec"]["Image"] == f"{pushes.name()}@{digest}"
    assert service.labels[DEPLOYMENT] == deployment.deployment_id
    assert service.spec["UpdateConfig"]["FailureAction"] == "rollback"
    assert len(await running(app)) == 1
    assert (await app.ask(Kind.DEPLOY)).status is Status.UNCHANGED


async def test_a_deployment_succeeds_only_after_every_replica_is_replaced(app: DeployedApp, pushes: Pushes) -> None:
    at_once = {"replicas": 3, "updateConfigSwarm": {"Parallelism": 2, "Monitor": 300_000_000}}
    await app.set(configuration=QUICK | at_once)
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    digest = await pushes("v2")
    deployment = await app.ask(Kind.DEPLOY)
    assert deployment.status is Status.SUCCEEDED, deployment.reason
    assert [task.labels[DIGEST] for task in await running(app)] == [digest] * 3
    assert (await service_of(app)).update_state == "completed"


async def test_the_production_example_converges_as_three_tasks_with_its_limits_and_its_port(
    app: DeployedApp, pushes: Pushes
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
    await app.set(configuration=QUICK | production, environment=variables)
    deployment = await app.ask(Kind.DEPLOY)
    assert deployment.status is Status.SUCCEEDED, deployment.reason
    assert len(await running(app)) == 3
    found = (await service_of(app)).spec
    task = found["TaskTemplate"]
    assert task["Resources"]["Limits"] == {"MemoryBytes": 2 * 1024**3, "NanoCPUs": 2 * 10**9}
    assert task["ContainerSpec"]["Env"] == ["DATABASE_URL=postgresql://...", "REDIS_URL=redis://..."]
    (published,) = found["EndpointSpec"]["Ports"]
    assert published == {"Protocol": "tcp", "TargetPort": 3000, "PublishedPort": port, "PublishMode": "ingress"}
    (inside, *_) = [await containers.inspect_raw(app.engine, one.container_id) for one in await running(app)]
    assert inside is not None
    assert (inside["HostConfig"]["Memory"], inside["HostConfig"]["NanoCpus"]) == (2 * 1024**3, 2 * 10**9)


@pytest.mark.parametrize("sent", [True, pytest.param(False, marks=pytest.mark.long)])
async def test_a_resumed_update_runs_and_records_the_configuration_that_it_began_with(
    app: DeployedApp, pushes: Pushes, monkeypatch: pytest.MonkeyPatch, sent: bool
) -> None:
    await pushes("v1")
    await app.set(environment="A=1")
    await app.ask(Kind.DEPLOY)
    await app.set(environment="A=2")
    interrupt_swap(monkeypatch, app, ServiceRuntime, sent=sent, environment="A=3")
    resumed = await app.ask(Kind.DEPLOY)
    assert resumed.status is Status.SUCCEEDED, resumed.reason
    assert (await service_of(app)).spec["TaskTemplate"]["ContainerSpec"]["Env"] == ["A=2"]
    async with app.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, app.application_id)
        serving = await versions.select_serving(connection, VAULT, application)
    assert serving is not None
    assert (serving.deployment_id, serving.application.environment) == (resumed.deployment_id, "A=2")


@pytest.mark.long
async def test_a_missing_host_folder_leaves_the_service_unchanged(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    before = await service_of(app)
    binds = [{"type": "bind", "source": "/nowhere/web", "target": "/data"}]
    await app.set(configuration=QUICK | {"mounts": [*binds, {"type": "bind", "source": "/etc", "target": "/etc2"}]})
    failed = await app.ask(Kind.DEPLOY)
    assert failed.reason is not None
    assert (failed.status, failed.reason.code) == (Status.FAILED, Code.VOLUME_MISSING)
    assert "the path /nowhere/web to mount does not exist" in failed.reason.message
    assert (await service_of(app)).version == before.version
    await app.set(configuration=QUICK | {"mounts": [{"type": "bind", "source": "/etc", "target": "/etc2"}]})
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED


@pytest.mark.long
async def test_a_file_is_a_secret_that_changes_with_it_and_goes_when_no_spec_names_it(
    app: DeployedApp, pushes: Pushes
) -> None:
    image = Image("v1", config={"Entrypoint": ["/bin/busybox", "sh", "-c"], "Env": ["PATH=/bin"]})
    await push(image, pushes.name())

    async def deploy(content: str) -> str:
        """Return what the tasks of the new version have logged, which is the file."""
        mounts = [{"type": "file", "mountPath": "/etc/settings/web.conf", "content": content}]
        script = "/bin/busybox cat /etc/settings/web.conf; trap exit TERM; while :; do /bin/busybox sleep 0.1; done"
        await app.set(configuration=QUICK | {"mounts": mounts, "args": [script], "readOnly": True})
        deployment = await app.ask(Kind.DEPLOY)
        assert deployment.status is Status.SUCCEEDED, deployment.reason
        (task,) = await running(app)
        return await services.last_lines(app.engine, task)

    async def secrets() -> int:
        return len(await app.engine.call("GET", "secrets"))

    assert await deploy("first\n") == "first\n"
    assert await secrets() == 1
    assert await deploy("second\n") == "second\n"
    assert await secrets() == 2  # the Swarm may go back to the spec before
    assert await deploy("third\n") == "third\n"
    assert await secrets() == 2
    assert "third" not in str((await service_of(app)).spec)
    await (await runtime_of(app)).remove()
    assert await secrets() == 0


@pytest.mark.long
async def test_another_installation_neither_adopts_nor_removes_a_service_and_its_secrets(
    app: DeployedApp, pushes: Pushes
) -> None:
    await pushes("v1")
    mounts = [{"type": "file", "mountPath": "/etc/web.conf", "content": "x"}]
    await app.set(configuration=QUICK | {"mounts": mounts})
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    ours = await runtime_of(app)
    another = replace(
        ours, application=replace(ours.application, installation_id="another", unlabelled_deployments=frozenset())
    )
    with pytest.raises(Failed, match="another gateway, with a database of its own") as refused:
        await another.serving()
    assert refused.value.reason.code is Code.NAME_TAKEN
    assert await file_secrets.ensure(app.engine, another.application) != await file_secrets.ensure(
        app.engine, ours.application
    )
    await file_secrets.prune(app.engine, another.application)
    assert len(await app.engine.call("GET", "secrets")) == 1
    assert (await app.ask(Kind.DEPLOY)).status is Status.UNCHANGED
    await ours.remove()


@pytest.mark.long
async def test_stopped_means_no_task_started_all_again_and_deleted_no_service(app: DeployedApp, pushes: Pushes) -> None:
    await app.set(configuration=QUICK | {"replicas": 2})
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    assert (await app.ask(Kind.STOP)).status is Status.SUCCEEDED
    assert await running(app) == []
    assert (await app.ask(Kind.START)).status is Status.SUCCEEDED
    assert len(await running(app)) == 2
    async with app.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, app.application_id)
    await enqueue.request_state(app.pool, application, Kind.DELETE, title="asked")

    async def gone() -> bool | None:
        async with app.pool.acquire() as connection:
            row = await connection.fetchval("SELECT 1 FROM applications WHERE application_id = $1", app.application_id)
        return None if row else True

    assert await until(gone)
    assert await services.inspect(app.engine, f"app-{app.application_id}") is None
    assert not any(one.running for one in await containers.list_labelled(app.engine, app.application_id))


@pytest.mark.long
async def test_a_host_port_forces_stop_first(app: DeployedApp, pushes: Pushes) -> None:
    port = {"targetPort": 8080, "publishedPort": 18080, "publishMode": "host"}
    await app.set(configuration=QUICK | {"ports": [port]})
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    digest = await pushes("v2")
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    assert (await service_of(app)).spec["UpdateConfig"]["Order"] == "stop-first"
    assert [task.labels[DIGEST] for task in await running(app)] == [digest]


def on_the_hosts_network(version: str, port: int) -> Image:
    script = f'#!/bin/busybox sh\ntrap "kill $!; exit 0" TERM\n/bin/busybox httpd -f -p {port} -h /www &\nwait $!\n'
    return Image(version, files={"entry": script.encode()})


@pytest.mark.long
async def test_a_service_on_the_host_network_is_updated_stop_first(app: DeployedApp, pushes: Pushes) -> None:
    await app.set(configuration=QUICK | {"networks": ["host"]})
    port, digest = free_port(), None
    for version in ("v1", "v2"):
        digest = await push(on_the_hosts_network(version, port), pushes.name())
        deployment = await app.ask(Kind.DEPLOY)
        assert deployment.status is Status.SUCCEEDED, deployment.reason
    assert [task.labels[DIGEST] for task in await running(app)] == [digest]


@pytest.mark.long
async def test_an_adopted_service_on_the_hosts_network_is_replaced_or_refused_at_once(
    app: DeployedApp, pushes: Pushes
) -> None:
    port, name = free_port(), f"host_{app.application_id}"
    first = await push(on_the_hosts_network("v1", port), pushes.name())
    host = (await app.engine.call("GET", "networks/host", params={"scope": "swarm"}))["Id"]
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
    await services.create(app.engine, wanted, {})
    with pytest.raises(InvalidInput, match="set the update order to stop-first"):
        await adopt(app.pool, VAULT, app.engine, name)
    found = await services.inspect(app.engine, name)
    assert found is not None
    made = {**found.spec, "UpdateConfig": {**found.spec["UpdateConfig"], "Order": "stop-first"}}
    await services.update(app.engine, found, made, {})
    stack = DeployedApp(app.pool, app.engine, await adopt(app.pool, VAULT, app.engine, name), app.endpoint)
    second = await push(on_the_hosts_network("v2", port), pushes.name())
    deployment = await stack.ask(Kind.DEPLOY)
    assert (deployment.status, deployment.digest) == (Status.SUCCEEDED, second), deployment.reason
    now = await services.inspect(app.engine, name)
    assert now is not None
    assert now.spec["TaskTemplate"]["LogDriver"] == wanted["TaskTemplate"]["LogDriver"]  # type: ignore[index]


async def test_a_port_of_another_service_is_named_and_nothing_changes(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    before = await service_of(app)
    other = {
        "Name": "other",
        "TaskTemplate": {"ContainerSpec": {"Image": pushes.name()}},
        "Mode": {"Replicated": {"Replicas": 0}},
        "EndpointSpec": {"Ports": [{"TargetPort": 1, "PublishedPort": 18081}]},
    }
    await services.create(app.engine, other, {})
    await app.set(configuration=QUICK | {"ports": [{"targetPort": 8080, "publishedPort": 18081}]})
    failed = await app.ask(Kind.DEPLOY)
    assert failed.reason is not None
    assert failed.reason.code is Code.PORT_TAKEN
    assert "the service other" in failed.reason.message
    assert (await service_of(app)).spec == before.spec


@pytest.mark.long
async def test_a_rollback_runs_the_recorded_version_again(app: DeployedApp, pushes: Pushes) -> None:
    first = await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await pushes("v2")
    await app.ask(Kind.DEPLOY)
    back = await app.roll_back()
    assert back.status is Status.SUCCEEDED, back.reason
    assert [task.labels[DIGEST] for task in await running(app)] == [first]


async def test_a_spec_is_sent_once_and_overwrites_no_concurrent_update(app: DeployedApp, pushes: Pushes) -> None:
    digest = await pushes("v1")
    await app.ask(Kind.DEPLOY)
    runtime = await runtime_of(app)
    reference = Reference.parse(pushes.name())
    swap = await runtime.create(Version(reference, digest, "another", 1), await runtime.serving())
    before = await service_of(app)
    await runtime.switch_over(swap)
    sent = await service_of(app)
    await runtime.switch_over(swap)
    assert (await service_of(app)).spec == sent.spec != before.spec
    with pytest.raises(Postponed, match="changed by somebody else"):
        await services.update(app.engine, before, before.spec, {})
    await runtime.put_back(swap)
    assert (await service_of(app)).spec["Labels"] == before.spec["Labels"]


@pytest.mark.long
async def test_an_interrupted_restart_of_an_update_is_sent_again(app: DeployedApp, pushes: Pushes) -> None:
    digest = await pushes("v1")
    await app.ask(Kind.DEPLOY)
    runtime = await runtime_of(app)
    version = Version(Reference.parse(pushes.name()), digest, "another", 1)
    swap = await runtime.create(version, await runtime.serving())
    await runtime.switch_over(swap)
    sent = await service_of(app)
    await services.update(app.engine, sent, sent.spec, {}, rollback=True)
    assert (await service_of(app)).spec != sent.spec
    await runtime.switch_over(swap)
    assert (await service_of(app)).spec == sent.spec
    await runtime.wait_until_ready(swap)


@pytest.mark.long
async def test_a_service_of_a_stack_is_adopted_replaced_and_restored(app: DeployedApp, pushes: Pushes) -> None:
    first = await pushes("v1")
    name = f"stack_{app.application_id}"
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
    await services.create(app.engine, wanted, {})

    async def two() -> Service | None:
        found = await services.inspect(app.engine, name)
        assert found is not None
        up = [task for task in await services.tasks(app.engine, found) if task.state == "running"]
        return found if len(up) == 2 else None

    service = await until(two)
    (task, *_) = await services.tasks(app.engine, service)
    with pytest.raises(Conflict, match=f"a task of the service {name}"):
        await adopt(app.pool, VAULT, app.engine, task.container_id)
    application_id = await adopt(app.pool, VAULT, app.engine, name)
    stack = DeployedApp(app.pool, app.engine, application_id, app.endpoint)
    assert (await stack.ask(Kind.DEPLOY)).status is Status.UNCHANGED
    assert await services.inspect(app.engine, name) == service

    second = await pushes("v2")
    deployment = await stack.ask(Kind.DEPLOY)
    assert (deployment.status, deployment.digest) == (Status.SUCCEEDED, second), deployment.reason
    now = await until(two)
    container = now.spec["TaskTemplate"]["ContainerSpec"]
    assert (now.service_id, container["Env"], container["StopGracePeriod"]) == (service.service_id, ["SECRET=1"], 10**9)
    assert now.labels["com.docker.stack.namespace"] == "stack"

    back = await stack.roll_back()
    assert (back.status, back.digest) == (Status.SUCCEEDED, first), back.reason
    identity = await app.engine.identify()
    async with app.pool.acquire() as connection:
        (expected,), _ = await observations.select_expected(
            connection, identity.engine_id, [None], application_id=application_id
        )
    seen = observe(expected, await take_snapshot(app.engine, identity, {}))
    assert (seen.state, seen.detail) == (State.RUNNING, "")
    with pytest.raises(Conflict, match="belongs to the application"):
        await adopt(app.pool, VAULT, app.engine, name)


async def scaled(app: DeployedApp, replicas: int) -> None:
    """Scale as anybody may, without a login: what the nodes have stays theirs."""
    service = await service_of(app)
    made = {**service.spec, "Mode": {"Replicated": {"Replicas": replicas}}}
    await services.update(app.engine, service, made, {})

    async def look() -> bool | None:
        found = await services.tasks(app.engine, service)
        up = [task for task in found if task.state == "running"]
        return True if len(up) == replicas and (replicas or convergence.all_ended(found)) else None

    await until(look)


@pytest.mark.long
async def test_expiring_credentials_are_renewed_in_the_spec_without_a_restart(
    app: DeployedApp, supervised_swarm: Supervised, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And what is in the spec is what a node pulls with, long after the token of the deployment has ended."""
    await filled(tmp_path, "team/web", "v1")
    async with amazon() as (aws, url), gate(tmp_path, aws, supervised_swarm.spare) as (guard, address):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        keys = {"access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "wJalrXUtnFEMI"}
        given = {"registry_url": address, "registry_type": "ecr", "region": "eu-central-1", **keys}
        async with app.pool.acquire() as connection:
            ours = Registration.parse({"registry_name": "Ours", **given})
            await registries.insert_registry(connection, VAULT, ours)
        await app.set(docker_image=f"{address}/team/web:v1")
        assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
        sent, tasks = await service_of(app), await running(app)

        aws.expire()
        reached = ReachedEngine(app.engine, await app.engine.identify(), [None])
        async with registry_client.connect(frozenset({parse_domain(address)})) as client:
            await renew_logins(app.pool, VAULT, client, reached)
            renewed = await service_of(app)
            await renew_logins(app.pool, VAULT, client, reached)
        assert renewed.labels[LOGIN_UNTIL] > sent.labels[LOGIN_UNTIL]
        assert renewed.update_state == ""
        assert (await service_of(app)).version == renewed.version > sent.version
        assert [task.task_id for task in await running(app)] == [task.task_id for task in tasks]

        await scaled(app, 0)
        for container in await app.engine.call("GET", "containers/json", params={"all": 1}):
            await app.engine.call("DELETE", f"containers/{container['Id']}", params={"force": 1})
        for image in await app.engine.call("GET", "images/json"):
            if any(name.startswith(address) for name in image["RepoDigests"]):
                await app.engine.call("DELETE", f"images/{image['Id']}", params={"force": 1})
        guard.passed.clear()
        await scaled(app, 1)
        assert set(guard.passed) == aws.good  # which is the one that was sent last


@pytest.mark.long
async def test_a_manual_change_of_a_service_is_observed_as_drift(app: DeployedApp, pushes: Pushes) -> None:
    async def until_it_is(state: State) -> None:
        async def look() -> bool | None:
            async with app.pool.acquire() as connection:
                found = await observations.select_observations(connection, [app.application_id])
            return (found.get(app.application_id) is not None and found[app.application_id].state is state) or None

        await until(look, within=60)

    digest = await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await until_it_is(State.RUNNING)
    service = await service_of(app)
    other = await pushes("v2", tag="other")
    made = orjson.loads(orjson.dumps(service.spec).decode().replace(str(digest), str(other)))
    made["Labels"] = service.spec["Labels"]
    await services.update(app.engine, service, made, {})
    await until_it_is(State.DRIFTED)
    await services.remove(app.engine, await service_of(app))
    await until_it_is(State.MISSING)
