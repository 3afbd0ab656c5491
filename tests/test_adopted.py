"""What somebody else started is taken over, replaced and gone back to, on a real engine."""

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway import dispatch
from gateway.adopt import adopt
from gateway.applications import Application
from gateway.config import Settings
from gateway.demo.engine import PrivateEngine
from gateway.demo.images import Behaviour
from gateway.demo.process import free_port, until
from gateway.deployments import FINISHED, Deployment, Kind, Status
from gateway.engine import containers, images
from gateway.engine.client import Engine
from gateway.errors import Conflict, NotFound
from gateway.registry import client as registries
from gateway.store import applications, deployments
from gateway.store.database import Pool, connect
from gateway.store.embedded import embedded_postgres
from gateway.store.migrations import migrate
from gateway.store.vault import Vault
from gateway.supervisor import Supervisor, supervise
from tests.real_parts import Pushes

VAULT = Vault(b"k" * 32)
#: runs and does nothing, until it is killed
BUSY: dict[str, Any] = {"Entrypoint": ["/bin/busybox", "sleep", "1000"], "StopSignal": "SIGKILL"}


@dataclass
class Host:
    """A host on which somebody runs containers, and a gateway that may take them over."""

    pool: Pool
    engine: Engine
    pushes: Pushes
    made: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"Own_{self.pushes.path.rpartition('/')[2]}"

    async def run(self, name: str = "", networks: dict[str, Any] | None = None, **body: Any) -> dict[str, Any]:
        """Run a container as docker run does, and return its inspection."""
        name = name or self.name
        pulled = self.pushes.name()
        if await images.inspect(self.engine, pulled) is None:
            await self.engine.images.pull(pulled)
        self.made.append(name)
        made = await containers.create(self.engine, name, {"Image": pulled, **body}, networks or {})
        await containers.start(self.engine, made)
        return await self.inspect(name)

    async def inspect(self, name: str = "") -> dict[str, Any]:
        found = await containers.inspection(self.engine, name or self.name)
        assert found is not None
        return found

    async def adopt(self, name: str = "") -> Application:
        application_id = await adopt(self.pool, VAULT, self.engine, name or self.name)
        async with self.pool.acquire() as connection:
            await applications.update_application(connection, VAULT, application_id, {"configuration": {"drain": 0}})
        return await self.application(application_id)

    async def application(self, application_id: str) -> Application:
        async with self.pool.acquire() as connection:
            return await applications.select_application(connection, VAULT, application_id)

    async def deploy(self, application: Application, kind: Kind = Kind.DEPLOY) -> Deployment:
        return await self.ended(await dispatch.request_deployment(self.pool, application, kind, title="asked"))

    async def roll_back(self, application: Application, to: str | None = None) -> Deployment:
        return await self.ended(await dispatch.request_rollback(self.pool, VAULT, application, to=to, title="asked"))

    async def delete(self, application: Application) -> None:
        await dispatch.request_state(self.pool, application, Kind.DELETE, title="asked")

        async def gone() -> bool | None:
            with suppress(NotFound):
                await self.application(application.application_id)
                return None
            return True

        await until(gone)

    async def ended(self, deployment_id: str) -> Deployment:
        async def look() -> Deployment | None:
            async with self.pool.acquire() as connection:
                found = await deployments.select_deployment(connection, deployment_id)
            return found if found.status in FINISHED else None

        return await until(look)

    async def names(self) -> list[str]:
        """Return what is there, beside what serves, of the names this host runs."""
        listed = await self.engine.call("GET", "containers/json", params={"all": 1})
        names = [item["Names"][0].removeprefix("/") for item in listed]
        return sorted(name for name in names if any(name.startswith(made) for made in self.made))


@pytest.fixture(scope="module")
async def adopting_pool(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pool]:
    async with embedded_postgres(tmp_path_factory.mktemp("adopted")) as url, connect(url) as pool:
        await migrate(pool)
        yield pool


