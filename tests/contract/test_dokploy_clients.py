"""What others wrote for Dokploy's API works here: the judge is the container that runs in the end.

Each test does with a program what its users do: make a project and an application, say what it runs, have it deployed,
push the next image, have it redeployed, read. Programs are known by the versions that `requirements-clients.txt` and
`clients/package.json` name; docs/clients.md says how to point each at a gateway.
"""

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from gateway.cli.demo.process import free_port
from tests.support.client_programs import HERE, NODE, PYTHON, Workstation

pytestmark = pytest.mark.timeout(600)  # each program has a deadline of its own
_CLI = NODE / "@dokploy" / "cli"


async def _program(workstation: Workstation, name: str, *words: str, **environment: str) -> Any:
    """Run one of our programs in `clients/`, and return what it printed."""
    said = await workstation.run("node", HERE / name, *words, **workstation.known, **environment)
    assert said.code == 0, said.err
    return said.json


@pytest.mark.parametrize("link", ["http", "batch", "stream"])
@pytest.mark.long
async def test_trpc_client_creates_saves_deploys_redeploys_and_reads(workstation: Workstation, link: str) -> None:
    async def call(*words: str) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = await _program(workstation, "trpc.mjs", *words, LINK=link)
        return answer

    first = await workstation.push("1")
    made = await call("make", workstation.image())
    assert made["answers"] == [True, True, True]
    assert made["status"] in {"running", "done"}
    application_id = made["applicationId"]
    await workstation.ended(application_id, count=1)
    found = await workstation.runs(application_id)
    assert found.digest == first
    assert {f"GREETING=hello {link}", "EMPTY="} <= set(found.environment)

    second = await workstation.push("2")
    assert (await call("redeploy", application_id))["undefined"]
    await workstation.ended(application_id, count=2)
    assert (await workstation.runs(application_id)).digest == second

    read = await call("read", application_id)
    assert read["image"] == workstation.image()
    assert read["status"] == "done"
    assert read["deployments"][0] == "Again"
    assert read["missing"] == {"code": "NOT_FOUND", "httpStatus": 404, "path": "application.one", "zodError": None}
    assert read["health"] == {"status": "ok"}
    assert read["invalid"]["named"] == "TRPCClientError"
    assert list(read["invalid"]["zodError"]["fieldErrors"]) == ["applicationId"]
    if link == "batch":
        path = "/api/trpc/application.one,application.one,settings.health,application.one"
        assert read["requests"] == [{"method": "GET", "path": path, "status": 207}]


@pytest.mark.long
async def test_dokploys_own_cli_does(workstation: Workstation) -> None:
    """`dokploy auth` writes its file beside the program itself, so that file is taken away again."""

    async def dokploy(*words: str, code: int = 0, **environment: str) -> str:
        said = await workstation.run("node", _CLI / "dist" / "index.js", *words, **environment)
        assert said.code == code, (words, said)
        return said.out if code == 0 else said.err

    def of(text: str) -> Any:
        return orjson.loads(text)

    gateway = workstation.gateway
    refused = await dokploy("auth", "--url", gateway.url, "--token", "no key", code=1)
    assert "401" in refused
    try:
        assert "Authenticated" in await dokploy("auth", "--url", f"{gateway.url}/", "--token", gateway.key)
        made = of(await dokploy("project", "create", "--name", "Typed", "--json"))
    finally:
        (_CLI / "config.json").unlink(missing_ok=True)

    workstation.environment |= workstation.known
    environment_id = made["environment"]["environmentId"]
    named = ("--name", "web", "--environmentId", environment_id, "--sourceType", "docker")
    application_id = of(await dokploy("application", "create", *named, "--json"))["applicationId"]
    which = ("--applicationId", application_id)

    first = await workstation.push("1")
    logins = ("--username", "", "--password", "", "--registryUrl", "")
    await dokploy("application", "save-docker-provider", *which, "--dockerImage", workstation.image(), *logins)
    empty = ("--buildArgs", "", "--buildSecrets", "")
    await dokploy("application", "save-environment", *which, "--env", "A=1\nB='two words'", *empty, "--createEnvFile")
    port = free_port()
    ports = ("--publishedPort", str(port), "--targetPort", "8080", "--publishMode", "host", "--protocol", "tcp")
    await dokploy("port", "create", *which, *ports)
    await dokploy("application", "deploy", *which, "--title", "Typed")
    await workstation.ended(application_id, count=1)
    found = await workstation.runs(application_id)
    assert found.digest == first
    assert {"A=1", "B=two words"} <= set(found.environment)
    assert found.host["PortBindings"]["8080/tcp"][0]["HostPort"] == str(port)

    second = await workstation.push("2")
    await dokploy("application", "update", *which, "--memoryLimit", "128m", "--replicas", "1")
    await dokploy("application", "redeploy", *which)
    await workstation.ended(application_id, count=2)
    found = await workstation.runs(application_id)
    assert (found.digest, found.host["Memory"]) == (second, 128 * 1024**2)

    one = of(await dokploy("application", "one", *which, "--json"))
    assert (one["dockerImage"], one["applicationStatus"]) == (workstation.image(), "done")
    assert [port["publishedPort"] for port in one["ports"]] == [port]
    rows = of(await dokploy("deployment", "all", *which, "--json"))
    assert [(row["title"], row["status"]) for row in rows] == [("Rebuild deployment", "done"), ("Typed", "done")]
    assert application_id in await dokploy("project", "all", "--json")
    assert "404" in await dokploy("application", "one", "--applicationId", "nobody", code=1)


