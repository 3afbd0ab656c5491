"""A key for some applications does not reach the host, nor what belongs to others."""

from typing import Any

import pytest

from gateway.api.context import CONTEXT
from gateway.model.adoption import AdoptedSpec
from gateway.model.api_keys import Permission
from gateway.model.configuration import Configuration
from gateway.model.host_privileges import required_privileges
from gateway.store import applications
from tests.integration.api.test_api_keys import a_key, asking_with
from tests.support.api_client import VAULT, Web

REACHING: list[dict[str, Any]] = [
    {"mounts": [{"type": "bind", "source": "/", "target": "/host"}]},
    {"volumes": [{"type": "bind", "source": "/var/run/docker.sock", "target": "/s", "readOnly": True}]},
    {"mounts": [{"type": "bind", "hostPath": "/etc", "mountPath": "/e"}]},
    {"mounts": [{"type": "volume", "source": "another-data", "target": "/d"}]},
    {"capAdd": ["SYS_ADMIN"]},
    {"capAdd": ["CAP_NET_ADMIN"]},
    {"capAdd": ["ALL"]},
    {"networks": ["host"]},
    {"networks": ["shop-internal"]},
    {"networkSwarm": [{"Target": "shop-internal"}]},
    {"stopGrace": 121},
    {"stopGracePeriodSwarm": 3600 * 10**9},
]


async def mine_and_another(web: Web) -> str:
    """Make two applications in a project of their own each; return a key of scope admin for the first."""
    for name in ("mine", "another"):
        made = await web.mutate("project.create", name=name, env=f"PASSWORD=hush-{name}")
        given = {"name": name, "applicationId": name, "dockerImage": f"acme/{name}"}
        await web.mutate("application.create", **given, environmentId=made["environment"]["environmentId"])
    return (await a_key(web, "mine"))[0]


@pytest.mark.parametrize("reaching", REACHING, ids=str)
async def test_a_key_for_an_application_does_not_let_it_reach_beyond_its_container(
    web: Web, reaching: dict[str, Any]
) -> None:
    key = await mine_and_another(web)
    async with asking_with(web, key):
        for procedure in ("application.update", "application.saveEnvironment", "application.saveDockerProvider"):
            status, answer = await web.post(f"/api/{procedure}", {"applicationId": "mine", **reaching})
            assert (status, answer["code"]) == (403, "FORBIDDEN")
            assert "is restricted: it may not let an application" in answer["message"]
            assert answer["message"].endswith("Use an unrestricted admin key, or set GATEWAY_HOST_POWERS=any.")
    await web.mutate("application.update", applicationId="mine", **reaching)
    async with asking_with(web, key):
        # What the one who may has set stays, whatever else is changed.
        await web.mutate("application.update", applicationId="mine", **reaching, memoryLimit="64m")


async def test_a_mount_that_reaches_the_host_is_not_made_or_changed_into_one_by_itself(web: Web) -> None:
    key = await mine_and_another(web)
    bind = {"type": "bind", "hostPath": "/root", "mountPath": "/r"}
    async with asking_with(web, key):
        assert (await web.post("/api/mounts.create", {"serviceId": "mine", **bind}))[0] == 403
        file = await web.mutate("mounts.create", serviceId="mine", type="file", mountPath="/f", content="c")
        assert (await web.post("/api/mounts.update", {"mountId": file["mountId"], **bind}))[0] == 403
    reading = await web.mutate("mounts.create", serviceId="mine", **bind, readOnly=True)
    async with asking_with(web, key):
        assert (await web.post("/api/mounts.update", {"mountId": reading["mountId"], "readOnly": False}))[0] == 403
        assert (await web.post("/api/mounts.update", {"mountId": reading["mountId"], "hostPath": "/"}))[0] == 403
        await web.mutate("mounts.update", mountId=reading["mountId"], mountPath="/elsewhere")


