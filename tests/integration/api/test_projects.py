"""Applications belong to environments, those to projects; what is removed takes no application with it."""

from gateway.store import applications
from tests.support.api_client import Web


async def _project(web: Web, name: str = "Shop", **given: object) -> tuple[str, str]:
    made = await web.mutate("project.create", name=name, **given)
    return made["project"]["projectId"], made["environment"]["environmentId"]


async def test_a_project_is_made_with_its_environment(web: Web) -> None:
    made = await web.mutate("project.create", name="Shop", description="Sells", env="REGION=eu")
    project, environment = made["project"], made["environment"]
    assert (project["name"], project["description"], project["env"]) == ("Shop", "Sells", "REGION=eu")
    assert environment == {
        "environmentId": environment["environmentId"],
        "name": "production",
        "description": "Production environment",
        "createdAt": environment["createdAt"],
        "env": "",
        "projectId": project["projectId"],
        "isDefault": True,
    }


async def test_an_application_is_shown_where_it_belongs(web: Web) -> None:
    project_id, environment_id = await _project(web)
    made = await web.mutate("application.create", name="Web", environmentId=environment_id, projectId="ignored")
    assert made["environmentId"] == environment_id
    one = await web.query("application.one", applicationId=made["applicationId"])
    assert one["environment"]["environmentId"] == environment_id
    assert one["environment"]["project"]["projectId"] == project_id
    whole = await web.query("project.one", projectId=project_id)
    assert [whole] == await web.query("project.all")
    [inside] = whole["environments"]
    [member] = inside["applications"]
    assert (member["applicationId"], member["name"]) == (made["applicationId"], "Web")
    assert (member["appName"], member["applicationStatus"]) == (made["appName"], "idle")
    assert all(inside[kind] == [] for kind in ("compose", "mariadb", "mongo", "mysql", "postgres", "redis"))
    assert [inside] == await web.query("environment.byProjectId", projectId=project_id)
    alone = await web.query("environment.one", environmentId=environment_id)
    assert alone == {**inside, "project": alone["project"]}
    assert alone["project"]["projectId"] == project_id


async def test_an_unknown_environment_takes_no_application(web: Web) -> None:
    project = (await web.mutate("project.create", name="Shop"))["project"]["projectId"]
    for nowhere in (
        {"environmentId": "gone"},
        {"projectId": project},
        {"projectId": "gone"},
        {"projectId": project, "environmentId": None},
    ):
        status, answer = await web.post("/api/application.create", {"name": "Web", **nowhere})
        assert (status, answer["issues"][0]["path"]) == (400, ["environmentId"])
    made = await web.mutate("application.create", name="Web")
    status, answer = await web.post(
        "/api/application.update", {"applicationId": made["applicationId"], "environmentId": "gone"}
    )
    assert (status, answer["message"]) == (404, "Environment not found")
    assert await web.count("applications") == 1


async def test_an_application_made_without_one_is_in_the_default_project(web: Web) -> None:
    assert await web.query("project.all") == []
    await web.mutate("application.create", name="Web")
    await web.mutate("application.create", name="Worker")
    [project] = await web.query("project.all")
    [environment] = project["environments"]
    assert (project["name"], environment["name"], environment["isDefault"]) == ("Default", "production", True)
    assert [one["name"] for one in environment["applications"]] == ["Web", "Worker"]


async def test_what_has_applications_is_not_removed(web: Web) -> None:
    project_id, _ = await _project(web)
    staging = await web.mutate("environment.create", name="staging", projectId=project_id)
    made = await web.mutate("application.create", name="Web", environmentId=staging["environmentId"])
    for removal in (
        {"procedure": "project.remove", "projectId": project_id},
        {"procedure": "environment.remove", "environmentId": staging["environmentId"]},
    ):
        status, answer = await web.post(f"/api/{removal.pop('procedure')}", removal)
        assert status == 409
        assert "still has applications: Web" in answer["message"]
    assert (await web.query("application.one", applicationId=made["applicationId"]))["environmentId"]
    await web.mutate("application.delete", applicationId=made["applicationId"])
    assert (await web.mutate("environment.remove", environmentId=staging["environmentId"]))["name"] == "staging"
    assert (await web.mutate("project.remove", projectId=project_id))["name"] == "Shop"
    assert await web.count("environments") == 0


