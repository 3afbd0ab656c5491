"""Tests rollouts of containers on a real engine."""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any
from unittest.mock import AsyncMock

import pytest

from gateway.cli.demo.images import Behaviour, Image, push
from gateway.cli.demo.process import free_port, until
from gateway.docker import application_logs
from gateway.docker.container import preflight, probes
from gateway.docker.engine import containers, images
from gateway.docker.engine.labels import APPLICATION
from gateway.model.deployments import Deployment, Kind, Status, Step
from gateway.model.errors import Code, Conflict, Failed
from gateway.model.reference import Reference
from gateway.queue import enqueue
from gateway.store import applications, deployments, environments, projects
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, DeployedApp


async def test_a_first_deployment_runs_the_image_under_the_applications_name(app: DeployedApp, pushes: Pushes) -> None:
    digest = await pushes("v1")
    deployment = await app.ask(Kind.DEPLOY)
    assert (deployment.status, deployment.digest) == (Status.SUCCEEDED, digest)
    assert (await app.steps(deployment)) == [
        Step.RESOLVE,
        Step.PULL,
        Step.VERIFY,
        Step.CREATE,
        Step.PROVE,
        Step.SWAP,
        Step.DRAIN,
        Step.COMMIT,
    ]
    assert (await app.serving()).healthy


