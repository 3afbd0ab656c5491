"""Tests rollouts while somebody else removes, stops or changes the same containers."""

import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from gateway.cli.demo.images import Behaviour
from gateway.cli.demo.process import free_port, until
from gateway.docker.engine import containers, images, logs
from gateway.docker.engine.client import Engine, ReachedEngine
from gateway.docker.engine.containers import Container
from gateway.docker.runtime import Timeouts
from gateway.model.deployments import Kind, Status
from gateway.model.errors import Code, NotOnEngine
from gateway.queue import enqueue
from gateway.store import applications
from gateway.worker.supervisor import Supervisor
from gateway.worker.version_retention import prune_kept_versions
from tests.support.adoption_host import Host
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, DeployedApp, RecordedAlerts

STOP_FIRST = {"order": "stop-first"}
SICK = "echo it is sick; exit 1"

Strike = Callable[[], Awaitable[None]]
Meddle = Callable[[str, str, Strike], None]


@pytest.fixture
def meddle(monkeypatch: pytest.MonkeyPatch) -> Meddle:
    """Let something happen once, before the next call of the gateway's that is like this."""
    call = Engine.call

    def arm(method: str, path: str, strike: Strike) -> None:
        async def struck(engine: Engine, made: str, at: str, **given: Any) -> Any:
            if engine._allowed is not None and made == method and re.search(path, at):  # noqa: SLF001 - of a rollout
                monkeypatch.setattr(Engine, "call", call)
                await strike()
            return await call(engine, made, at, **given)

        monkeypatch.setattr(Engine, "call", struck)

    return arm


async def pruned(app: DeployedApp) -> None:
    """Remove what does not run of the application, as docker container prune does."""
    for one in await app.containers():
        if one.stopped:
            await containers.remove(app.engine, one.container_id)


async def new_of(app: DeployedApp) -> Container:
    return max(await app.containers(), key=lambda one: one.created)


EITHER_ORDER = pytest.mark.parametrize(
    "configuration", [{}, pytest.param(STOP_FIRST, marks=pytest.mark.long)], ids=["start-first", "stop-first"]
)


async def one_serves(app: DeployedApp, digest: str) -> None:
    running = [one for one in await app.containers() if not one.stopped]
    assert [(one.name, one.labels["gateway.digest"]) for one in running] == [(f"app-{app.application_id}", digest)]


@pytest.mark.parametrize(
    "call", ["/start$", *(pytest.param(call, marks=pytest.mark.long) for call in ("/rename$", "/stop$"))]
)
async def test_a_container_pruned_during_a_swap_is_created_again(
    app: DeployedApp, pushes: Pushes, meddle: Meddle, call: str
) -> None:
    await app.set(configuration=STOP_FIRST)
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    digest = await pushes("v2")
    meddle("POST", call, lambda: pruned(app))
    deployment = await app.ask(Kind.DEPLOY)
    assert (deployment.status, deployment.digest) == (Status.SUCCEEDED, digest), deployment.reason
    await one_serves(app, digest)


@pytest.mark.long
async def test_a_pruned_old_container_is_recreated_to_be_put_back(
    app: DeployedApp, pushes: Pushes, meddle: Meddle
) -> None:
    await app.set(configuration={**STOP_FIRST, "mounts": [{"type": "file", "target": "/f", "content": "kept"}]})
    first = await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await pushes("v2", behaviour=Behaviour.EXITS)
    meddle("POST", "/update$", lambda: pruned(app))
    deployment = await app.ask(Kind.DEPLOY)
    assert deployment.status is Status.ROLLED_BACK
    await one_serves(app, first)
    assert (await app.serving()).restart_policy["Name"] == "unless-stopped"


@pytest.mark.long
async def test_a_pruned_adopted_container_is_recreated_to_be_put_back(
    host: Host, pushes: Pushes, meddle: Meddle
) -> None:
    port = free_port()
    binding = {"8080/tcp": [{"HostPort": str(port)}]}
    found = await host.run(Env=["A=1"], HostConfig={"PortBindings": binding, "RestartPolicy": {"Name": "always"}})
    application = await host.adopt()
    await pushes("v2", behaviour=Behaviour.EXITS)

    async def remove() -> None:
        await containers.remove(host.engine, found["Id"])

    meddle("POST", "/update$", remove)
    deployment = await host.deploy(application)
    assert deployment.status is Status.ROLLED_BACK, deployment.reason
    serving = await host.inspect()
    assert (serving["Image"], serving["Config"]["Env"]) == (found["Image"], found["Config"]["Env"])
    assert serving["State"]["Running"]
    assert serving["HostConfig"]["RestartPolicy"]["Name"] == "always"
    assert "gateway.application" not in serving["Config"]["Labels"]
    assert (await host.deploy(application, tag="latest")).status is Status.ROLLED_BACK