@pytest.mark.long
async def test_dokploys_own_mcp_server_does(workstation: Workstation) -> None:
    """It hides every `environment` it reads unless told not to, so that nobody could create anything in one."""

    async def ask(*calls: str) -> list[Any]:
        settings = {"DOKPLOY_REDACT_ENV": "false", "DOKPLOY_TOOL_PRESET": "deploy"}
        answers = await _program(workstation, "mcp.mjs", *calls, **settings)
        assert [answer for answer in answers if not answer["success"]] == []
        return [answer.get("data") for answer in answers]

    first = await workstation.push("1")
    which = '"applicationId": "<1.data.applicationId>"'
    anonymous = '"username": null, "password": null, "registryUrl": null'
    built = '"buildArgs": null, "buildSecrets": null, "createEnvFile": false'
    answers = await ask(
        'project-create {"name": "Assisted"}',
        'application-create {"name": "web", "environmentId": "<0.data.environment.environmentId>"}',
        f'application-saveDockerProvider {{{which}, "dockerImage": "{workstation.image()}", {anonymous}}}',
        f'application-saveEnvironment {{{which}, "env": "MODEL=context", {built}}}',
        f"application-deploy {{{which}}}",
    )
    application_id = answers[1]["applicationId"]
    await workstation.ended(application_id, count=1)
    found = await workstation.runs(application_id)
    assert found.digest == first
    assert "MODEL=context" in found.environment

    second = await workstation.push("2")
    which = f'{{"applicationId": "{application_id}"}}'
    await ask(f"application-redeploy {which}")
    await workstation.ended(application_id, count=2)
    assert (await workstation.runs(application_id)).digest == second
    one, rows = await ask(f"application-one {which}", f"deployment-all {which}")
    assert one["applicationStatus"] == "done"
    assert [row["status"] for row in rows] == ["done", "done"]


async def test_a_generated_sdk_takes_every_answer_for_what_it_was_generated_from(workstation: Workstation) -> None:
    first = await workstation.push("1")
    made = await _program(workstation, "sdk.mjs", "make", workstation.image())
    assert made["answers"] == [True, True, True]
    application_id = made["applicationId"]
    await workstation.ended(application_id, count=1)
    found = await workstation.runs(application_id)
    assert (found.digest, found.host["Memory"]) == (first, 64 * 1024**2)
    assert "LEVEL=debug" in found.environment
    read = await _program(workstation, "sdk.mjs", "read", application_id)
    assert (read["image"], read["status"], read["missing"]) == (workstation.image(), "done", 404)
    assert read["deployments"] == [{"title": "Generated", "status": "done"}]
    assert "Generated" in read["projects"]


# As the published GitHub Actions do it: exactly 200, and of an update exactly `true`.
_ACTION = """
call() {
    curl -s -o answer -w '%{http_code}' -X POST "$DOKPLOY_URL/api/$1" -d "$2" \\
        -H 'accept: application/json' -H 'Content-Type: application/json' -H "x-api-key: $DOKPLOY_API_KEY"
}
test "$(call application.update "{\\"applicationId\\": \\"$1\\", \\"dockerImage\\": \\"$2\\"}")" = 200
test "$(cat answer)" = true
test "$(call "$3" "{$4\\"applicationId\\": \\"$1\\"$5}")" = 200
"""


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [("application.deploy", "", ""), pytest.param("trpc/application.deploy", '"json": {', "}", marks=pytest.mark.long)],
    ids=["rest", "trpc"],
)
async def test_published_actions_update_and_deploy(
    workstation: Workstation, path: str, before: str, after: str
) -> None:
    await workstation.push("1", "v1")
    second = await workstation.push("2", "v2")
    made = await workstation.gateway.mutate(
        "application.create", {"name": "web", "dockerImage": workstation.image("v1")}
    )
    application_id = made["applicationId"]
    for count, tag in enumerate(("v1", "v2"), start=1):
        said = await workstation.run(
            "sh",
            "-eu",
            "-c",
            _ACTION,
            "action",
            application_id,
            workstation.image(tag),
            path,
            before,
            after,
            **workstation.known,
        )
        assert said.code == 0, said
        await workstation.ended(application_id, count=count)
    found = await workstation.runs(application_id)
    assert found.digest == second


@pytest.mark.long
async def test_dokploytools_finds_by_name_deploys_waits_and_reads(workstation: Workstation) -> None:
    workstation.environment |= {
        "DOKPLOY_HERE_URL": workstation.gateway.url,
        "DOKPLOY_HERE_KEY": workstation.gateway.key,
    }

    async def dpt(*words: str) -> Any:
        said = await workstation.run(PYTHON / "dpt", "--quiet", *words, "--json")
        assert said.code == 0, (words, said)
        return said.out

    first = await workstation.push("1")
    made = await workstation.gateway.mutate("project.create", {"name": "Tools"})
    application = await workstation.gateway.mutate(
        "application.create",
        {"name": "web", "environmentId": made["environment"]["environmentId"], "dockerImage": workstation.image()},
    )
    application_id = application["applicationId"]
    await dpt("env", "here", "Tools/web", "set", "COLOUR=green")
    await dpt("svc", "deploy", "here", "Tools/web", "--wait", "--timeout", "50")
    found = await workstation.runs(application_id)
    assert found.digest == first
    assert "COLOUR=green" in found.environment
    second = await workstation.push("2")
    await dpt("svc", "redeploy", "here", "Tools/web", "--wait", "--timeout", "50")
    await workstation.ended(application_id, count=2)
    assert (await workstation.runs(application_id)).digest == second
    assert "done" in await dpt("deployments", "here", "Tools/web")
    assert "Tools" in await dpt("projects", "here")
