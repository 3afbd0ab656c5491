"""Ports, mounts and what is pending, over the API: refused by the field's name, and nothing is changed then."""

import orjson
import pytest

from gateway.model.deployments import Kind
from gateway.model.reference import Digest
from gateway.store import applications
from tests.support.api_client import VAULT, Web
from tests.support.served_versions import record_version

PORT = {"publishedPort": 3000, "targetPort": 80}
FILE = {"type": "file", "mountPath": "/etc/web.conf", "content": "password = hunter2"}
OWNERS = ("composeId", "libsqlId", "mariadbId", "mongoId", "mysqlId", "postgresId", "redisId")


async def an_app(web: Web, **more: object) -> None:
    await web.mutate("application.create", name="app", applicationId="app", dockerImage="acme/app:v1", **more)


async def refused(web: Web, procedure: str, **given: object) -> tuple[int, list[object]]:
    """Return the status and the path of the field, seen to be the same on both surfaces, and that nothing changed."""
    before = await web.query("application.one", applicationId="app")
    status, answer = await web.post(f"/api/trpc/{procedure}", given)
    rest_status, rest = await web.post(f"/api/{procedure}", given)
    assert status == rest_status
    assert before == await web.query("application.one", applicationId="app")
    if "issues" not in rest:
        return status, [answer["error"]["json"]["message"]]
    path = rest["issues"][0]["path"]
    assert next(iter(answer["error"]["json"]["data"]["zodError"]["fieldErrors"])) == path[0]
    return status, path


async def pending_of(web: Web, path: str, **given: object) -> str | None:
    """Return the header of a change."""
    headers = {"x-api-key": web.key, "Content-Type": "application/json"}
    async with web.client.post(path, data=orjson.dumps(given), headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        found: str | None = answer.headers.get("X-Pending-Changes")
        return found


# -- ports


async def test_a_port_is_made_shown_changed_and_removed(web: Web) -> None:
    await an_app(web)
    made = await web.mutate("port.create", applicationId="app", **PORT)
    assert made == {
        "portId": made["portId"],
        **PORT,
        "publishMode": "ingress",
        "protocol": "tcp",
        "applicationId": "app",
        "hostIp": None,
    }
    assert (await web.query("application.one", applicationId="app"))["ports"] == [made]
    assert await web.query("port.one", portId=made["portId"]) == made
    changed = await web.mutate("port.update", portId=made["portId"], publishedPort=3001, publishMode="host")
    assert changed == {**made, "publishedPort": 3001, "publishMode": "host"}
    assert await web.query("port.one", portId=made["portId"]) == changed
    assert await web.mutate("port.delete", portId=made["portId"]) == changed
    assert (await web.query("application.one", applicationId="app"))["ports"] == []


@pytest.mark.parametrize("procedure", ["port.update", "port.delete", "mounts.update", "mounts.remove"])
async def test_a_part_that_is_not_there_is_not_found(web: Web, procedure: str) -> None:
    noun = procedure.partition(".")[0].removesuffix("s")
    status, answer = await web.post(f"/api/{procedure}", {f"{noun}Id": "nobody", "mountPath": "/x"})
    assert (status, answer["message"]) == (404, f"{noun.capitalize()} not found")
    assert (await web.get(f"/api/{procedure.partition('.')[0]}.one", **{f"{noun}Id": "nobody"}))[0] == 404


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"publishedPort": 0}, ["publishedPort"]),
        ({"publishedPort": 3000}, ["publishedPort"]),
        ({"targetPort": "eighty"}, ["targetPort"]),
        ({"protocol": "icmp"}, ["protocol"]),
        ({"publishMode": "mesh"}, ["publishMode"]),
        ({"hostIp": "localhost"}, ["hostIp"]),
    ],
    ids=str,
)
async def test_a_wrong_port_is_refused_by_its_field(web: Web, wrong: dict[str, object], path: list[object]) -> None:
    await an_app(web, ports=[PORT])
    await web.mutate("port.create", applicationId="app", publishedPort=4000, targetPort=81)
    (_, other) = (await web.query("application.one", applicationId="app"))["ports"]
    new = {"applicationId": "app", "publishedPort": 5000, "targetPort": 80}
    assert await refused(web, "port.create", **{**new, **wrong}) == (400, path)
    assert await refused(web, "port.update", portId=other["portId"], **wrong) == (400, path)