@pytest.mark.long
async def test_an_old_version_that_cannot_be_recreated_is_reported(
    app: DeployedApp, pushes: Pushes, meddle: Meddle
) -> None:
    await app.set(configuration=STOP_FIRST)
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    async with app.pool.acquire() as connection:
        await connection.execute("UPDATE deployments SET ran = NULL WHERE application_id = $1", app.application_id)
    second = await pushes("v2", health=SICK)
    meddle("POST", "/update$", lambda: pruned(app))
    deployment = await app.ask(Kind.DEPLOY)
    assert deployment.reason is not None
    assert (deployment.status, deployment.reason.code) == (Status.FAILED, Code.UNHEALTHY)
    assert "is the new version, since the old one could not be put back" in deployment.reason.message
    await one_serves(app, second)


@pytest.mark.long
async def test_an_old_version_that_does_not_start_again_is_reported(
    host: Host, pushes: Pushes, long_window: None
) -> None:
    await pushes("v1", behaviour=Behaviour.EXITS)
    await host.run(HostConfig={"RestartPolicy": {"Name": "always"}, "Binds": ["/var:/there"]})
    application = await host.adopt()
    await pushes("v2", behaviour=Behaviour.EXITS_LATER)
    deployment = await host.deploy(application)
    assert deployment.reason is not None
    assert deployment.status is Status.FAILED
    assert "is the old version, and is unhealthy" in deployment.reason.message


@EITHER_ORDER
async def test_a_new_container_that_somebody_removes_is_created_again(
    app: DeployedApp, pushes: Pushes, meddle: Meddle, configuration: dict[str, Any]
) -> None:
    await app.set(configuration=configuration)
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    digest = await pushes("v2")

    async def remove() -> None:
        await containers.remove(app.engine, (await new_of(app)).container_id)

    meddle("POST", "/start$", remove)
    deployment = await app.ask(Kind.DEPLOY)
    assert (deployment.status, deployment.attempts) == (Status.SUCCEEDED, 2)
    await one_serves(app, digest)