@pytest.fixture(scope="module")
async def adopter(adopting_pool: Pool, engine: Engine, dockerd: PrivateEngine) -> AsyncIterator[Supervisor]:
    settings = Settings.from_environ({"HOME": "/", "DOCKER_HOST": dockerd.host, "GATEWAY_STABLE_WINDOW": "0.3"})
    async with registries.connect() as registry, supervise(adopting_pool, VAULT, engine, registry, settings) as one:
        yield one


@pytest.fixture
async def host(adopting_pool: Pool, engine: Engine, adopter: Supervisor, pushes: Pushes) -> AsyncIterator[Host]:
    host = Host(adopting_pool, engine, pushes)
    await pushes("v1")
    yield host
    for name in await host.names():
        await engine.call("DELETE", f"containers/{name}", params={"force": 1, "v": 1})


async def test_what_docker_run_started_is_not_touched_until_the_first_push(host: Host, pushes: Pushes) -> None:
    found = await host.run(Env=["SECRET=1"], HostConfig={"RestartPolicy": {"Name": "always"}})
    application = await host.adopt()
    assert (application.app_name, application.docker_image) == (host.name, pushes.name())
    assert application.engine_id is not None
    assert await host.inspect() == found

    again = await host.deploy(application)
    assert (again.status, (await host.inspect())["Id"]) == (Status.UNCHANGED, found["Id"])

    digest = await pushes("v2")
    deployment = await host.deploy(application)
    assert (deployment.status, deployment.digest) == (Status.SUCCEEDED, digest)
    serving = await host.inspect()
    assert serving["Config"]["Env"] == ["SECRET=1", "PATH=/bin"]
    assert serving["HostConfig"]["RestartPolicy"]["Name"] == "always"
    aside = await host.inspect(f"{host.name}.old.{found['Id'][:12]}")
    assert (aside["Id"], aside["State"]["Running"]) == (found["Id"], False)
    assert aside["HostConfig"]["RestartPolicy"]["Name"] == "no"


