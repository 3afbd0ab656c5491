"""What was deployed is listed, read, forgotten and gone back to, and what runs stays known."""

from typing import Any

import pytest

from gateway.model.api_keys import Grants
from gateway.model.deployments import Status
from gateway.model.errors import Code
from gateway.store import api_keys
from tests.integration.queue.test_rollback import created, served
from tests.support.api_client import Web
from tests.support.concluding import conclude

DIGEST = f"sha256:{1:064x}"


async def _versions(web: Web, count: int = 3) -> list[str]:
    await created(web)
    return [await served(web, number) for number in range(count)]


async def test_each_version_that_served_can_be_gone_back_to(web: Web) -> None:
    first, second, _ = await _versions(web)
    rows = await web.query("deployment.allByType", id="app", type="application")
    found = {row["deploymentId"]: row["rollback"] for row in rows}
    assert (found[second]["rollbackId"], found[second]["version"]) == (second, 2)
    assert found[second]["image"] == f"registry.example.com/web:latest@{DIGEST}"
    assert (await web.query("deployment.one", deploymentId=second))["rollbackId"] == second
    status, body = await web.post("/api/rollback.rollback", {"rollbackId": first})
    assert (status, body) == (200, b"")
    (queued,) = [row for row in await web.query("deployment.all", applicationId="app") if row["state"] == "queued"]
    assert (queued["kind"], queued["rollsBackTo"], queued["rollbackId"]) == ("rollback", first, None)


async def test_what_never_served_is_no_version(web: Web) -> None:
    await created(web)
    await web.mutate("application.deploy", applicationId="app")
    (row,) = await web.query("deployment.allByType", id="app", type="application")
    assert row["rollback"] is None
    for procedure in ("rollback.rollback", "rollback.delete"):
        for one in (row["deploymentId"], "nobody"):
            status, answer = await web.post(f"/api/{procedure}", {"rollbackId": one})
            assert (status, answer["message"]) == (404, "Rollback not found")


async def test_a_version_that_is_forgotten_is_not_gone_back_to(web: Web) -> None:
    first, second, third = await _versions(web)
    forgotten = await web.mutate("rollback.delete", rollbackId=second)
    assert (forgotten["rollbackId"], forgotten["version"]) == (second, 2)
    assert (await web.post("/api/rollback.rollback", {"rollbackId": second}))[0] == 404
    await web.mutate("application.rollback", applicationId="app")
    (queued,) = [row for row in await web.query("deployment.all", applicationId="app") if row["state"] == "queued"]
    assert queued["rollsBackTo"] == first
    status, answer = await web.post("/api/rollback.delete", {"rollbackId": first})
    assert (status, "queued or running rollback" in answer["message"]) == (409, True)
    assert (await web.query("deployment.one", deploymentId=third))["rollbackId"] == third


async def test_of_other_kinds_there_is_none(web: Web) -> None:
    await created(web)
    assert await web.query("deployment.allByType", id="app", type="compose") == []
    assert (await web.get("/api/deployment.allByType", id="app", type="nothing"))[0] == 400


async def test_one_that_has_ended_is_forgotten_and_what_runs_is_not(web: Web) -> None:
    first, second = await _versions(web, 2)
    removed = await web.mutate("deployment.removeDeployment", deploymentId=first)
    assert removed["deploymentId"] == first
    await web.mutate("application.deploy", applicationId="app")
    waits = (await web.query("deployment.queueList"))[0]["id"]
    for one, status in ((first, 404), (second, 409), (waits, 409)):
        assert (await web.post("/api/deployment.removeDeployment", {"deploymentId": one}))[0] == status
    assert {row["deploymentId"] for row in await web.query("deployment.all", applicationId="app")} == {second, waits}


