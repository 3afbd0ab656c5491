"""Tests that foreign containers are adopted, replaced and rolled back to, on a real engine."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.images import Behaviour, Image, push
from gateway.cli.demo.process import Refused, free_port, until
from gateway.docker import adoption
from gateway.docker.engine import containers, images
from gateway.docker.snapshot import observe, take_snapshot
from gateway.model.applications import Application
from gateway.model.deployments import Status
from gateway.model.errors import Code, Conflict, NotFound
from gateway.model.observations import State
from gateway.queue.enqueue import ADOPTED
from gateway.store import applications, observations, steps
from gateway.store.database import transaction
from tests.support.adoption_host import BUSY, Host
from tests.support.api_client import Web
from tests.support.command_line import CommandLine
from tests.support.databases import database_settings
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT


async def test_an_adopted_container_is_not_changed_until_the_first_push(host: Host, pushes: Pushes) -> None:
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


async def test_an_adopted_container_shows_its_state_at_once(host: Host) -> None:
    await host.run()
    application = await host.adopt()
    async with host.pool.acquire() as connection:
        seen = await observations.select_observations(connection, [application.application_id])
    assert seen[application.application_id].state is State.RUNNING


async def test_a_rollback_restores_the_adopted_container(host: Host, pushes: Pushes) -> None:
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
    with pytest.raises(Conflict, match="no earlier version to roll back to"):
        await host.roll_back(application)
    again = await host.roll_back(application, ADOPTED)
    assert again.status is Status.UNCHANGED

    forward = await host.deploy(application)
    assert forward.status is Status.SUCCEEDED


@pytest.mark.long
async def test_an_adopted_container_that_is_no_longer_kept_is_recreated(host: Host, pushes: Pushes) -> None:
    found = await host.run(Env=["A=1"])
    application = await host.adopt()
    await pushes("v2")
    await host.deploy(application)
    await containers.remove(host.engine, found["Id"])
    back = await host.roll_back(application)
    assert back.status is Status.SUCCEEDED, back.reason
    serving = await host.inspect()
    assert (serving["Image"], serving["Config"]["Env"]) == (found["Image"], found["Config"]["Env"])
    identity = await host.engine.identify()
    async with host.pool.acquire() as connection:
        (expected,), _ = await observations.select_expected(
            connection, identity.engine_id, [None], application_id=application.application_id
        )
    seen = observe(expected, await take_snapshot(host.engine, identity, {}))
    assert (seen.state, seen.detail) == (State.RUNNING, "")


async def test_an_adopted_container_is_put_back_when_the_first_version_fails(host: Host, pushes: Pushes) -> None:
    port = free_port()
    found = await host.run(HostConfig={"PortBindings": {"8080/tcp": [{"HostPort": str(port)}]}})
    application = await host.adopt()
    await pushes("v2", behaviour=Behaviour.EXITS)
    deployment = await host.deploy(application)
    assert deployment.status is Status.ROLLED_BACK
    serving = await host.inspect()
    assert (serving["Id"], serving["State"]["Running"]) == (found["Id"], True)
    assert await host.names() == [host.name]


async def test_start_first_with_a_published_port_is_rejected_and_changes_nothing(host: Host, pushes: Pushes) -> None:
    port = free_port()
    found = await host.run(HostConfig={"PortBindings": {"8080/tcp": [{"HostPort": str(port)}]}})
    application = await host.adopt()
    async with host.pool.acquire() as connection:
        chosen = {"configuration": {"order": "start-first"}}
        await applications.update_application(connection, VAULT, application.application_id, chosen)
    await pushes("v2")
    failed = await host.deploy(application)
    assert failed.reason is not None
    assert (failed.status, failed.reason.code) == (Status.FAILED, Code.BAD_CONFIGURATION)
    assert f"order is start-first, but two containers cannot both publish port {port}" in failed.reason.message
    assert await host.inspect() == found


async def test_an_anonymous_volume_keeps_its_data(host: Host, pushes: Pushes) -> None:
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
    await host.network(front, subnet="10.98.7.0/24")
    await host.network(back)
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
    short_id = {serving["Id"][:12]}  # until API 1.44 the engine makes it an alias
    assert set(networks[front]["Aliases"]) - short_id == {"web", "www"}
    assert set(networks[back]["Aliases"]) - short_id == {"internal"}
    assert serving["Config"]["Hostname"] == serving["Id"][:12]


@pytest.mark.parametrize("own", [False, True], ids=["the default network", "a network of its own"])
async def test_a_chosen_mac_address_is_kept(host: Host, pushes: Pushes, own: bool) -> None:
    """From API 1.44 on it is asked for with the network, not with the container."""
    network = f"front-{host.name}"
    if own:
        await host.network(network)
    mode = network if own else "default"
    before = await host.run(MacAddress="02:42:ac:11:77:01", HostConfig={"NetworkMode": mode})
    application = await host.adopt()
    await pushes("v2")
    assert (await host.deploy(application)).status is Status.SUCCEEDED
    serving = await host.inspect()
    assert serving["Id"] != before["Id"]
    (endpoint,) = serving["NetworkSettings"]["Networks"].values()
    assert endpoint["MacAddress"] == "02:42:ac:11:77:01"


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


COMPOSE = {
    "com.docker.compose.project": "shop",
    "com.docker.compose.service": "web",
    "com.docker.compose.container-number": "1",
}


@pytest.mark.parametrize(
    "replaced", [pytest.param(False, marks=pytest.mark.long), True], ids=["as it was found", "replaced since"]
)
async def test_a_container_recreated_by_compose_is_adopted_again(host: Host, pushes: Pushes, *, replaced: bool) -> None:
    await host.run(Labels=COMPOSE)
    application = await host.adopt()
    if replaced:
        await pushes("v2")
        await host.deploy(application)
    await containers.remove(host.engine, (await host.inspect())["Id"])
    await host.run(Labels=COMPOSE, Env=["CHANGED=1"])
    digest = await pushes("v3")
    deployment = await host.deploy(application)
    assert (deployment.status, deployment.digest, deployment.reason) == (Status.SUCCEEDED, digest, None)
    assert "CHANGED=1" in (await host.inspect())["Config"]["Env"]
    async with host.pool.acquire() as connection:
        found = await steps.select_steps(connection, [deployment.deployment_id])
    details = [step.detail for step in found[deployment.deployment_id]]
    assert f"Compose created {host.name} again: it was adopted as it is now" in details


@pytest.mark.long
async def test_a_container_recreated_from_a_compose_built_image_is_adopted_too(host: Host, pushes: Pushes) -> None:
    built = {name: value for name, value in COMPOSE.items() if not name.endswith("-number")}
    await push(Image("built", config={"Labels": built}), pushes.name())
    await host.run(Labels=COMPOSE)
    application = await host.adopt()
    await containers.remove(host.engine, (await host.inspect())["Id"])
    await host.run(Labels=COMPOSE, Env=["CHANGED=1"])
    await pushes("v3")
    assert (await host.deploy(application)).status is Status.SUCCEEDED
    assert "CHANGED=1" in (await host.inspect())["Config"]["Env"]

    await push(Image("all", config={"Labels": COMPOSE}), pushes.name("all"))
    await host.engine.images.pull(pushes.name("all"))
    await containers.remove(host.engine, (await host.inspect())["Id"])
    by_hand = await containers.create(host.engine, host.name, {"Image": pushes.name("all")}, {})
    refused = await host.deploy(application)
    assert refused.reason is not None
    assert (refused.status, refused.reason.code) == (Status.FAILED, Code.NAME_TAKEN)
    assert (await host.inspect())["Id"] == by_hand


@pytest.mark.long
async def test_a_container_recreated_from_another_image_changes_the_applications_image(
    host: Host, pushes: Pushes
) -> None:
    await host.run(Labels=COMPOSE)
    application = await host.adopt()
    await containers.remove(host.engine, (await host.inspect())["Id"])
    await pushes("other", "next")
    other = pushes.name("next")
    await host.engine.images.pull(other)
    made = await containers.create(host.engine, host.name, {"Image": other, "Labels": COMPOSE}, {})
    await containers.start(host.engine, made)
    await host.deploy(application, tag="next")
    assert (await host.application(application.application_id)).docker_image == other


async def test_a_container_recreated_by_compose_is_rejected_until_it_is_adopted_again(
    host: Host, pushes: Pushes
) -> None:
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


@pytest.mark.long
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
    assert await host.names() == [host.name]
    await pushes("v3")
    assert (await host.deploy(application)).status is Status.SUCCEEDED
    assert (await host.inspect())["HostConfig"]["AutoRemove"]

    async def alone() -> bool | None:
        return (await host.names()) == [host.name] or None

    await until(alone)
    assert (await host.roll_back(application)).status is Status.SUCCEEDED
    assert (await host.inspect())["Image"] == found["Image"]


@pytest.mark.long
@pytest.mark.parametrize("published", [pytest.param(False, marks=pytest.mark.long), True])
async def test_dependents_are_recreated_on_the_replacement(host: Host, pushes: Pushes, *, published: bool) -> None:
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
    assert (await host.inspect(two))["State"]["Running"]


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


async def test_the_command_adopts_and_shows_no_secret(
    host: Host, dockerd: PrivateEngine, postgres: str, tmp_path: Path
) -> None:
    await host.run(Env=["PASSWORD=hunter2"], Labels={"team": "hunter2"})
    shell = CommandLine(tmp_path, dockerd.host, await database_settings(postgres, "adopting"))
    shown = await shell.cli("apps", "adopt", host.name, "--name", "shop", "--json")
    assert "hunter2" not in shown
    told = orjson.loads(shown)
    assert (told["name"], told["appName"], told["dockerImage"]) == ("shop", host.name, host.pushes.name())
    assert told["adopted"]["variables"] == ["PASSWORD"]
    listed = await shell.cli("apps", "show", "shop")
    assert "variables PASSWORD" in listed
    assert "hunter2" not in listed
    with pytest.raises(Refused, match="docker ps"):
        await shell.cli("apps", "adopt", "nobody")


async def test_the_procedure_adopts_where_the_engine_answers(host: Host, web: Web) -> None:
    await host.run(Env=["PASSWORD=hunter2"])
    status, _ = await web.post("/api/trpc/application.adopt", {"container": host.name})
    assert status == 503
    (there,) = web.rollouts.engines
    there.engine, there.error = host.engine, None
    told = await web.mutate("application.adopt", container=host.name)
    shown = await web.query("application.one", applicationId=told["applicationId"])
    assert shown["adopted"] == told["adopted"]
    assert "hunter2" not in str(shown)
    status, _ = await web.post("/api/trpc/application.adopt", {"container": host.name, "serverId": "elsewhere"})
    assert status == 404


async def test_what_was_adopted_is_not_listed_as_free_and_adopting_it_again_changes_nothing(
    host: Host, web: Web
) -> None:
    async def listed() -> tuple[bool, bool]:
        found = await web.query("application.adoptable")
        declared = (await web.query("declaration.export", engine=True))["document"].get("applications", {})
        return host.name in {one["name"] for one in found}, host.name in declared

    async def recorded() -> tuple[Application, Any]:
        page = await web.query("audit.list", applicationId=told["applicationId"])
        entries = [one for one in page["items"] if one["noun"]]
        async with transaction(web.pool) as connection:
            return await applications.select_application(connection, VAULT, told["applicationId"]), entries

    (there,) = web.rollouts.engines
    there.engine, there.error = host.engine, None
    found = await host.run(**BUSY)
    assert await listed() == (True, True)
    told = await web.mutate("application.adopt", container=host.name, name="The shop")
    assert await listed() == (False, False)
    await web.mutate("application.update", applicationId=told["applicationId"], dockerImage="acme/chosen:v2")
    before = await recorded()
    again = await web.mutate("application.adopt", container=host.name)
    assert (again["applicationId"], again["name"]) == (told["applicationId"], "The shop")
    assert await recorded() == before

    await host.engine.call("POST", f"containers/{found['Id']}/update", body={"RestartPolicy": {"Name": "always"}})
    await web.mutate("application.adopt", container=host.name)
    application, _ = await recorded()
    assert application.docker_image == "acme/chosen:v2"
    assert application.adopted_spec is not None
    assert application.adopted_spec.found["HostConfig"]["RestartPolicy"]["Name"] == "always"


async def test_the_gateways_own_container_is_refused(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    found = await host.run()
    monkeypatch.setattr(adoption, "gethostname", lambda: found["Config"]["Hostname"])
    with pytest.raises(Conflict, match="the gateway itself"):
        await host.adopt()


async def test_a_container_that_cannot_be_adopted_is_rejected(host: Host, pushes: Pushes) -> None:
    with pytest.raises(NotFound, match="docker ps"):
        await host.adopt("nobody")
    await host.run()
    application = await host.adopt()
    await pushes("v2")
    await host.deploy(application)
    with pytest.raises(Conflict, match="belongs to the application"):
        await host.adopt()