async def test_a_port_of_nobody_is_not_made(web: Web) -> None:
    status, answer = await web.post("/api/port.create", {"applicationId": "nobody", **PORT})
    assert (status, answer["message"]) == (404, "Application not found")


# -- mounts


async def test_a_mount_is_made_shown_changed_and_removed(web: Web) -> None:
    await an_app(web)
    made = await web.mutate("mounts.create", type="volume", volumeName="data", mountPath="/data", serviceId="app")
    assert made == {
        **dict.fromkeys(OWNERS),
        **dict.fromkeys(("hostPath", "filePath", "content")),
        "mountId": made["mountId"],
        "type": "volume",
        "volumeName": "data",
        "mountPath": "/data",
        "serviceType": "application",
        "applicationId": "app",
        "source": "data",
        "target": "/data",
        "readOnly": False,
    }
    assert await web.query("mounts.one", mountId=made["mountId"]) == made
    assert await web.query("mounts.listByServiceId", serviceId="app", serviceType="application") == [made]
    changed = await web.mutate("mounts.update", mountId=made["mountId"], type="bind", hostPath="/srv")
    assert changed == {**made, "type": "bind", "hostPath": "/srv", "volumeName": None, "source": "/srv"}
    assert await web.query("mounts.one", mountId=made["mountId"]) == changed
    assert await web.mutate("mounts.remove", mountId=made["mountId"]) == changed
    assert (await web.query("application.one", applicationId="app"))["mounts"] == []


async def test_a_volume_is_known_by_the_file_path_it_was_sent_with(web: Web) -> None:
    await an_app(web)
    given = {"type": "volume", "volumeName": "data", "mountPath": "/data", "serviceId": "app"}
    made = await web.mutate("mounts.create", **given, filePath="kept")
    assert (made["filePath"], made["volumeName"]) == ("kept", "data")
    changed = await web.mutate("mounts.update", mountId=made["mountId"], mountPath="/other")
    assert (changed["filePath"], changed["mountPath"]) == ("kept", "/other")
    assert (await web.query("application.one", applicationId="app"))["mounts"] == [changed]
    await web.mutate("mounts.create", **FILE, serviceId="app")
    assert await web.query("mounts.allNamedByApplicationId", applicationId="app") == [changed]


async def test_what_a_file_holds_is_sealed_at_rest_and_shown_to_who_may_change_it(web: Web) -> None:
    await an_app(web)
    made = await web.mutate("mounts.create", **FILE, filePath="web.conf", serviceId="app")
    assert (made["filePath"], made["content"]) == ("web.conf", "password = hunter2")
    async with web.pool.acquire() as connection:
        row = await connection.fetchval("SELECT applications::text FROM applications")
    assert "hunter2" not in row
    changed = await web.mutate("mounts.update", mountId=made["mountId"], content="password = hunter3")
    assert changed == {**made, "content": "password = hunter3"}
    await web.mutate("application.update", applicationId="app", memoryLimit="64m")
    assert await web.query("mounts.one", mountId=made["mountId"]) == changed


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"type": "nfs"}, ["type"]),
        ({"mountPath": "relative"}, ["mountPath"]),
        ({"mountPath": "/taken"}, ["mountPath"]),
        ({"volumeName": "../x"}, ["volumeName"]),
        ({"type": "bind"}, ["hostPath"]),
        ({"type": "bind", "hostPath": "srv"}, ["hostPath"]),
        ({"content": "only for files"}, ["content"]),
        ({"serviceType": "postgres"}, ["serviceType"]),
    ],
    ids=str,
)
async def test_a_wrong_mount_is_refused_by_its_field(web: Web, wrong: dict[str, object], path: list[object]) -> None:
    taken = {"source": "taken", "target": "/taken"}
    await an_app(web, mounts=[taken, {"source": "data", "target": "/data"}])
    (_, other) = (await web.query("application.one", applicationId="app"))["mounts"]
    new = {"type": "volume", "volumeName": "new", "mountPath": "/new", "serviceId": "app"}
    assert await refused(web, "mounts.create", **{**new, **wrong}) == (400, path)
    assert await refused(web, "mounts.update", mountId=other["mountId"], **wrong) == (400, path)


# -- the whole configuration


