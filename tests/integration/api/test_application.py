"""The parts of an application that clients ask for beside its deployments."""

from typing import Any

import pytest

from tests.support.api_client import Web


async def _created(web: Web, **given: object) -> str:
    made = await web.mutate("application.create", **{"name": "Web", "dockerImage": "acme/web:v1", **given})
    return str(made["applicationId"])


async def test_its_environment_is_saved_and_what_is_absent_kept(web: Web) -> None:
    app = await _created(web, env="A=1")
    saved = {"env": "B=2", "buildArgs": "C=3", "buildSecrets": None, "createEnvFile": False}
    assert await web.mutate("application.saveEnvironment", applicationId=app, **saved) is True
    assert await web.mutate("application.saveEnvironment", applicationId=app, buildArgs="D=4") is True
    one = await web.query("application.one", applicationId=app)
    assert {name: one[name] for name in saved} == saved | {"buildArgs": "D=4"}
    status, answer = await web.post("/api/application.saveEnvironment", {"applicationId": app, "env": "no variable"})
    assert (status, answer["issues"][0]["path"]) == (400, ["env"])


async def test_variables_that_somebody_else_has_changed_are_not_replaced(web: Web) -> None:
    app = await _created(web)
    first = {"applicationId": app, "env": "A=1", "expectedEnv": ""}
    assert await web.mutate("application.update", **first) is True
    status, answer = await web.post("/api/application.update", first | {"env": "A=2"})
    assert (status, "Somebody else has changed the variables of Web" in answer["message"]) == (409, True)
    assert await web.mutate("application.update", **first | {"env": "A=2", "expectedEnv": "A=1"}) is True
    assert (await web.query("application.one", applicationId=app))["env"] == "A=2"


async def test_what_belongs_to_a_build_is_kept_and_returned(web: Web) -> None:
    app = await _created(web)
    build = {"buildType": "dockerfile", "dockerfile": "Dockerfile.web", "dockerContextPath": "src"}
    assert await web.mutate("application.saveBuildType", applicationId=app, **build) is True
    one = await web.query("application.one", applicationId=app)
    assert {name: one[name] for name in build} == build
    assert (one["github"], one["registry"], one["hasGitProviderAccess"]) == (None, None, True)


async def test_it_moves_to_another_environment(web: Web) -> None:
    app = await _created(web)
    made = await web.mutate("project.create", name="Shop")
    moved = await web.mutate(
        "application.move", applicationId=app, targetEnvironmentId=made["environment"]["environmentId"]
    )
    assert moved["environmentId"] == made["environment"]["environmentId"]
    whole = await web.query("project.one", projectId=made["project"]["projectId"])
    assert [one["applicationId"] for one in whole["environments"][0]["applications"]] == [app]
    for given in ({"applicationId": "gone"}, {"targetEnvironmentId": "gone"}):
        sent = {"applicationId": app, "targetEnvironmentId": made["environment"]["environmentId"], **given}
        assert (await web.post("/api/application.move", sent))[0] == 404


async def test_applications_are_found_by_their_words_and_place(web: Web) -> None:
    made = await web.mutate("project.create", name="Shop")
    place = made["environment"]["environmentId"]
    await _created(web, name="Front", description="Shows 100% of it", environmentId=place)
    await _created(web, name="Back", dockerImage="ghcr.io/acme/back:v1")

    async def found(**given: str) -> list[str]:
        answer = await web.query("application.search", **given)
        assert answer["total"] == len(answer["items"])
        return [one["name"] for one in answer["items"]]

    assert await found() == ["Back", "Front"]
    assert await found(q="GHCR") == await found(dockerImage="ghcr.io") == await found(name="bac") == ["Back"]
    assert await found(q="100%") == await found(environmentId=place) == ["Front"]
    assert await found(projectId=made["project"]["projectId"], name="back") == []
    assert await found(q="_") == []
    page = await web.query("application.search", limit="1", offset="1")
    assert ([one["name"] for one in page["items"]], page["total"]) == (["Front"], 2)


@pytest.mark.parametrize(
    ("procedure", "answer"),
    [
        ("application.killBuild", None),
        ("application.markRunning", None),
        ("application.clearDeployments", True),
    ],
)
async def test_what_means_little_for_an_image_is_answered_as_the_contract_has_it(
    web: Web, procedure: str, answer: Any
) -> None:
    app = await _created(web)
    assert await web.mutate(procedure, applicationId=app) == answer
    assert (await web.post(f"/api/{procedure}", {"applicationId": "gone"}))[0] == 404


async def test_there_is_no_traefik_and_no_monitoring(web: Web) -> None:
    app = await _created(web)
    assert await web.query("application.readTraefikConfig", applicationId=app) is None
    assert await web.query("application.readAppMonitoring", appName="web") is None


async def test_what_never_ran_has_printed_nothing(web: Web) -> None:
    app = await _created(web)
    assert await web.query("application.readLogs", applicationId=app) == ""
    for wrong in ({"tail": "0"}, {"tail": "10001"}, {"since": "yesterday"}, {"since": "5"}):
        status, answer = await web.get("/api/application.readLogs", applicationId=app, **wrong)
        assert (status, answer["issues"][0]["path"]) == (400, [*wrong])


async def test_an_engine_that_is_away_is_told_when_it_is_asked_for_a_log(web: Web) -> None:
    app = await _created(web)
    async with web.pool.acquire() as connection:
        await connection.execute(
            "INSERT INTO engines (engine_id, name, version, platform) VALUES ('away', 'e', '1', 'linux/amd64') "
            "ON CONFLICT DO NOTHING"
        )
        await connection.execute("UPDATE applications SET engine_id = 'away'")
    status, answer = await web.get("/api/application.readLogs", applicationId=app)
    assert (status, "Engine" in answer["message"]) == (503, True)