async def test_the_queue_and_all_deployments_name_their_application_and_its_place(web: Web) -> None:
    made = await web.mutate("project.create", name="Shop")
    place = made["environment"]["environmentId"]
    for name in ("one", "two"):
        given: dict[str, Any] = {"environmentId": place} if name == "two" else {}
        await web.mutate("application.create", name=name, applicationId=name, dockerImage="acme/web", **given)
        await web.mutate("application.deploy", applicationId=name, title=f"Deploy {name}")
    first, second = await web.query("deployment.queueList")
    assert (first["data"]["applicationId"], second["data"]["applicationId"]) == ("one", "two")
    assert (second["data"]["titleLog"], second["state"], second["processedOn"]) == ("Deploy two", "waiting", None)
    assert second["servicePath"]["label"] == "two"
    assert made["project"]["projectId"] in second["servicePath"]["href"]
    rows = await web.query("deployment.allCentralized")
    assert [row["application"]["environment"]["project"]["name"] for row in rows] == ["Shop", "Default"]
    async with web.pool.acquire() as connection, connection.transaction():
        web.key, _ = await api_keys.insert_key(connection, "one", grants=Grants(frozenset({"one"})))
    assert [job["data"]["applicationId"] for job in await web.query("deployment.queueList")] == ["one"]
    assert [row["applicationId"] for row in await web.query("deployment.allCentralized")] == ["one"]


async def test_how_it_went_is_read_as_text(web: Web) -> None:
    (deployment,) = await _versions(web, 1)
    async with web.pool.acquire() as connection:
        await connection.execute(
            """
            UPDATE deployments
               SET status = 'failed', reason_code = 'exited', reason_message = 'it exited with 3',
                   log = E'line 1\\nboom\\n'
             WHERE deployment_id = $1
            """,
            deployment,
        )
        await connection.execute(
            """
            INSERT INTO steps (deployment_id, epoch, number, step, detail, started_at, finished_at)
            VALUES ($1, 1, 0, 'pull', '3/3 layers', '2026-11-20 10:00:00+00', '2026-11-20 10:00:02+00')
            """,
            deployment,
        )
    text = await web.query("deployment.readLogs", deploymentId=deployment)
    lines = text.splitlines()
    assert lines[0] == "2026-11-20 10:00:00.000+00:00 pull 3/3 layers (2.0 s)"
    assert lines[1] == "exited: it exited with 3"
    assert lines[-1] == "boom"
    assert await web.query("deployment.readLogs", deploymentId=deployment, tail="1") == "boom\n"
    assert (await web.get("/api/deployment.readLogs", deploymentId="nobody"))[0] == 404


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("port_taken", "port 80/tcp is published by the container web-1 of the application {}"),
        ("name_taken", "a container named web exists that belongs to the application {}"),
    ],
)
async def test_a_reason_names_another_application_as_its_reader_may_know_it(web: Web, code: str, message: str) -> None:
    """The engine knows its id alone. A key that may not see it does not learn its name."""
    for name, application_id in (("web", "app"), ("The Shop", "app-123")):
        await web.mutate("application.create", name=name, applicationId=application_id, dockerImage="acme/web")
    await web.mutate("application.deploy", applicationId="app")
    await conclude(web, Status.FAILED, Code(code), message=message.format("app-123"))
    (failed,) = [one["deploymentId"] for one in await web.query("deployment.all", applicationId="app")]

    async def told() -> set[str]:
        rows = [
            *await web.query("deployment.all", applicationId="app"),
            *await web.query("deployment.allCentralized"),
            *(await web.query("application.one", applicationId="app"))["deployments"],
            await web.query("deployment.one", deploymentId=failed),
        ]
        text = (await web.query("deployment.readLogs", deploymentId=failed)).splitlines()[0]
        said = {one["reason"]["message"] for one in rows} | {one["errorMessage"] for one in rows}
        return said | {text.removeprefix(f"{code}: ")}

    assert await told() == {message.format("The Shop")}
    async with web.pool.acquire() as connection, connection.transaction():
        web.key, _ = await api_keys.insert_key(connection, "one", grants=Grants(frozenset({"app"})))
    assert await told() == {message.format("app-123")}


async def test_one_that_waits_says_for_what_and_is_killed(web: Web) -> None:
    await created(web)
    await web.mutate("application.deploy", applicationId="app")
    waits = (await web.query("deployment.queueList"))[0]["id"]
    assert "waits for a free slot" in await web.query("deployment.readLogs", deploymentId=waits)
    assert await web.mutate("deployment.killProcess", deploymentId=waits) is None
    assert (await web.query("deployment.one", deploymentId=waits))["state"] == "cancelled"
    assert await web.query("deployment.queueList") == []
    assert (await web.post("/api/deployment.killProcess", {"deploymentId": waits}))[0] == 409