async def test_the_rows_of_an_application_are_taken_back_and_keep_their_names(web: Web) -> None:
    await an_app(web, ports=[PORT], volumes=[{"source": "data", "target": "/data", "type": "volume"}, FILE])
    shown = await web.query("application.one", applicationId="app")
    parts = {"ports": shown["ports"], "mounts": shown["mounts"]}
    assert await web.mutate("application.update", applicationId="app", **parts) is True
    assert await web.query("application.one", applicationId="app") == shown


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"ports": [PORT, {"targetPort": 80, "publishedPort": 0}]}, ["ports", 1, "publishedPort"]),
        ({"ports": [PORT, PORT]}, ["ports", 1, "publishedPort"]),
        ({"volumes": [{"source": "../x", "target": "/x"}]}, ["volumes", 0, "source"]),
        ({"volumes": [{"source": "x", "target": "x"}]}, ["volumes", 0, "target"]),
        ({"mounts": [{"type": "bind", "hostPath": "x", "mountPath": "/x"}]}, ["mounts", 0, "hostPath"]),
        ({"volumes": [{"volumeName": "x", "mountPath": "/x"}] * 2}, ["volumes", 1, "mountPath"]),
        ({"memoryLimit": "64m", "memoryReservation": "1g"}, ["memoryReservation"]),
        ({"labelsSwarm": {"gateway.x": "1"}}, ["labelsSwarm"]),
        ({"healthCheckSwarm": {"Retries": -1}}, ["healthCheckSwarm", "Retries"]),
        ({"ulimitsSwarm": [{"Name": "nofile", "Soft": 2, "Hard": 1}]}, ["ulimitsSwarm", 0, "Soft"]),
        ({"volumes": [], "mounts": [FILE]}, ["volumes"]),
    ],
    ids=str,
)
async def test_a_wrong_configuration_is_refused_by_its_place(
    web: Web, wrong: dict[str, object], path: list[object]
) -> None:
    await an_app(web)
    assert await refused(web, "application.update", applicationId="app", **wrong) == (400, path)
    status, _ = await web.post("/api/application.create", {"name": "b", **wrong})
    assert (status, await web.count("applications")) == (400, 1)


# -- what is pending


async def serve(web: Web) -> None:
    """Let the application have been deployed as it is."""
    async with web.pool.acquire() as connection:
        found = await applications.select_application(connection, VAULT, "app")
        deployment_id = await connection.fetchval(
            """
            INSERT INTO deployments
                   (application_id, kind, forced, status, title, reference, digest, replaced, finished_at)
            VALUES ('app', $1, false, 'succeeded', '', $2, $3, true, now())
            RETURNING deployment_id
            """,
            Kind.DEPLOY,
            str(found.reference),
            Digest("sha256:" + "a" * 64),
        )
        await record_version(connection, deployment_id, found)


async def test_a_change_says_what_the_next_deployment_will_change(web: Web) -> None:
    await an_app(web, env="TOKEN=hunter2", kept=1, mounts=[FILE])
    await serve(web)
    assert await web.query("application.pending", applicationId="app") == []
    update = "/api/trpc/application.update"
    assert await pending_of(web, update, applicationId="app", kept=2) is None
    assert await pending_of(web, update, applicationId="app", env="TOKEN=hunter3\nB=1") == "env"
    image = {"applicationId": "app", "dockerImage": "acme/app:v2"}
    assert await pending_of(web, "/api/application.saveDockerProvider", **image) == "dockerImage, env"
    assert await pending_of(web, "/api/port.create", applicationId="app", **PORT) == "dockerImage, env, ports"
    found = await web.query("application.pending", applicationId="app")
    assert found == [
        {"field": "dockerImage", "runs": "docker.io/acme/app:v1", "wanted": "docker.io/acme/app:v2"},
        {"field": "env", "runs": ["TOKEN"], "wanted": "B added, TOKEN changed"},
        {"field": "ports", "runs": [], "wanted": [{**found[2]["wanted"][0], **PORT}]},
    ]
    assert "hunter" not in str(found)
    assert (await web.get("/api/application.pending", applicationId="nobody"))[0] == 404


async def test_a_variable_of_the_project_that_changed_is_pending(web: Web) -> None:
    made = await web.mutate("project.create", name="shop", env="HOST=one")
    environment = made["environment"]["environmentId"]
    await an_app(web, env="URL=http://${{project.HOST}}", environmentId=environment)
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE applications SET environment_id = $1", environment)
    await serve(web)
    found = await web.query("application.pending", applicationId="app")
    assert [(one["field"], one["wanted"]) for one in found] == [("env", "URL changed")]
