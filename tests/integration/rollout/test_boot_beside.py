"""Tests stop-first swaps whose new container boots beside the old one, where it reaches nothing."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from gateway.cli.demo.client import ask
from gateway.cli.demo.images import Image, push
from gateway.cli.demo.process import free_port, until
from gateway.docker.container import boot_history, isolation
from gateway.docker.engine import containers, networks
from gateway.docker.engine.client import Engine
from gateway.docker.engine.containers import Container, parse_time
from gateway.model.applications import Application
from gateway.model.deployments import Deployment, Kind, Status, Step, Swap
from gateway.model.errors import Code, Failed, Postponed
from gateway.store import steps
from tests.support.real_parts import Pushes
from tests.support.rollout_env import DeployedApp

BOOTED = "the new one has booted beside the old one, and joins its network in its place"
BOOTS = "the new one boots while the old one stops, and joins its network in its place"
# Each lets httpd answer on port 8080, and does something else before or after.
_ENTRY = "#!/bin/busybox sh\ntrap 'kill $!; exit 0' TERM\n{}"
_SERVE = "/bin/busybox httpd -f -p 8080 -h /www & wait $!\n"
ASKS_FIRST = _ENTRY.format("/bin/busybox nc -w 1 192.0.2.1 80\n" + _SERVE)
ASKS_FOR_A_NAME = _ENTRY.format("/bin/busybox nslookup db\n" + _SERVE)
ON_ONE_ADDRESS = _ENTRY.format(_SERVE.replace("8080", "$(/bin/busybox hostname -i):8080"))
# It ends once it has an interface, which is that of its network, and whenever it is started again.
ENDS_LATER = _ENTRY.format(
    "[ -e /ran ] && exit 4; : > /ran\n"
    + _SERVE.replace("& wait $!", "&")
    + "until /bin/busybox ip addr show eth0; do /bin/busybox sleep 0.05; done\n/bin/busybox sleep 0.2; exit 4\n"
)


@pytest.fixture(params=["bridge", pytest.param("own", marks=pytest.mark.long)])
async def network(engine: Engine, request: pytest.FixtureRequest, pushes: Pushes) -> AsyncIterator[str]:
    if request.param == "bridge":
        yield "bridge"
        return
    name = f"net-{pushes.path.rpartition('/')[2]}"
    await engine.call("POST", "networks/create", body={"Name": name})
    yield name
    await engine.call("DELETE", f"networks/{name}")


@pytest.fixture
async def port(app: DeployedApp, pushes: Pushes) -> int:
    """Let a first version serve on a port of the default network."""
    return await _serve(app, pushes)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a container count as one that listened at once, however slow the machine is."""
    monkeypatch.setattr(isolation, "_QUICK", 60.0)


async def _serve(app: DeployedApp, pushes: Pushes, **configuration: object) -> int:
    port = free_port()
    ports = [{"targetPort": 8080, "publishedPort": port}]
    await app.set(configuration={"ports": ports, **configuration})
    await pushes("v1")
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    return port


async def _deploy(app: DeployedApp, pushes: Pushes, entry: str | None = None, version: str = "v2") -> Deployment:
    await push(Image(version, files={} if entry is None else {"entry": entry.encode()}), pushes.name())
    return await app.ask(Kind.DEPLOY)


async def _answers(port: int, version: str) -> None:
    async def look() -> bool | None:
        return await ask(port) == version or None

    await until(look)


async def _swap_detail(app: DeployedApp, deployment: Deployment) -> str:
    async with app.pool.acquire() as connection:
        found = await steps.select_steps(connection, [deployment.deployment_id])
    return [record.detail for record in found[deployment.deployment_id] if record.step is Step.SWAP][-1]


async def _leftovers(app: DeployedApp) -> list[dict[str, Any]]:
    return await networks.list_labelled(app.engine, app.application_id)


async def _booted_beside(app: DeployedApp) -> bool:
    old = next(one for one in await app.containers() if not one.running)
    return parse_time((await app.serving()).started_at) < old.finished_at


async def test_a_version_that_boots_without_its_network_boots_beside_the_old_one(
    network: str, app: DeployedApp, pushes: Pushes
) -> None:
    port = await _serve(app, pushes, **({} if network == "bridge" else {"networks": [network]}))
    deployment = await _deploy(app, pushes)
    assert (deployment.status, await _swap_detail(app, deployment)) == (Status.SUCCEEDED, BOOTED)
    await _answers(port, "v2")
    assert await _booted_beside(app)
    assert set((await app.serving()).networks) == {network}
    assert await _leftovers(app) == []
    # Nothing of it is left in how the container starts again.
    await app.engine.call("POST", f"containers/{(await app.serving()).container_id}/restart", params={"t": 1})
    await _answers(port, "v2")