async def test_a_container_that_is_removed_every_time_fails_the_deployment(
    app: DeployedApp, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.rollout.swap.MAX_REMOVED_ATTEMPTS", 2)
    first = await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await pushes("v2")
    start = containers.start

    async def removed_first(engine: Engine, container_id: str) -> None:
        await containers.remove(engine, container_id)
        await start(engine, container_id)

    monkeypatch.setattr(containers, "start", removed_first)
    deployment = await app.ask(Kind.DEPLOY)
    assert deployment.reason is not None
    assert (deployment.status, deployment.reason.code) == (Status.FAILED, Code.CONTAINER_MISSING)
    await one_serves(app, first)


@pytest.mark.long
async def test_a_container_stopped_before_it_is_ready_is_started_again(
    app: DeployedApp, pushes: Pushes, meddle: Meddle
) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    digest = await pushes("v2")

    async def stop() -> None:
        await containers.stop(app.engine, (await new_of(app)).container_id, grace=1)

    meddle("POST", "/rename$", stop)
    deployment = await app.ask(Kind.DEPLOY)
    assert (deployment.status, deployment.digest) == (Status.SUCCEEDED, digest)
    await one_serves(app, digest)


async def test_a_paused_container_is_not_ready(app: DeployedApp, pushes: Pushes, meddle: Meddle) -> None:
    await app.set(configuration={"healthDeadline": 1})
    first = await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await pushes("v2")
    start = containers.start
    patch = pytest.MonkeyPatch()

    async def paused(engine: Engine, container_id: str) -> None:
        await start(engine, container_id)
        await engine.call("POST", f"containers/{container_id}/pause")

    patch.setattr(containers, "start", paused)
    try:
        deployment = await app.ask(Kind.DEPLOY)
    finally:
        patch.undo()
    assert deployment.reason is not None
    assert (deployment.status, deployment.reason.code) == (Status.FAILED, Code.UNHEALTHY)
    assert "is paused" in deployment.reason.message
    await one_serves(app, first)


@pytest.mark.long
async def test_a_renamed_stopped_container_does_not_run_beside_the_next(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    for version in ("v2", "v3"):
        await containers.rename(app.engine, await app.serving(), f"mine-{version}-{app.application_id}")
        digest = await pushes(version)
        assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
        await one_serves(app, digest)
    assert all("mine-" not in one.name for one in await app.containers())


async def test_an_old_container_that_somebody_starts_is_stopped_again(
    app: DeployedApp, pushes: Pushes, meddle: Meddle
) -> None:
    port = {"ports": [{"targetPort": 8080, "publishedPort": free_port()}]}
    await app.set(configuration=port)
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    old = await app.serving()
    digest = await pushes("v2")

    async def start() -> None:
        await containers.start(app.engine, old.container_id)

    meddle("POST", "/start$", start)
    deployment = await app.ask(Kind.DEPLOY)
    assert (deployment.status, deployment.reason) == (Status.SUCCEEDED, None)
    await one_serves(app, digest)


# -- labels that somebody copied


async def copied(app: DeployedApp, name: str, image: str | None = None) -> str:
    """Run a container with the labels of the serving one, and return its id."""
    serving = await app.serving()
    if name == serving.name:
        await containers.remove(app.engine, serving.container_id)
    body = {"Image": image or serving.image_id, "Labels": serving.labels}
    made = await containers.create(app.engine, name, body, {})
    await containers.start(app.engine, made)
    return made


async def left_alone(app: DeployedApp, container_id: str, name: str) -> bool:
    found = await containers.inspect(app.engine, container_id)
    return found is not None and (found.name, found.running) == (name, True)


@pytest.mark.long
@pytest.mark.parametrize("kind", [Kind.DEPLOY, pytest.param(Kind.REDEPLOY, marks=pytest.mark.long)])
async def test_another_image_under_copied_labels_is_replaced(app: DeployedApp, pushes: Pushes, kind: Kind) -> None:
    first = await pushes("v1")
    await app.ask(Kind.DEPLOY)
    second = await pushes("v2")
    await app.ask(Kind.DEPLOY)
    image = pushes.name().rpartition(":")[0] + f"@{first}"
    impostor = await copied(app, f"app-{app.application_id}", image)
    assert (await app.ask(kind)).status is Status.SUCCEEDED
    assert (await app.serving()).image.endswith(second)
    # What was set aside is no version to come back to.
    back = await app.roll_back()
    assert (back.status, back.digest) == (Status.SUCCEEDED, first)
    assert (await app.serving()).container_id != impostor


async def test_an_image_untagged_by_force_is_not_taken_for_another(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    serving = await app.serving()
    # A copy that names its image by id, because the image has no name any more.
    await copied(app, serving.name, serving.image_id)
    image = await images.inspect(app.engine, serving.image_id)
    assert image is not None
    for name in (*image.tags, *image.repo_digests):
        with suppress(NotOnEngine):  # the last tag takes the digest along
            await app.engine.call("DELETE", f"images/{name}", params={"force": 1})
    image = await images.inspect(app.engine, serving.image_id)
    assert image is None or not image.repo_digests
    assert (await app.ask(Kind.DEPLOY)).status is Status.UNCHANGED


@pytest.mark.parametrize("recorded", [True, pytest.param(False, marks=pytest.mark.long)])
async def test_a_copy_that_somebody_made_is_left_alone(app: DeployedApp, pushes: Pushes, recorded: bool) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    if not recorded:  # by a gateway of an earlier release
        async with app.pool.acquire() as connection:
            await connection.execute("UPDATE deployments SET object_id = NULL")
    name = f"my-own-{app.application_id}"
    copy = await copied(app, name)
    for version in ("v2", "v3"):  # with one version kept, v1 is removed
        digest = await pushes(version)
        assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
        assert (await app.serving()).labels["gateway.digest"] == digest
        assert await left_alone(app, copy, name)
    async with app.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, app.application_id)
    await enqueue.request_state(app.pool, application, Kind.DELETE, title="asked")

    async def ours_is_gone() -> bool | None:
        return True if len(await app.containers()) == 1 else None

    await until(ours_is_gone)
    assert [one.container_id for one in await app.containers()] == [copy]
    assert await left_alone(app, copy, name)


@pytest.mark.parametrize("recorded", [True, pytest.param(False, marks=pytest.mark.long)])
async def test_of_a_renamed_container_and_its_copy_the_gateways_gets_the_name_back(
    app: DeployedApp, pushes: Pushes, recorded: bool
) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    if not recorded:
        async with app.pool.acquire() as connection:
            await connection.execute("UPDATE deployments SET object_id = NULL")
    serving, name = await app.serving(), f"a-copy-{app.application_id}"
    copy = await copied(app, name)
    await containers.rename(app.engine, serving, f"renamed-{app.application_id}")
    assert (await app.ask(Kind.DEPLOY)).status is Status.UNCHANGED
    assert (await app.serving()).container_id == serving.container_id
    assert await left_alone(app, copy, name)


@pytest.mark.long
async def test_a_copy_does_not_take_the_place_of_a_removed_container(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    name = f"my-own-{app.application_id}"
    copy = await copied(app, name)
    await containers.remove(app.engine, (await app.serving()).container_id)
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    assert (await app.serving()).container_id != copy
    assert await left_alone(app, copy, name)


# -- at rest


@pytest.mark.long
async def test_start_and_rollback_survive_a_recreated_network(app: DeployedApp, pushes: Pushes) -> None:
    name = f"front-{app.application_id}"

    async def make_anew() -> None:
        await app.engine.call("DELETE", f"networks/{name}")
        await app.engine.call("POST", "networks/create", body={"Name": name})

    await app.engine.call("POST", "networks/create", body={"Name": name})
    file = {"type": "file", "target": "/f", "content": "kept"}
    await app.set(configuration={"networks": [name], "mounts": [file]})
    first = await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await app.ask(Kind.STOP)
    await make_anew()
    started = await app.ask(Kind.START)
    assert (started.status, started.reason) == (Status.SUCCEEDED, None)
    await one_serves(app, first)
    assert await logs.read_stream(
        app.engine, f"containers/{(await app.serving()).container_id}/archive", {"path": "/f"}
    )

    await pushes("v2")
    await app.ask(Kind.DEPLOY)
    await containers.stop(app.engine, (await app.serving()).container_id, grace=1)
    await make_anew()
    back = await app.roll_back()
    assert (back.status, back.reason) == (Status.SUCCEEDED, None)
    await one_serves(app, first)
    for one in await app.containers():
        await containers.remove(app.engine, one.container_id)
    await app.engine.call("DELETE", f"networks/{name}")


async def test_a_container_removed_while_stopped_is_recreated_on_start(app: DeployedApp, pushes: Pushes) -> None:
    first = await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await app.ask(Kind.STOP)
    await pruned(app)
    await pushes("v2")
    started = await app.ask(Kind.START)
    assert (started.status, started.digest) == (Status.SUCCEEDED, first)
    await one_serves(app, first)


@pytest.mark.long
async def test_manually_set_limits_stay_until_they_are_configured(app: DeployedApp, pushes: Pushes) -> None:
    async def memory() -> int:
        found = await containers.inspect_raw(app.engine, (await app.serving()).container_id)
        assert found is not None
        return int(found["HostConfig"]["Memory"])

    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    limits = {"Memory": 64 * 1024**2, "MemorySwap": 64 * 1024**2}
    await app.engine.call("POST", f"containers/{(await app.serving()).container_id}/update", body=limits)
    for version in ("v2", "v3"):
        await pushes(version)
        await app.ask(Kind.DEPLOY)
        assert await memory() == 64 * 1024**2
    await app.set(configuration={"memoryLimit": "32m"})
    await app.ask(Kind.REDEPLOY)
    assert await memory() == 32 * 1024**2


async def test_a_container_without_its_image_is_started(app: DeployedApp, pushes: Pushes) -> None:
    await pushes(f"{app.application_id} alone has this image")
    await app.ask(Kind.DEPLOY)
    await app.ask(Kind.STOP)
    await app.engine.call("DELETE", f"images/{(await app.serving()).image_id}", params={"force": 1})
    started = await app.ask(Kind.START)
    assert (started.status, started.reason) == (Status.SUCCEEDED, None)


@EITHER_ORDER
async def test_a_network_joined_by_hand_stays_joined(
    app: DeployedApp, pushes: Pushes, configuration: dict[str, Any]
) -> None:
    name = f"by-hand-{app.application_id}"
    await app.engine.call("POST", "networks/create", body={"Name": name})
    await app.set(configuration=configuration)
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    joining = {"Container": (await app.serving()).container_id, "EndpointConfig": {"Aliases": ["shop"]}}
    await app.engine.call("POST", f"networks/{name}/connect", body=joining)
    for version in ("v2", "v3"):
        await pushes(version)
        assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
        assert "shop" in (await app.serving()).aliases[name]
    for one in await app.containers():
        await containers.remove(app.engine, one.container_id)
    await app.engine.call("DELETE", f"networks/{name}")


async def test_networks_connected_since_adoption_stay_connected(host: Host, pushes: Pushes) -> None:
    found = await host.run()
    application = await host.adopt()
    name = f"by-hand-{host.name}"
    await host.network(name)
    await host.engine.call("POST", f"networks/{name}/connect", body={"Container": found["Id"]})
    await pushes("v2")
    assert (await host.deploy(application)).status is Status.SUCCEEDED
    assert set((await host.inspect())["NetworkSettings"]["Networks"]) == {"bridge", name}


# -- records that hold no more


async def left_open(app: DeployedApp, old: str, new: str) -> None:
    """Let a swap be left open, as a backup of the database would have it."""
    async with app.pool.acquire() as connection:
        await connection.execute(
            """
            INSERT INTO swaps (application_id, deployment_id, serving_name, old, old_restart_policy, new, swap_order)
            SELECT $1, deployment_id, $2, $3, '{"Name": "unless-stopped"}', $4, 'stop-first'
              FROM deployments WHERE application_id = $1 ORDER BY created_at LIMIT 1
            """,
            app.application_id,
            f"app-{app.application_id}",
            old,
            new,
        )


@pytest.mark.long
async def test_a_swap_from_a_restored_database_is_superseded_by_a_newer_deployment(
    app: DeployedApp, pushes: Pushes
) -> None:
    ids, digest = [], ""
    for version in ("v1", "v2", "v3"):
        digest = await pushes(version)
        await app.ask(Kind.DEPLOY)
        ids.append((await app.serving()).container_id)
    async with app.pool.acquire() as connection:
        await connection.execute(
            "DELETE FROM deployments WHERE deployment_id = $1", (await app.serving()).labels["gateway.deployment"]
        )
    await left_open(app, ids[0], ids[1])
    deployment = await app.ask(Kind.DEPLOY)
    assert (deployment.status, deployment.digest) == (Status.SUCCEEDED, digest), "it records what serves"
    assert (await app.serving()).container_id == ids[2], "and replaces nothing"
    await one_serves(app, digest)


async def test_a_swap_that_can_neither_finish_nor_be_undone_ends_with_an_alert(
    app: DeployedApp, pushes: Pushes, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.rollout.swap._MAX_BACK", 1)
    monkeypatch.setattr(supervisor.context, "alerts", told := RecordedAlerts())
    # A call of an earlier attempt is waited for as long as it may take, the stop's grace included.
    await app.set(configuration={"stopGrace": 1})
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    serving = await app.serving()
    await containers.rename(app.engine, serving, f"app-{app.application_id}.old.{serving.container_id[:12]}")
    body = {"Image": pushes.name()}
    foreign = await containers.create(app.engine, f"app-{app.application_id}", body, {})
    await left_open(app, serving.container_id, "0" * 64)
    deployment = await app.ask(Kind.DEPLOY)
    await containers.remove(app.engine, foreign)
    assert deployment.reason is not None
    assert (deployment.status, deployment.reason.code) == (Status.FAILED, Code.NAME_TAKEN)
    assert any("a swap could not be put back" in alert.title for alert in told)
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED


async def test_pruning_keeps_a_container_that_a_rollback_has_just_started(
    app: DeployedApp, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("v1", "v2"):
        await pushes(version)
        await app.ask(Kind.DEPLOY)
    (kept,) = [one for one in await app.containers() if one.stopped]
    remove = containers.remove

    async def recalled_first(engine: Engine, container_id: str, **how: bool) -> None:
        await containers.start(engine, container_id)
        await remove(engine, container_id, **how)

    monkeypatch.setattr(containers, "remove", recalled_first)
    none = Timeouts(stable_window=0, health_deadline=1, pull_stall=1, call_margin=1, kept_for=-2)
    await prune_kept_versions(app.pool, VAULT, none, ReachedEngine(app.engine, await app.engine.identify(), [None]))
    monkeypatch.undo()
    left = await containers.inspect(app.engine, kept.container_id)
    assert left is not None
    assert left.running