async def test_the_way_back_leads_to_what_was_adopted(host: Host, pushes: Pushes) -> None:
    found = await host.run(HostConfig={"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 7}})
    application = await host.adopt()
    await pushes("v2")
    await host.deploy(application)
    back = await host.roll_back(application)
    assert back.status is Status.SUCCEEDED, back.reason
    serving = await host.inspect()
    assert (serving["Id"], serving["HostConfig"]["RestartPolicy"]) == (
        found["Id"],
        {"Name": "on-failure", "MaximumRetryCount": 7},
    )
    again = await host.roll_back(application)
    assert again.status is Status.UNCHANGED

    forward = await host.deploy(application)
    assert forward.status is Status.SUCCEEDED


async def test_what_was_adopted_is_made_anew_where_it_is_no_longer_kept(host: Host, pushes: Pushes) -> None:
    found = await host.run(Env=["A=1"])
    application = await host.adopt()
    await pushes("v2")
    await host.deploy(application)
    await containers.remove(host.engine, found["Id"])
    back = await host.roll_back(application)
    assert back.status is Status.SUCCEEDED, back.reason
    serving = await host.inspect()
    assert (serving["Image"], serving["Config"]["Env"]) == (found["Image"], found["Config"]["Env"])


async def test_what_was_adopted_is_put_back_when_the_first_version_fails(host: Host, pushes: Pushes) -> None:
    port = free_port()
    found = await host.run(HostConfig={"PortBindings": {"8080/tcp": [{"HostPort": str(port)}]}})
    application = await host.adopt()
    await pushes("v2", behaviour=Behaviour.EXITS)
    deployment = await host.deploy(application)
    assert deployment.status is Status.ROLLED_BACK
    serving = await host.inspect()
    assert (serving["Id"], serving["State"]["Running"]) == (found["Id"], True)
    assert await host.names() == [host.name]


async def test_a_volume_nobody_named_keeps_its_data(host: Host, pushes: Pushes) -> None:
    found = await host.run(Volumes={"/data": {}})
    (mount,) = found["Mounts"]
    application = await host.adopt()
    for version in ("v2", "v3"):
        await pushes(version)
        assert (await host.deploy(application)).status is Status.SUCCEEDED
        (now,) = (await host.inspect())["Mounts"]
        assert (now["Name"], now["Destination"]) == (mount["Name"], "/data")


async def test_networks_aliases_and_fixed_addresses_are_kept(host: Host, pushes: Pushes) -> None:
    front, back = f"front-{host.name}", f"back-{host.name}"
    subnet = {"IPAM": {"Config": [{"Subnet": "10.98.7.0/24"}]}}
    for name, more in ((front, subnet), (back, {})):
        await host.engine.call("POST", "networks/create", body={"Name": name, **more})
    try:
        fixed = {"Aliases": ["web", "www"], "IPAMConfig": {"IPv4Address": "10.98.7.77"}}
        await host.run(
            networks={front: fixed, back: {"Aliases": ["internal"]}},
            NetworkingConfig={"EndpointsConfig": {front: fixed}},
            HostConfig={"NetworkMode": front},
        )
        application = await host.adopt()
        await pushes("v2")
        assert (await host.deploy(application)).status is Status.SUCCEEDED
        serving = await host.inspect()
        networks = serving["NetworkSettings"]["Networks"]
        assert networks[front]["IPAddress"] == "10.98.7.77"
        assert set(networks[front]["Aliases"]) == {"web", "www", serving["Id"][:12]}
        assert set(networks[back]["Aliases"]) == {"internal", serving["Id"][:12]}
        assert serving["Config"]["Hostname"] == serving["Id"][:12]
    finally:
        for name in await host.names():
            await containers.remove(host.engine, name)
        for name in (front, back):
            await host.engine.call("DELETE", f"networks/{name}")


async def test_compose_finds_its_own_again_and_up_to_date(host: Host, pushes: Pushes) -> None:
    found = await host.run()
    await containers.remove(host.engine, found["Id"])
    labels = {
        "com.docker.compose.project": "shop",
        "com.docker.compose.service": "web",
        "com.docker.compose.config-hash": "abc",
        "com.docker.compose.container-number": "1",
        "com.docker.compose.oneoff": "False",
        "com.docker.compose.image": found["Image"],
    }
    await host.run(Labels=labels)
    application = await host.adopt()
    await pushes("v2")
    assert (await host.deploy(application)).status is Status.SUCCEEDED
    serving = await host.inspect()
    local = await images.inspect(host.engine, pushes.name())
    assert local is not None
    assert local.image_id == serving["Image"]
    assert {name: serving["Config"]["Labels"][name] for name in labels} == {
        **labels,
        "com.docker.compose.image": local.image_id,
    }
    # A second container of its labels would be started, or taken for the one that serves.
    assert await host.names() == [host.name]
    back = await host.roll_back(application)
    assert (back.status, (await host.inspect())["Image"]) == (Status.SUCCEEDED, found["Image"])


async def test_what_compose_made_anew_is_refused_until_it_is_adopted_again(host: Host, pushes: Pushes) -> None:
    found = await host.run()
    application = await host.adopt()
    await containers.remove(host.engine, found["Id"])
    await host.run(Env=["CHANGED=1"])
    await pushes("v2")
    refused = await host.deploy(application)
    assert refused.status is Status.FAILED
    assert refused.reason is not None
    assert "gateway apps adopt" in refused.reason.message
    assert (await host.adopt()).application_id == application.application_id
    assert (await host.deploy(application)).status is Status.SUCCEEDED
    assert "CHANGED=1" in (await host.inspect())["Config"]["Env"]


async def test_a_container_that_removes_itself_is_replaced_and_put_back(host: Host, pushes: Pushes) -> None:
    found = await host.run(
        Env=["A=1"], HostConfig={"AutoRemove": True, "PortBindings": {"8080/tcp": [{"HostPort": str(free_port())}]}}
    )
    application = await host.adopt()
    await pushes("broken", behaviour=Behaviour.EXITS)
    assert (await host.deploy(application)).status is Status.ROLLED_BACK
    like = await host.inspect()
    assert like["Id"] != found["Id"]
    assert (like["State"]["Running"], like["Image"], like["Config"]["Env"]) == (
        True,
        found["Image"],
        found["Config"]["Env"],
    )
    await pushes("v3")
    assert (await host.deploy(application)).status is Status.SUCCEEDED
    assert (await host.inspect())["HostConfig"]["AutoRemove"]

    async def alone() -> bool | None:
        return (await host.names()) == [host.name] or None

    await until(alone)
    assert (await host.roll_back(application)).status is Status.SUCCEEDED
    assert (await host.inspect())["Image"] == found["Image"]


@pytest.mark.parametrize("published", [False, True])
async def test_who_shares_its_network_is_made_anew_on_what_took_its_place(
    host: Host, pushes: Pushes, *, published: bool
) -> None:
    ports = {"PortBindings": {"8080/tcp": [{"HostPort": str(free_port())}]}} if published else {}
    holder = await host.run(HostConfig=ports)
    one, two, idle = (f"{host.name}-{word}" for word in ("one", "two", "idle"))
    first = await host.run(one, HostConfig={"NetworkMode": f"container:{holder['Id']}"}, Env=["A=1"], **BUSY)
    await host.run(two, HostConfig={"PidMode": f"container:{first['Id']}", "VolumesFrom": [first["Id"]]}, **BUSY)
    stopped = await host.run(idle, HostConfig={"NetworkMode": f"container:{holder['Id']}"}, **BUSY)
    await containers.stop(host.engine, stopped["Id"], grace=0)

    application = await host.adopt()
    await pushes("v2")
    deployment = await host.deploy(application)
    assert deployment.status is Status.SUCCEEDED
    now = (await host.inspect())["Id"]
    first = await host.inspect(one)
    assert (first["HostConfig"]["NetworkMode"], first["State"]["Running"]) == (f"container:{now}", True)
    assert first["Config"]["Env"] == ["A=1", "PATH=/bin"]
    second = await host.inspect(two)
    assert (second["HostConfig"]["PidMode"], second["HostConfig"]["VolumesFrom"], second["State"]["Running"]) == (
        f"container:{first['Id']}",
        [first["Id"]],
        True,
    )
    third = await host.inspect(idle)
    assert (third["HostConfig"]["NetworkMode"], third["State"]["Running"]) == (f"container:{now}", False)
    assert len(await host.names()) == 5  # these four, and what was replaced

    await pushes("broken", behaviour=Behaviour.EXITS)
    await host.deploy(application)
    served, joined = await host.inspect(), await host.inspect(one)
    assert served["Id"] == now
    assert joined["State"]["Running"]
    assert joined["State"]["StartedAt"] > served["State"]["StartedAt"]


async def test_a_dependent_that_is_adopted_too_joins_what_serves_now(host: Host, pushes: Pushes) -> None:
    holder = await host.run()
    one = f"{host.name}-one"
    await host.run(one, HostConfig={"NetworkMode": f"container:{holder['Id']}"}, **BUSY)
    main, beside = await host.adopt(), await host.adopt(one)
    await pushes("v2")
    assert (await host.deploy(main)).status is Status.SUCCEEDED
    assert (await host.deploy(beside)).status is Status.SUCCEEDED
    joined = await host.inspect(one)
    assert joined["HostConfig"]["NetworkMode"] == f"container:{(await host.inspect())['Id']}"
    assert joined["State"]["Running"]


async def test_deleting_the_application_leaves_what_it_never_replaced(host: Host, pushes: Pushes) -> None:
    found = await host.run()
    application = await host.adopt()
    await host.delete(application)
    assert (await host.inspect())["Id"] == found["Id"]


async def test_what_cannot_be_adopted_is_refused(host: Host, pushes: Pushes) -> None:
    with pytest.raises(NotFound, match="docker ps"):
        await host.adopt("nobody")
    await host.run()
    application = await host.adopt()
    await pushes("v2")
    await host.deploy(application)
    with pytest.raises(Conflict, match="belongs to the application"):
        await host.adopt()