async def test_the_configuration_reaches_the_container(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1")
    port, another = free_port(), free_port()
    await app.set(
        environment="A=1\nB=two words",
        configuration={
            "memoryLimit": "64MB",
            "cpuLimit": "0.5",
            "ports": [{"targetPort": 8080, "publishedPort": one} for one in (port, another)],
            "volumes": [{"type": "volume", "source": f"data-{port}", "target": "/data"}],
            "args": ["one", "two three"],
            "labels": {"team": "web"},
        },
    )
    await app.ask(Kind.DEPLOY)
    found: dict[str, Any] = await app.engine.call("GET", f"containers/{(await app.serving()).container_id}/json")
    assert {"A=1", "B=two words"} <= set(found["Config"]["Env"])
    assert found["Config"]["Cmd"] == ["one", "two three"]
    assert found["Config"]["Labels"]["team"] == "web"
    assert (found["HostConfig"]["Memory"], found["HostConfig"]["NanoCpus"]) == (64 * 1024**2, 500_000_000)
    bound = [{"HostIp": "", "HostPort": str(one)} for one in (port, another)]
    assert found["HostConfig"]["PortBindings"] == {"8080/tcp": bound}
    assert [(mount["Name"], mount["Destination"]) for mount in found["Mounts"]] == [(f"data-{port}", "/data")]


async def test_the_replaced_container_is_kept_stopped_and_only_the_last(app: DeployedApp, pushes: Pushes) -> None:
    for version in ("v1", "v2", "v3"):
        await pushes(version)
        assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    serving, kept = await app.containers()
    assert serving.running
    assert not kept.running
    assert kept.restart_policy["Name"] == "no"


async def test_the_local_tag_points_at_what_runs(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await pushes("v2")
    await app.ask(Kind.DEPLOY)
    tagged = await app.engine.call("GET", f"images/{pushes.name()}/json")
    assert tagged["Id"] == (await app.serving()).image_id


async def test_a_deploy_of_the_running_version_changes_nothing(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    before = await app.serving()
    again = await app.ask(Kind.DEPLOY)
    assert again.status is Status.UNCHANGED
    assert again.reason is not None
    assert again.reason.code is Code.UP_TO_DATE
    assert (await app.serving()).container_id == before.container_id


async def test_a_changed_configuration_alone_replaces_the_container(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await app.set(environment="A=2")
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED


async def test_a_redeploy_right_after_the_push_restarts_once(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1")
    receipt = await app.pushed(pushes.name(), b"push")
    first = await app.ended(receipt.deployments[0].deployment_id)
    second = await app.ask(Kind.REDEPLOY)
    assert (first.status, second.status) == (Status.SUCCEEDED, Status.UNCHANGED)
    assert second.reason is not None
    assert second.reason.code is Code.SATISFIED


async def test_a_late_redeploy_replaces_the_container(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    before = await app.serving()
    async with app.pool.acquire() as connection:
        await connection.execute(
            "UPDATE deployments SET finished_at = finished_at - interval '2 minutes' WHERE application_id = $1",
            app.application_id,
        )
    assert (await app.ask(Kind.REDEPLOY)).status is Status.SUCCEEDED
    assert (await app.serving()).container_id != before.container_id


EITHER_ORDER = pytest.mark.parametrize(
    ("order", "ended"),
    [("stop-first", Status.ROLLED_BACK), pytest.param("start-first", Status.FAILED, marks=pytest.mark.long)],
)


@EITHER_ORDER
async def test_a_version_that_exits_leaves_the_old_one_serving_and_reports_its_last_log_lines(
    app: DeployedApp, pushes: Pushes, order: str, ended: Status
) -> None:
    await app.set(configuration={"order": order})
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    before = await app.serving()
    digest = await pushes("v2", behaviour=Behaviour.EXITS)
    failed = await app.ask(Kind.DEPLOY)
    assert failed.status is ended
    assert await images.inspect(app.engine, f"{Reference.parse(pushes.name()).repository}@{digest}") is None
    assert failed.reason is not None
    assert failed.reason.code is Code.EXITED
    assert "boom: cannot reach the database" in failed.log
    after = await app.serving()
    assert (after.container_id, after.running) == (before.container_id, True)
    assert after.restart_policy == before.restart_policy
    assert len(await app.containers()) == 1


async def test_a_first_version_that_exits_fails_and_leaves_nothing(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1", behaviour=Behaviour.EXITS)
    assert (await app.ask(Kind.DEPLOY)).status is Status.FAILED
    assert await app.containers() == []


@pytest.mark.long
@EITHER_ORDER
async def test_an_unhealthy_version_fails_with_the_checks_output(
    app: DeployedApp, pushes: Pushes, order: str, ended: Status
) -> None:
    await app.set(configuration={"order": order})
    await pushes("v1", health="exit 0")
    await app.ask(Kind.DEPLOY)
    await pushes("v2", health="echo the cache is cold; exit 1")
    failed = await app.ask(Kind.DEPLOY)
    assert failed.status is ended
    assert failed.reason is not None
    assert failed.reason.code is Code.UNHEALTHY
    assert "the cache is cold (exit code 1)" in failed.reason.message
    assert (await app.serving()).running


@EITHER_ORDER
async def test_a_version_that_exits_during_the_window_fails(
    app: DeployedApp, pushes: Pushes, long_window: None, order: str, ended: Status
) -> None:
    await app.set(configuration={"order": order})
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await pushes("v2", behaviour=Behaviour.EXITS_LATER)
    assert (await app.ask(Kind.DEPLOY)).status is ended


async def test_a_missing_tag_changes_nothing(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    before = await app.serving()
    await app.set(docker_image=pushes.name("nope"))
    failed = await app.ask(Kind.DEPLOY)
    assert failed.status is Status.FAILED
    assert failed.reason is not None
    assert failed.reason.code is Code.NOT_FOUND
    assert before == await app.serving()


async def test_another_architecture_changes_nothing(app: DeployedApp, pushes: Pushes) -> None:
    await push(Image("v1", architecture="s390x"), pushes.name())
    failed = await app.ask(Kind.DEPLOY)
    assert failed.reason is not None
    assert failed.reason.code is Code.WRONG_ARCHITECTURE
    assert await app.containers() == []
    assert await app.steps(failed) == [Step.RESOLVE]  # nothing was pulled to find that out


async def test_a_closed_registry_makes_it_wait_and_say_why(app: DeployedApp) -> None:
    await app.set(docker_image=f"127.0.0.1:{free_port()}/app:v1")
    async with app.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, app.application_id)
    queued = await enqueue.request_deployment(app.pool, application, Kind.DEPLOY, title="asked")

    async def waits() -> Deployment | None:
        async with app.pool.acquire() as connection:
            found = await deployments.select_deployment(connection, queued)
        return found if found.status is Status.QUEUED and found.reason else None

    waiting = await until(waits)
    assert waiting.reason is not None
    assert waiting.reason.code is Code.REGISTRY_UNREACHABLE
    assert waiting.next_attempt_at > waiting.created_at


@pytest.mark.parametrize(
    ("foreseen", "ended"),
    [(True, Status.FAILED), pytest.param(False, Status.ROLLED_BACK, marks=pytest.mark.long)],
)
async def test_a_port_of_another_application_is_named_and_the_old_version_restored(
    app: DeployedApp, pushes: Pushes, monkeypatch: pytest.MonkeyPatch, foreseen: bool, ended: Status
) -> None:
    if not foreseen:  # it took the port after we looked
        monkeypatch.setattr(preflight, "check", AsyncMock())
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    before = await app.serving()
    port = free_port()
    body = {
        "Image": pushes.name(),
        "Labels": {APPLICATION: "another"},
        "HostConfig": {"PortBindings": {"8080/tcp": [{"HostPort": str(port)}]}},
    }
    async with AsyncExitStack() as stack:
        other = await containers.create(app.engine, f"other-{port}", body, {})
        stack.push_async_callback(containers.remove, app.engine, other)
        await containers.start(app.engine, other)
        await app.set(configuration={"ports": [{"targetPort": 8080, "publishedPort": port}]})
        failed = await app.ask(Kind.DEPLOY)
    assert failed.reason is not None
    assert failed.reason.code is Code.PORT_TAKEN
    assert f"port {port}/tcp is published by the container other-{port} of the application another" in (
        failed.reason.message
    )
    assert failed.status is ended
    after = await app.serving()
    assert (after.container_id, after.running) == (before.container_id, True)


async def test_its_own_port_is_not_another_process(app: DeployedApp, pushes: Pushes) -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "0.0.0.0", 0)  # noqa: S104 - the engine's ports are on all
    port = server.sockets[0].getsockname()[1]
    wanted = {"HostConfig": {"PortBindings": {"8080/tcp": [{"HostPort": str(port)}]}}}
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    # Between two starts of one that keeps exiting, the engine lists none of its ports.
    own = await containers.create(app.engine, f"own-{port}", {"Image": pushes.name(), **wanted}, {})
    async with server:
        await preflight.check(app.engine, wanted, [], serving=own)
        with pytest.raises(Failed, match=f"port {port}/tcp is taken by a process outside of Docker"):
            await preflight.check(app.engine, wanted, [], serving=None)
    await containers.remove(app.engine, own)


@pytest.mark.parametrize(("here", "ended"), [(True, Status.FAILED), (False, Status.ROLLED_BACK)])
async def test_a_port_of_another_process_is_reported_and_the_old_version_restored(
    app: DeployedApp, pushes: Pushes, monkeypatch: pytest.MonkeyPatch, here: bool, ended: Status
) -> None:
    # Of an engine elsewhere, only the start tells.
    monkeypatch.setattr(probes, "shares_host", AsyncMock(return_value=here))
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    before = await app.serving()
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "0.0.0.0", 0)  # noqa: S104 - the engine's ports are on all
    port = server.sockets[0].getsockname()[1]
    async with server:
        await app.set(configuration={"ports": [{"targetPort": 8080, "publishedPort": port}]})
        failed = await app.ask(Kind.DEPLOY)
    assert failed.status is ended
    assert failed.reason is not None
    assert failed.reason.code is Code.PORT_TAKEN
    assert f"ss -ltnp 'sport = :{port}'" in failed.reason.message
    after = await app.serving()
    assert (after.container_id, after.running) == (before.container_id, True)


async def test_a_missing_network_is_named_and_nothing_changes(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    before = await app.serving()
    async with AsyncExitStack() as stack:
        made = f"{app.application_id}_nowhere"
        await app.engine.call("POST", "networks/create", body={"Name": made})
        stack.push_async_callback(app.engine.call, "DELETE", f"networks/{made}")
        await app.set(configuration={"networks": ["nowhere"]})
        failed = await app.ask(Kind.DEPLOY)
    assert failed.reason is not None
    assert failed.reason.code is Code.NETWORK_MISSING
    assert f"no network 'nowhere'. It has: {made!r}. Create it: docker network create nowhere" in failed.reason.message
    assert before == await app.serving()


async def test_it_joins_all_its_networks(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1")
    async with AsyncExitStack() as stack:
        names = [f"{app.application_id}-{word}" for word in ("front", "back")]
        for name in names:
            await app.engine.call("POST", "networks/create", body={"Name": name})
            stack.push_async_callback(app.engine.call, "DELETE", f"networks/{name}")
        await app.set(configuration={"networks": names})
        assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
        serving = await app.serving()
        found = await app.engine.call("GET", f"containers/{serving.container_id}/json")
        joined = found["NetworkSettings"]["Networks"]
        await containers.remove(app.engine, serving.container_id)
    assert set(joined) == set(names)


async def test_a_container_of_somebody_else_is_not_changed(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await app.ask(Kind.STOP)
    for container in await app.containers():
        await containers.remove(app.engine, container.container_id)
    name = f"app-{app.application_id}"
    other = await containers.create(app.engine, name, {"Image": pushes.name()}, {})
    failed = await app.ask(Kind.DEPLOY)
    still = await containers.inspect(app.engine, name)
    await containers.remove(app.engine, other)
    assert failed.reason is not None
    assert failed.reason.code is Code.NAME_TAKEN
    assert still is not None
    assert still.container_id == other


async def test_stopped_means_stopped_until_it_is_started(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    assert (await app.ask(Kind.STOP)).status is Status.SUCCEEDED
    assert not (await app.serving()).running
    receipt = await app.pushed(pushes.name(), b"while stopped")
    assert [ignored.reason for ignored in receipt.ignored] == ["stopped"]
    assert (await app.ask(Kind.START)).status is Status.SUCCEEDED
    assert (await app.serving()).running


async def test_deleted_means_no_container_and_no_row(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    async with app.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, app.application_id)
    await enqueue.request_state(app.pool, application, Kind.DELETE, title="asked")

    async def gone() -> bool | None:
        async with app.pool.acquire() as connection:
            row = await connection.fetchval("SELECT 1 FROM applications WHERE application_id = $1", app.application_id)
        return None if row else True

    assert await until(gone)
    assert await app.containers() == []


@pytest.mark.parametrize("order", ["stop-first", pytest.param("start-first", marks=pytest.mark.long)])
async def test_a_rollback_starts_the_kept_container_again_and_keeps_the_other(
    app: DeployedApp, pushes: Pushes, order: str
) -> None:
    await app.set(configuration={"order": order})
    first = await pushes("v1")
    await app.ask(Kind.DEPLOY)
    before = await app.serving()
    await pushes("v2")
    await app.ask(Kind.DEPLOY)
    replaced = await app.serving()

    back = await app.roll_back()
    assert (back.status, back.digest) == (Status.SUCCEEDED, first)
    after = await app.serving()
    assert (after.container_id, after.restart_policy) == (before.container_id, before.restart_policy)
    assert [one.container_id for one in await app.containers() if not one.running] == [replaced.container_id]
    assert Step.CREATE not in await app.steps(back)

    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    assert (await app.serving()).labels["gateway.digest"] == replaced.labels["gateway.digest"]


@pytest.mark.long
async def test_a_rollback_after_a_redeploy_of_the_same_starts_the_kept_version_before(
    app: DeployedApp, pushes: Pushes
) -> None:
    first = await pushes("first")
    await app.ask(Kind.DEPLOY)
    former = (await app.serving()).container_id
    await pushes("second")
    await app.ask(Kind.DEPLOY)
    async with app.pool.acquire() as connection:
        await connection.execute("UPDATE deployments SET finished_at = finished_at - interval '1 hour'")
    assert (await app.ask(Kind.REDEPLOY)).status is Status.SUCCEEDED
    assert [one.container_id for one in await app.containers() if not one.running] == [former]
    back = await app.roll_back()
    assert (back.status, back.digest) == (Status.SUCCEEDED, first)
    assert (await app.serving()).container_id == former


@pytest.mark.long
async def test_a_rollback_recreates_a_version_that_is_no_longer_kept(app: DeployedApp, pushes: Pushes) -> None:
    await app.set(configuration={"kept": 0, "labels": {"team": "one"}})
    first = await pushes("v1")
    oldest = await app.ask(Kind.DEPLOY)
    await app.set(configuration={"kept": 0, "labels": {"team": "two"}})
    await pushes("v2")
    await app.ask(Kind.DEPLOY)
    assert len(await app.containers()) == 1
    await pushes("v3")
    await app.ask(Kind.DEPLOY)

    back = await app.roll_back(oldest.deployment_id)
    assert (back.status, back.digest) == (Status.SUCCEEDED, first)
    assert (await app.serving()).labels["team"] == "one"
    again = await app.roll_back(oldest.deployment_id)
    assert again.status is Status.UNCHANGED


async def test_a_rollback_without_a_former_version_fails(app: DeployedApp, pushes: Pushes) -> None:
    with pytest.raises(Conflict, match="no earlier version"):
        await app.roll_back()
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    with pytest.raises(Conflict, match="no earlier version"):
        await app.roll_back()


async def test_start_first_moves_name_and_aliases_without_a_gap(app: DeployedApp, pushes: Pushes) -> None:
    network = f"{app.application_id}-front"
    await app.engine.call("POST", "networks/create", body={"Name": network})
    try:
        await app.set(configuration={"networks": [network], "drain": 0})
        await pushes("v1")
        await app.ask(Kind.DEPLOY)
        name, answers = (await app.serving()).name, set()
        asking = await _asks(app, network, name, pushes.name())
        for version in ("v2", "v3"):
            await pushes(version)
            assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
        answers = set((await containers.last_lines(app.engine, asking)).split())
        await containers.remove(app.engine, asking)
    finally:
        for container in await app.containers():
            await containers.remove(app.engine, container.container_id)
        await app.engine.call("DELETE", f"networks/{network}")
    assert "lost" not in answers
    assert "asked" in answers


async def _asks(app: DeployedApp, network: str, name: str, image: str) -> str:
    """Run a container that keeps resolving a name, and says when nobody answers to it."""
    look = f"/bin/busybox nslookup {name} 127.0.0.11 >/dev/null"
    # Without a pause it takes a whole processor from what is tested.
    script = f"{look} && echo asked; while :; do {look} || echo lost; /bin/busybox usleep 5000; done"
    body = {
        "Image": image,
        "Entrypoint": ["/bin/busybox", "sh", "-c", script],
        "HostConfig": {"NetworkMode": network, "LogConfig": {"Type": "json-file"}},
    }
    asking = await containers.create(app.engine, f"{name}-asks", body, {network: {}})
    await containers.start(app.engine, asking)
    return asking


@pytest.mark.long
async def test_an_image_that_serves_is_kept_where_a_version_of_it_fails(app: DeployedApp, pushes: Pushes) -> None:
    digest = await pushes("v1")
    await app.ask(Kind.DEPLOY)
    check = {"Test": ["CMD", "/bin/busybox", "false"], "Interval": 300_000_000, "Retries": 1}
    await app.set(configuration={"healthCheckSwarm": check})
    assert (await app.ask(Kind.DEPLOY)).status is Status.FAILED
    assert await images.inspect(app.engine, f"{Reference.parse(pushes.name()).repository}@{digest}")


@pytest.mark.long
async def test_what_variables_name_is_put_in_as_it_is_when_it_runs(app: DeployedApp, pushes: Pushes) -> None:
    async def set_project(text: str) -> None:
        async with app.pool.acquire() as connection:
            application = await applications.select_application(connection, VAULT, app.application_id)
            environment = await environments.select_environment(connection, VAULT, str(application.environment_id))
            await projects.update_project(connection, VAULT, environment.project_id, {"variables": text})

    async def given() -> set[str]:
        found = await app.engine.call("GET", f"containers/{(await app.serving()).container_id}/json")
        return set(found["Config"]["Env"])

    await pushes("v1")
    await set_project("")
    await app.set(environment="URL=https://${{project.DOMAIN}}/")
    failed = await app.ask(Kind.DEPLOY)
    assert failed.reason is not None
    assert (failed.status, failed.reason.code) == (Status.FAILED, Code.BAD_CONFIGURATION)
    assert "${{project.DOMAIN}}" in failed.reason.message
    assert await app.containers() == []

    await set_project("DOMAIN=one.example.com")
    first = await app.ask(Kind.DEPLOY)
    assert "URL=https://one.example.com/" in await given()
    assert (await app.ask(Kind.DEPLOY)).status is Status.UNCHANGED

    await set_project("DOMAIN=two.example.com")
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    assert "URL=https://two.example.com/" in await given()

    await app.set(configuration={"kept": 0})
    await set_project("")
    assert (await app.ask(Kind.REDEPLOY)).status is Status.FAILED
    assert "URL=https://two.example.com/" in await given()
    assert (await app.roll_back(first.deployment_id)).status is Status.SUCCEEDED
    assert "URL=https://one.example.com/" in await given()


async def test_the_log_can_be_read(app: DeployedApp, pushes: Pushes) -> None:
    identity = await app.engine.identify()

    async def read(**asked: int) -> str:
        async with app.pool.acquire() as connection:
            application = await applications.select_application(connection, VAULT, app.application_id)
        return await application_logs.read(
            app.engine, application, swarm=identity.swarm_manager, **{"lines": 100, "since": 0, **asked}
        )

    assert await read() == ""
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    # What another process prints to the first one's output is the container's.
    container = (await app.serving()).container_id
    await app.inside(container, "sh", "-c", "for n in 1 2 3; do /bin/busybox echo line $n > /proc/1/fd/1; done")

    async def three() -> str | None:
        text = await read()
        return text if text.count("\n") == 3 else None

    assert await until(three) == "line 1\nline 2\nline 3\n"
    assert await read(lines=1) == "line 3\n"
    assert await read(since=int(time.time()) + 60) == ""


async def test_the_tag_that_a_deploy_names_is_what_runs(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1")
    wanted = await pushes("v2", tag="v2")
    await app.ask(Kind.DEPLOY)
    async with app.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, app.application_id)
    asked = await enqueue.request_deployment(app.pool, application, Kind.DEPLOY, title="asked", tag="v2")
    assert (await app.ended(asked)).digest == wanted
    assert (await app.serving()).labels["gateway.digest"] == wanted
    assert (await app.ask(Kind.REDEPLOY)).digest == wanted