async def test_on_a_network_it_is_on_an_application_takes_no_name_of_others(web: Web) -> None:
    key = await mine_and_another(web)
    on = {"applicationId": "mine", "networkSwarm": [{"Target": "front", "Aliases": ["mine"]}]}
    await web.mutate("application.update", **on)
    async with asking_with(web, key):
        await web.mutate("application.update", **on)
        for more in ({"Aliases": ["mine", "another"]}, {"Aliases": ["mine"], "DriverOpts": {"o": "1"}}):
            wish = {"applicationId": "mine", "networkSwarm": [{"Target": "front", **more}]}
            assert (await web.post("/api/application.update", wish))[0] == 403


async def test_a_project_s_key_makes_no_application_that_reaches_the_host(web: Web) -> None:
    made = await web.mutate("project.create", name="mine")
    key, _ = await a_key(web, projects=[made["project"]["projectId"]])
    given = {"name": "web", "environmentId": made["environment"]["environmentId"]}
    async with asking_with(web, key):
        for reaching in REACHING:
            assert (await web.post("/api/application.create", {**given, **reaching}))[0] == 403
        assert await web.query("application.all") == []
        await web.mutate("application.create", **given, capAdd=["NET_BIND_SERVICE"], capDrop=["ALL"])


async def test_an_application_s_own_volume_is_known_by_its_name(web: Web) -> None:
    key = await mine_and_another(web)
    mine = (await web.query("application.one", applicationId="mine"))["appName"]
    await web.mutate(
        "application.update",
        applicationId="another",
        mounts=[{"type": "volume", "source": f"{mine}-theirs", "target": "/d"}],
    )
    volume = {"serviceId": "mine", "type": "volume", "mountPath": "/d"}
    async with asking_with(web, key):
        assert (await web.post("/api/mounts.create", {**volume, "volumeName": f"{mine}-theirs"}))[0] == 403
        await web.mutate("mounts.create", **volume, volumeName=f"{mine}-data")


async def test_a_project_s_key_takes_no_volume_by_naming_a_container_after_it(web: Web) -> None:
    made = await web.mutate("project.create", name="mine")
    key, _ = await a_key(web, projects=[made["project"]["projectId"]])
    given = {"name": "web", "environmentId": made["environment"]["environmentId"], "containerName": "erp_data"}
    async with asking_with(web, key):
        taking = {"mounts": [{"type": "volume", "source": "erp_data", "target": "/d"}]}
        assert (await web.post("/api/application.create", {**given, **taking}))[0] == 403
        application = await web.mutate("application.create", **given)
        volume = {"serviceId": application["applicationId"], "type": "volume", "mountPath": "/d"}
        for name in ("erp_data", "erp_data-more"):
            assert (await web.post("/api/mounts.create", {**volume, "volumeName": name}))[0] == 403
    assert application["appName"].startswith("erp_data-")
    assert (await web.mutate("application.create", **given))["appName"] == "erp_data"


async def test_a_file_named_like_a_volume_of_another_does_not_become_that_volume(web: Web) -> None:
    key = await mine_and_another(web)
    volume = f"{(await web.query('application.one', applicationId='mine'))['appName']}-theirs"
    theirs = [{"type": "volume", "source": volume, "target": "/d"}]
    await web.mutate("application.update", applicationId="another", mounts=theirs)
    async with asking_with(web, key):
        file = {"serviceId": "mine", "type": "file", "mountPath": "/d", "filePath": volume}
        made = await web.mutate("mounts.create", **file)
        change = {"mountId": made["mountId"], "type": "volume", "volumeName": volume}
        status, answer = await web.post("/api/mounts.update", change)
        assert (status, answer["code"]) == (403, "FORBIDDEN")
        status, _ = await web.post("/api/application.update", {"applicationId": "mine", "mounts": theirs})
        assert status == 403