async def test_what_is_being_deleted_holds_up_no_project(web: Web) -> None:
    project_id, environment_id = await _project(web)
    made = await web.mutate("application.create", name="Web", environmentId=environment_id)
    async with web.pool.acquire() as connection:
        await connection.execute(
            "INSERT INTO engines (engine_id, name, version, platform) VALUES ('e', 'e', '1', 'linux/amd64') "
            "ON CONFLICT DO NOTHING"
        )
        await applications.bind_engine(connection, made["applicationId"], "e")
    await web.mutate("application.delete", applicationId=made["applicationId"])
    [project] = await web.query("project.all")
    assert project["environments"][0]["applications"] == project["applications"] == []
    await web.mutate("project.remove", projectId=project_id)
    assert await web.query("project.all") == []
    await web.mutate("deployment.cancel", deploymentId=await _waiting(web))
    found = await web.query("application.one", applicationId=made["applicationId"])
    assert found["environment"]["project"]["name"] == "Default"


async def _waiting(web: Web) -> str:
    async with web.pool.acquire() as connection:
        return str(await connection.fetchval("SELECT deployment_id FROM deployments WHERE status = 'queued'"))


async def test_the_environment_a_project_was_made_with_stays_as_it_is(web: Web) -> None:
    project_id, environment_id = await _project(web)
    for procedure, given in (
        ("environment.remove", {"environmentId": environment_id}),
        ("environment.update", {"environmentId": environment_id, "name": "live"}),
        ("environment.create", {"projectId": project_id, "name": "production"}),
        ("environment.duplicate", {"environmentId": environment_id, "name": "production"}),
    ):
        status, answer = await web.post(f"/api/{procedure}", given)
        assert status == 400, answer
    [environment] = await web.query("environment.byProjectId", projectId=project_id)
    assert environment["name"] == "production"


async def test_absent_keeps_and_null_clears(web: Web) -> None:
    project_id, environment_id = await _project(web, description="Sells", env="REGION=eu")
    changed = await web.mutate("project.update", projectId=project_id, name="Store")
    assert (changed["name"], changed["description"], changed["env"]) == ("Store", "Sells", "REGION=eu")
    changed = await web.mutate("project.update", projectId=project_id, description=None, env="")
    assert (changed["name"], changed["description"], changed["env"]) == ("Store", None, "")
    changed = await web.mutate("environment.update", environmentId=environment_id, env="TIER=1", description="Live")
    assert (changed["name"], changed["description"], changed["env"]) == ("production", "Live", "TIER=1")
    for procedure, named in (("project.update", "projectId"), ("environment.update", "environmentId")):
        status, answer = await web.post(f"/api/{procedure}", {named: "gone", "name": "x"})
        assert (status, answer["data"]["code"]) == (404, "NOT_FOUND")
        known = {"projectId": project_id, "environmentId": environment_id}[named]
        assert (await web.post(f"/api/{procedure}", {named: known}))[0] == 400
        status, answer = await web.post(f"/api/{procedure}", {named: known, "env": "no variable"})
        assert (status, answer["issues"][0]["path"]) == (400, ["env"])


async def test_another_environment_has_the_same_variables_and_no_application(web: Web) -> None:
    project_id, environment_id = await _project(web)
    await web.mutate("environment.update", environmentId=environment_id, env="TIER=1")
    await web.mutate("application.create", name="Web", environmentId=environment_id)
    made = await web.mutate("environment.duplicate", environmentId=environment_id, name="staging")
    assert (made["name"], made["env"], made["isDefault"]) == ("staging", "TIER=1", False)
    first, second = await web.query("environment.byProjectId", projectId=project_id)
    assert (len(first["applications"]), second["applications"]) == (1, [])


async def test_projects_are_found_by_a_word(web: Web) -> None:
    await _project(web, "Shop", description="Sells")
    await _project(web, "Blog")
    assert (await web.query("project.search", q="sell"))["items"][0]["name"] == "Shop"
    assert (await web.query("project.search", name="o", limit="1"))["total"] == 2


async def test_variables_are_sealed(web: Web) -> None:
    _, environment_id = await _project(web, env="PASSWORD=hunter2")
    await web.mutate("environment.update", environmentId=environment_id, env="PASSWORD=hunter3")
    async with web.pool.acquire() as connection:
        kept = [
            bytes(await connection.fetchval(f"SELECT variables FROM {table}")) for table in ("projects", "environments")
        ]
    assert not [one for one in kept if b"hunter" in one]


async def test_what_there_is_none_of_is_an_empty_list(web: Web) -> None:
    assert await web.query("gitProvider.getAll") == []
    assert await web.query("notification.all") == []
    assert await web.query("destination.all") == []