@pytest.mark.parametrize("entry", [ASKS_FIRST, pytest.param(ASKS_FOR_A_NAME, marks=pytest.mark.long)])
async def test_a_version_that_uses_its_network_while_it_boots_is_started_once_the_old_one_has_stopped(
    app: DeployedApp, pushes: Pushes, port: int, entry: str
) -> None:
    deployment = await _deploy(app, pushes, entry)
    assert deployment.status is Status.SUCCEEDED
    assert (await _swap_detail(app, deployment)).endswith("it used its network while it booted")
    await _answers(port, "v2")
    assert not await _booted_beside(app)
    assert await _leftovers(app) == []


@pytest.mark.long
@pytest.mark.parametrize("network", ["own"], indirect=True)
async def test_a_version_that_listens_only_where_it_boots_is_started_once_the_old_one_has_stopped(
    network: str, app: DeployedApp, pushes: Pushes
) -> None:
    port = await _serve(app, pushes, networks=[network])
    deployment = await _deploy(app, pushes, ON_ONE_ADDRESS)
    assert deployment.status is Status.SUCCEEDED
    assert (await _swap_detail(app, deployment)).endswith("it listens on port 8080 of one address only")
    await _answers(port, "v2")
    assert not await _booted_beside(app)


async def test_a_version_joins_its_network_once_the_old_one_has_left_it_though_the_stop_goes_on(
    app: DeployedApp, pushes: Pushes, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, join, joined = containers.stop, isolation.join_home, asyncio.Event()

    async def goes_on(engine: Engine, container_id: str, *, grace: int) -> None:
        await stop(engine, container_id, grace=grace)
        async with asyncio.timeout(30):
            await joined.wait()

    async def joins(engine: Engine, application: Application, new: Container) -> None:
        await join(engine, application, new)
        joined.set()

    monkeypatch.setattr(containers, "stop", goes_on)
    monkeypatch.setattr(isolation, "join_home", joins)
    deployment = await _deploy(app, pushes)
    assert (deployment.status, await _swap_detail(app, deployment)) == (Status.SUCCEEDED, BOOTED)
    await _answers(port, "v2")


async def test_a_version_after_one_that_booted_at_once_boots_while_the_old_one_stops(
    app: DeployedApp, pushes: Pushes, port: int, quick: None
) -> None:
    assert (await _deploy(app, pushes)).status is Status.SUCCEEDED
    deployment = await _deploy(app, pushes, version="v3")
    assert (deployment.status, await _swap_detail(app, deployment)) == (Status.SUCCEEDED, BOOTS)
    await _answers(port, "v3")
    assert set((await app.serving()).networks) == {"bridge"}
    assert len(await app.containers()) == 2


@pytest.mark.long
async def test_a_version_that_uses_its_network_too_early_is_started_again_and_the_next_ones_do_not_try(
    app: DeployedApp, pushes: Pushes, port: int, quick: None
) -> None:
    assert (await _deploy(app, pushes)).status is Status.SUCCEEDED
    for version, detail in (("v3", BOOTS), ("v4", "it used its network while it booted")):
        deployment = await _deploy(app, pushes, ASKS_FIRST, version)
        assert deployment.status is Status.SUCCEEDED
        assert (await _swap_detail(app, deployment)).endswith(detail)
        await _answers(port, version)
        assert not await _booted_beside(app)


@pytest.mark.long
async def test_a_version_that_does_not_start_while_the_old_one_stops_is_put_back(
    app: DeployedApp, pushes: Pushes, port: int, quick: None
) -> None:
    assert (await _deploy(app, pushes)).status is Status.SUCCEEDED
    deployment = await _deploy(app, pushes, "#!/bin/busybox sh\nexit 3\n", "v3")
    assert (deployment.status, await _swap_detail(app, deployment)) == (Status.ROLLED_BACK, BOOTS)
    await _answers(port, "v2")


@pytest.mark.long
async def test_a_version_that_ends_after_it_has_joined_is_put_back(
    app: DeployedApp, pushes: Pushes, port: int, long_window: None
) -> None:
    deployment = await _deploy(app, pushes, ENDS_LATER)
    assert (deployment.status, await _swap_detail(app, deployment)) == (Status.ROLLED_BACK, BOOTED)
    await _answers(port, "v1")
    assert len(await app.containers()) == 1
    assert await _leftovers(app) == []


@pytest.mark.long
async def test_a_version_that_the_engine_does_not_let_join_is_started(
    app: DeployedApp, pushes: Pushes, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    join = isolation.join_home

    async def refused(engine: Engine, application: Application, new: Container) -> None:
        monkeypatch.setattr(isolation, "join_home", join)
        with socket.create_server(("127.0.0.1", port)), pytest.raises(Failed) as error:
            await join(engine, application, new)
        assert error.value.reason.code is Code.PORT_TAKEN
        raise error.value

    monkeypatch.setattr(isolation, "join_home", refused)
    assert (await _deploy(app, pushes)).status is Status.SUCCEEDED
    await _answers(port, "v2")
    assert (await app.serving()).published == {8080: ("0.0.0.0", port)}  # noqa: S104 - compared, not bound


async def test_a_version_that_somebody_disconnects_before_it_has_proven_itself_is_connected_again(
    network: str, app: DeployedApp, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, leave = await _serve(app, pushes, **({} if network == "bridge" else {"networks": [network]})), isolation.leave

    async def disconnected(engine: Engine, application: Application, swap: Swap, new: Container) -> None:
        for name in (await app.serving()).networks:
            await networks.disconnect(engine, name, swap.new)
        await leave(engine, application, swap, new)

    monkeypatch.setattr(isolation, "leave", disconnected)
    assert (await _deploy(app, pushes)).status is Status.SUCCEEDED
    await _answers(port, "v2")
    assert set((await app.serving()).networks) == {network}
    assert await _leftovers(app) == []


@pytest.mark.parametrize("quickly", [pytest.param(False, marks=pytest.mark.long), True])
@pytest.mark.parametrize(
    ("where", "name"),
    [
        pytest.param(isolation.IsolatedBoot, "start", id="off its network", marks=pytest.mark.long),
        pytest.param(isolation.IsolatedBoot, "check", id="while it boots"),
        pytest.param(isolation, "join_home", id="before it joins its network", marks=pytest.mark.long),
        pytest.param(isolation.IsolatedBoot, "check_joined", id="once it has joined", marks=pytest.mark.long),
        pytest.param(isolation, "leave", id="before it leaves the network it booted on", marks=pytest.mark.long),
    ],
)
async def test_an_attempt_that_ends_anywhere_is_finished_by_the_next(
    app: DeployedApp,
    pushes: Pushes,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    where: Any,
    name: str,
    *,
    quickly: bool,
) -> None:
    kills = []
    monkeypatch.setattr(boot_history, "boots_quickly", lambda *_given: quickly)

    def killed(*_given: object) -> None:
        kills.append(name)
        monkeypatch.undo()
        raise Postponed(Code.GATEWAY_STOPPED, "it was killed")

    monkeypatch.setattr(where, name, killed)
    deployment = await _deploy(app, pushes)
    assert (deployment.status, kills) == (Status.SUCCEEDED, [name])
    await _answers(port, "v2")
    assert set((await app.serving()).networks) == {"bridge"}
    assert len(await app.containers()) == 2
    assert await _leftovers(app) == []


@pytest.mark.long
@pytest.mark.parametrize("network", ["own"], indirect=True)
async def test_a_network_that_somebody_connects_the_old_one_to_meanwhile_is_joined_too(
    network: str, app: DeployedApp, pushes: Pushes, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = isolation.IsolatedBoot.wait

    async def meanwhile(boot: isolation.IsolatedBoot) -> None:
        await networks.connect(app.engine, network, (await app.serving()).container_id, {})
        await wait(boot)

    monkeypatch.setattr(isolation.IsolatedBoot, "wait", meanwhile)
    deployment = await _deploy(app, pushes)
    assert (deployment.status, await _swap_detail(app, deployment)) == (Status.SUCCEEDED, BOOTED)
    await _answers(port, "v2")
    assert set((await app.serving()).networks) == {"bridge", network}


@pytest.mark.long
@pytest.mark.parametrize(
    "configuration",
    [{"order": "stop-first"}, {"volumes": [{"type": "volume", "source": "boot-beside", "target": "/data"}]}],
)
async def test_two_that_may_not_run_at_once_do_not(
    app: DeployedApp, pushes: Pushes, configuration: Mapping[str, object]
) -> None:
    port = await _serve(app, pushes, **configuration)
    deployment = await _deploy(app, pushes)
    assert deployment.status is Status.SUCCEEDED
    assert (await _swap_detail(app, deployment)).startswith("the old one stops before the new one starts: ")
    await _answers(port, "v2")
    assert not await _booted_beside(app)