async def test_a_file_of_another_does_not_keep_an_application_from_a_volume_of_that_name(web: Web) -> None:
    key = await mine_and_another(web)
    volume = f"{(await web.query('application.one', applicationId='mine'))['appName']}-data"
    await web.mutate("mounts.create", serviceId="another", type="file", mountPath="/d", filePath=volume)
    async with asking_with(web, key):
        await web.mutate("mounts.create", serviceId="mine", type="volume", mountPath="/d", volumeName=volume)


def adopted_with(volume: str) -> dict[str, dict[str, Any]]:
    """Return what engines report of containers and services that have the volume, by the way it was written."""
    mount = {"Type": "volume", "Source": volume, "Target": "/d"}
    service = {"Name": "pg", "TaskTemplate": {"ContainerSpec": {"Image": "pg", "Mounts": [mount]}}}
    return {
        "bind": {"Name": "/pg", "Config": {}, "HostConfig": {"Binds": [f"{volume}:/d:ro"], "Mounts": None}},
        "mount": {"Name": "/pg", "Config": {}, "HostConfig": {"Binds": None, "Mounts": [mount]}},
        "service": service,
    }


@pytest.mark.parametrize("way", ["bind", "mount", "service"])
async def test_a_volume_that_another_application_was_adopted_with_is_that_one_s(web: Web, way: str) -> None:
    key = await mine_and_another(web)
    mine = (await web.query("application.one", applicationId="mine"))["appName"]
    found = adopted_with(f"{mine}-theirs")[way]
    base = AdoptedSpec(found, "c" * 64, "acme/pg", "sha256:" + "d" * 64, is_service=way == "service")
    async with web.pool.acquire() as connection:
        await applications.update_application(connection, VAULT, "another", {"base": base.dump()})
    volume = {"serviceId": "mine", "type": "volume", "mountPath": "/d"}
    async with asking_with(web, key):
        status, answer = await web.post("/api/mounts.create", {**volume, "volumeName": f"{mine}-theirs"})
        assert (status, answer["code"]) == (403, "FORBIDDEN")
        await web.mutate("mounts.create", **volume, volumeName=f"{mine}-data")


async def test_while_an_adoption_cannot_be_decrypted_a_restricted_key_adds_no_volume(web: Web) -> None:
    key = await mine_and_another(web)
    mine = (await web.query("application.one", applicationId="mine"))["appName"]
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE applications SET base = 'lost' WHERE application_id = 'another'")
    async with asking_with(web, key):
        volume = {"serviceId": "mine", "type": "volume", "mountPath": "/d", "volumeName": f"{mine}-data"}
        assert (await web.post("/api/mounts.create", volume))[0] == 403


async def test_a_restricted_key_sees_the_id_of_an_application_s_server_and_not_its_address(web: Web) -> None:
    await mine_and_another(web)
    server = (await web.mutate("server.create", name="other", host="unix:///run/other.sock"))["serverId"]
    await web.mutate("application.update", applicationId="mine", serverId=server)
    assert (await web.query("application.one", applicationId="mine"))["server"]["host"] == "unix:///run/other.sock"
    for permission in Permission:
        key, _ = await a_key(web, "mine", permission=permission)
        async with asking_with(web, key):
            found = await web.query("application.one", applicationId="mine")
            assert (found["serverId"], found["server"]) == (server, None)
            assert (await web.get("/api/server.one", serverId=server))[0] == 403


async def test_a_setting_allows_it(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    key = await mine_and_another(web)
    monkeypatch.setitem(web.client.server.app[CONTEXT].settings.__dict__, "host_powers", "any")
    async with asking_with(web, key):
        for reaching in REACHING:
            await web.mutate("application.update", applicationId="mine", **reaching)


@pytest.mark.parametrize(
    "named",
    [
        "${{project.PASSWORD}}",
        "${{ project.PASSWORD }}",
        "${{environment.X}}",
        r'"${{x\n${{project.PASSWORD}}"',
        "'${{x\r${{project.PASSWORD}}'",
        r"1\nB=${{project.PASSWORD}}",
    ],
)
async def test_a_key_for_an_application_does_not_read_its_project_s_variables(web: Web, named: str) -> None:
    key = await mine_and_another(web)
    async with asking_with(web, key):
        for procedure in ("application.update", "application.saveEnvironment"):
            status, answer = await web.post(f"/api/{procedure}", {"applicationId": "mine", "env": f"A={named}"})
            assert (status, answer["code"]) == (403, "FORBIDDEN")
        await web.mutate("application.saveEnvironment", applicationId="mine", env="A=1\nB=${{A}}")
    await web.mutate("application.saveEnvironment", applicationId="mine", env="A=${{project.PASSWORD}}")
    async with asking_with(web, key):
        await web.mutate("application.saveEnvironment", applicationId="mine", env="A=${{project.PASSWORD}}\nC=2")


async def test_a_key_for_a_project_names_its_variables_and_no_other_s(web: Web) -> None:
    await mine_and_another(web)
    projects = {one["name"]: one for one in await web.query("project.all")}
    key, _ = await a_key(web, projects=[projects["mine"]["projectId"]])
    theirs = projects["another"]["environments"][0]["environmentId"]
    async with asking_with(web, key):
        await web.mutate("application.saveEnvironment", applicationId="mine", env="A=${{project.PASSWORD}}")
        move = {"applicationId": "mine", "targetEnvironmentId": theirs}
        assert (await web.post("/api/application.move", move))[0] == 403
        into = {"applicationId": "mine", "environmentId": theirs}
        assert (await web.post("/api/application.update", into))[0] == 403


async def test_a_key_for_an_application_moves_it_nowhere(web: Web) -> None:
    key = await mine_and_another(web)
    theirs = (await web.query("application.one", applicationId="another"))["environmentId"]
    own = (await web.query("application.one", applicationId="mine"))["environmentId"]
    server = await web.mutate("server.create", name="other", host="unix:///run/other.sock")
    async with asking_with(web, key):
        for target in (theirs, own):
            move = {"applicationId": "mine", "targetEnvironmentId": target}
            assert (await web.post("/api/application.move", move))[0] == 403
            into = {"applicationId": "mine", "environmentId": target}
            assert (await web.post("/api/application.update", into))[0] == 403
        elsewhere = {"applicationId": "mine", "serverId": server["serverId"]}
        assert (await web.post("/api/application.update", elsewhere))[0] == 403
        assert (await web.post("/api/application.adopt", {"container": "db", "applicationId": "mine"}))[0] == 403


def test_every_field_of_a_configuration_was_thought_of() -> None:
    """A field that is added reaches the host, or is named here as one that does not."""
    harmless = {
        "command", "args", "user", "working_dir", "hostname", "init", "memory_limit", "memory_reservation", "cpu_limit",
        "cpu_reservation", "replicas", "ports", "tmpfs", "read_only", "cap_drop", "extra_hosts", "labels", "runtime",
        "order", "drain", "kept", "health_check_swarm", "probe", "health_deadline", "stable_window", "watch",
        "restart_policy_swarm", "placement_swarm", "update_config_swarm", "rollback_config_swarm", "mode_swarm",
        "endpoint_spec_swarm", "ulimits_swarm", "heal",
    }  # fmt: skip
    reaching = {"mounts", "cap_add", "networks", "network_swarm", "stop_grace"}
    assert harmless | reaching == set(Configuration.model_fields)
    assert required_privileges(Configuration(), "web") == {}


async def test_a_key_to_deploy_sets_nothing_of_this(web: Web) -> None:
    await mine_and_another(web)
    key, _ = await a_key(web, permission=Permission.DEPLOY)
    async with asking_with(web, key):
        for reaching in REACHING:
            await web.mutate("application.deploy", applicationId="mine", **reaching)
    assert (await web.query("application.one", applicationId="mine"))["mounts"] == []
