"""What the documents print works as printed: each call, example and recipe of theirs, on a live gateway.

Registries, engine, PostgreSQL, curl and docker's own commands are real; the names lead to a small internet of our own.
"""

import json
import shlex
import time
from contextlib import suppress
from typing import Any

import pytest

from gateway.cli.demo.process import Refused, until
from gateway.docker.engine import services
from gateway.model.reference import Reference
from tests.support.doc_blocks import Block, calls, examples, steps
from tests.support.docs_gateway import APPLICATION, FIRST, JSON, LOGINS, RECIPES, SCRIPTS, Printed, World, needs_swarm

#: the calls whose effect is looked at one by one
_CALLS = [block for block in SCRIPTS if block.page == "docs/images.md" and block not in [*LOGINS, *FIRST]]
_OTHERS = [block for block in SCRIPTS if block not in [*LOGINS, *FIRST, *_CALLS]]
_MIB = 1024**2

# The first one waits for all there is: an engine, registries, a gateway, and an application of every example.
pytestmark = pytest.mark.timeout(600)


def _named(block: Block) -> str:
    return block.name


def _called(procedure: str) -> str:
    (text,) = [block.text for block in _CALLS if [name for name, _ in calls(block.text)] == [procedure]]
    return text


# -- examples


@pytest.mark.parametrize("block", JSON, ids=_named)
async def test_an_example_is_read_back_as_it_was_given(world: World, block: Block) -> None:
    for one in world.examples.get(block, ()):
        row = await world.net.gateway.query("application.one", applicationId=one.application_id)
        assert _within(_expected(one.given), row)


def _expected(given: dict[str, Any]) -> dict[str, Any]:
    """Return what is read back of an example: never a password, and volumes among the mounts."""
    expected = {**given, **({"password": None} if "password" in given else {})}
    if "volumes" in expected:
        expected["mounts"] = expected.pop("volumes")
    return expected


def _within(part: Any, whole: Any) -> bool:
    """Tell whether a part is in the whole, which may say more."""
    if isinstance(part, dict):
        return all(name in whole and _within(part[name], whole[name]) for name in part)
    if isinstance(part, list):
        return len(part) == len(whole) and all(map(_within, part, whole))
    return bool(part == whole)


#: where examples are that `make test` deploys: from one's own registry, from one of a cloud, and the longest ones
_SAMPLE = ("docs/distribution.md", "docs/ecr.md", "docs/examples.md")


@pytest.mark.parametrize(
    "block",
    [pytest.param(one, id=one.name, marks=[] if one.page in _SAMPLE else [pytest.mark.long]) for one in JSON],
)
async def test_an_example_runs_as_it_says(world: World, block: Block) -> None:
    printed = world.examples.get(block, ())
    for one in printed:
        await world.net.gateway.mutate("application.deploy", {"applicationId": one.application_id})
    for one in printed:
        await world.deployed(one.application_id)
        await _runs_as_it_says(world, one)


async def _runs_as_it_says(world: World, one: Printed) -> None:
    container = await world.container(one.application_id)
    given, host, config = one.given, container["HostConfig"], container["Config"]
    name = str(Reference.parse(given["dockerImage"]))
    assert config["Image"] == f"{name}@{world.digests[name]}"
    assert container["State"]["Running"]
    assert set(given.get("env", "").splitlines()) <= set(config["Env"])
    assert host["Memory"] == int(given.get("memoryLimit", "0MB").removesuffix("MB")) * _MIB
    assert host["NanoCpus"] == float(given.get("cpuLimit", "0")) * 10**9
    assert (config["Cmd"] or []) == shlex.split(given.get("command", ""))
    published = {name: int(bound[0]["HostPort"]) for name, bound in (host["PortBindings"] or {}).items()}
    assert published == {f"{port['targetPort']}/tcp": port["publishedPort"] for port in given.get("ports", [])}
    mounts = {(mount["Name"], mount["Destination"]) for mount in container["Mounts"]}
    assert mounts == {(volume["source"], volume["target"]) for volume in given.get("volumes", [])}


@pytest.mark.parametrize("block", JSON, ids=_named)
async def test_what_names_no_image_changes_an_application_that_is_there(world: World, block: Block) -> None:
    for given in [one for one in examples(block.text) if "dockerImage" not in one]:
        change = {"applicationId": APPLICATION, **given}
        await world.net.gateway.mutate("application.update", change)
        row = await world.net.gateway.query("application.one", applicationId=APPLICATION)
        assert _within(_expected(change), row)
        cleared = dict.fromkeys(given.keys() - {"applicationId"})
        await world.net.gateway.mutate("application.update", {"applicationId": APPLICATION, **cleared})


async def test_each_login_that_is_kept_is_let_in_by_its_registry(world: World) -> None:
    kept = await world.net.gateway.query("registry.all")
    assert len(kept) == len(LOGINS)
    for one in kept:
        assert await world.net.gateway.mutate("registry.testRegistryById", {"registryId": one["registryId"]})


# -- calls


async def test_a_redeploy_pulls_what_the_tag_names_now(world: World) -> None:
    await world.deployed(APPLICATION)
    before = await world.container(APPLICATION)
    digest = await world.push("nginx:alpine", "v2")
    await world.sh(_called("application.redeploy"))
    row = await world.deployed(APPLICATION)
    assert (row["title"], row["digest"]) == ("Update to latest image", digest)
    after = await world.container(APPLICATION)
    assert after["Id"] != before["Id"]
    assert after["Config"]["Image"] == f"docker.io/library/nginx:alpine@{digest}"


async def test_an_update_of_the_image_counts_from_the_next_deployment_on(world: World) -> None:
    digest = await world.push("mycompany/myapp:v2.0.0")
    await world.sh(_called("application.update"))
    await world.sh(_called("application.redeploy"))
    assert (await world.deployed(APPLICATION))["digest"] == digest


async def test_a_deploy_takes_the_tag_it_names(world: World) -> None:
    digest = await world.push("mycompany/myapp:v2.1.0")
    await world.sh(_called("application.deploy"))
    assert (await world.deployed(APPLICATION))["digest"] == digest
    row = await world.net.gateway.query("application.one", applicationId=APPLICATION)
    assert row["dockerImage"].endswith("mycompany/myapp:v2.1.0")


async def test_a_provider_is_saved_with_its_login(world: World) -> None:
    digest = await world.push("mycompany/myapp:v1.0.0")
    await world.sh(_called("application.saveDockerProvider"))
    await world.sh(_called("application.redeploy"))
    assert (await world.deployed(APPLICATION))["digest"] == digest
    row = await world.net.gateway.query("application.one", applicationId=APPLICATION)
    assert (row["username"], row["password"]) == ("dockerhub-user", None)


async def test_a_stopped_application_runs_again_once_it_is_started(world: World) -> None:
    await world.sh(_called("application.stop"))
    await world.deployed(APPLICATION)
    assert not (await world.container(APPLICATION))["State"]["Running"]
    await world.sh(_called("application.start"))
    await world.deployed(APPLICATION)
    assert (await world.container(APPLICATION))["State"]["Running"]


async def test_a_deletion_removes_the_application_and_its_container(world: World) -> None:
    gateway = world.net.gateway
    await _create_and_deploy(world, "app-124")
    name = (await gateway.query("application.one", applicationId="app-124"))["appName"]
    await world.sh(_called("application.delete").replace(APPLICATION, "app-124"))

    async def is_gone() -> bool | None:
        return not await world.sh(f"docker ps --all --quiet --filter name=^{name}") or None

    await until(is_gone)
    with pytest.raises(Refused, match="not found"):
        await gateway.query("application.one", applicationId="app-124")


async def _create_and_deploy(world: World, application_id: str) -> None:
    given = {"applicationId": application_id, "name": application_id, "dockerImage": "nginx:alpine"}
    await world.net.gateway.mutate("application.create", given)
    await world.net.gateway.mutate("application.deploy", {"applicationId": application_id})
    await world.deployed(application_id)


@pytest.mark.parametrize("block", _OTHERS, ids=_named)
async def test_a_script_runs(world: World, block: Block) -> None:
    body = next((one for example in JSON if example.page == block.page for one in examples(example.text)), {})
    (world.place / "application.json").write_text(json.dumps({**body, "replicas": 1}))
    await world.sh(block.text)
    await world.deployed(APPLICATION)
    for procedure, given in calls(block.text):
        if procedure == "application.update" and given["applicationId"] == APPLICATION:
            await _takes_effect(world, given)


async def _takes_effect(world: World, change: dict[str, Any]) -> None:
    """See a change in the application and, once it is deployed, in its container; and take it back."""
    gateway = world.net.gateway
    row = await gateway.query("application.one", applicationId=APPLICATION)
    assert _within(_expected(change), row)
    await gateway.mutate("application.redeploy", {"applicationId": APPLICATION})
    await world.deployed(APPLICATION)
    await _runs_as_it_says(world, Printed(APPLICATION, {"dockerImage": row["dockerImage"], **change}))
    unset = dict.fromkeys(change.keys() - {"applicationId"})
    await gateway.mutate("application.update", {"applicationId": APPLICATION, **unset})


# -- CI


def _of_ci(block: Block, number: int) -> tuple[str, dict[str, str]]:
    """Return the repository that a recipe pushes to, and what CI knows."""
    commit = f"{number:040x}"
    if "$CI_REGISTRY" in block.text:
        repository = "registry.gitlab.com/mycompany/myapp"
        return repository, {
            "CI_REGISTRY": "registry.gitlab.com", "CI_REGISTRY_IMAGE": repository,
            "CI_REGISTRY_USER": "gitlab-ci-token", "CI_REGISTRY_PASSWORD": "glcbt-xxxxxxxxxxxxx",
            "CI_COMMIT_SHA": commit, "CI_COMMIT_SHORT_SHA": commit[-8:], "CI_PIPELINE_ID": "17", "CI_JOB_ID": "170",
        }  # fmt: skip
    repository = "ghcr.io/mycompany/myapp" if "ghcr.io" in block.text else "mycompany/myapp"
    hub = {"DOCKER_USERNAME": "mycompany", "DOCKER_PASSWORD": "dckr_pat_xxxxx"}
    if "pipelines:" in block.text:
        return repository, {**hub, "BITBUCKET_COMMIT": commit, "BITBUCKET_BUILD_NUMBER": "7"}
    secrets = {**hub, "GITHUB_TOKEN": "ghp_xxxxxxxxxxxxx"}
    return repository, {
        "github.sha": commit, "github.actor": "github-username", "GITHUB_RUN_ID": "9", "GITHUB_RUN_ATTEMPT": "1",
        **{f"secrets.{name}": value for name, value in secrets.items()},
    }  # fmt: skip


# One recipe of each kind of CI in `make test`: the others of a kind differ in how they call the gateway. That of
# Bitbucket takes the longest, and runs the commands that those of the others run.
_KINDS_OF_CI = [block.name for block in RECIPES]
_LONG_RECIPES = [
    block.name in _KINDS_OF_CI[:number] or "pipelines:" in block.text for number, block in enumerate(RECIPES)
]


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(number, marks=[pytest.mark.long] if long else [], id=f"{name} {number}")
        for number, (name, long) in enumerate(zip(_KINDS_OF_CI, _LONG_RECIPES, strict=True))
    ],
)
async def test_a_recipe_of_ci_restarts_the_application_once(world: World, number: int) -> None:
    """It pushes, so that the registry tells of it, and then says so itself."""
    block, gateway = RECIPES[number], world.net.gateway
    repository, known = _of_ci(block, number)
    known |= {f"secrets.{name}": value for name, value in world.variables.items()} if "github.sha" in known else {}
    await world.push(f"{repository}:latest")
    login = {"username": "mycompany", "password": "dckr_pat_xxxxx", "registryUrl": None}
    wanted = {"applicationId": APPLICATION, "dockerImage": f"{repository}:latest", **login}
    await gateway.mutate("application.saveDockerProvider", wanted)
    if "redeploy" not in block.text:
        follow = {"applicationId": APPLICATION, "policy": "any", "repository": repository}
        await gateway.mutate("subscription.create", follow)
    await gateway.mutate("application.redeploy", {"applicationId": APPLICATION})
    await world.deployed(APPLICATION)
    told, began = await _told(world), time.time()

    (world.place / "version").write_text(block.text)
    for step in steps(block.text, {**known, **world.variables}):
        await world.sh(step.script, shell=step.shell, **step.variables)

    async def tells() -> bool | None:
        return bool(await _told(world) - told) or None

    await until(tells)
    await world.deployed(APPLICATION)
    assert len(await _starts(world, began)) == 1
    container = await world.container(APPLICATION)
    built = await world.sh(f"docker image inspect --format '{{{{.RepoDigests}}}}' {container['Image']}")
    assert container["Config"]["Image"].rpartition("@")[2] in built
    assert str(container["Config"]["Image"]).startswith(str(Reference.parse(repository).repository))


async def _told(world: World) -> set[str]:
    """Return what registries have told of the application of late."""
    found = await world.net.gateway.query("delivery.all", source="distribution")
    return {
        delivery["deliveryId"]
        for delivery in found
        if any(one["applicationId"] == APPLICATION for one in delivery["deployments"])
    }


async def _starts(world: World, since: float) -> list[str]:
    label = f"label=gateway.application={APPLICATION}"
    words = f"docker events --since {since:.9f} --until {time.time():.9f} --filter {label} --filter event=start"
    return (await world.sh(f"{words} --format '{{{{.ID}}}}'")).split()


# -- a Swarm


@pytest.mark.long
async def test_three_replicas_with_a_published_port_converge_on_a_swarm(world: World) -> None:
    """Last of all, since from then on the engine makes services."""
    gateway = world.net.gateway
    (given,) = [one for block in JSON for one in examples(block.text) if needs_swarm(one)]
    digest = await world.push(given["dockerImage"])
    await world.sh(f"docker swarm init --advertise-addr {world.net.address}")

    async def taken() -> dict[str, Any] | None:
        with suppress(Refused):
            return dict(await gateway.mutate("application.create", {**given, "applicationId": "production"}))
        return None

    made = await until(taken)
    assert _within(_expected(given), made)
    await gateway.mutate("application.deploy", {"applicationId": "production"})
    assert (await world.deployed("production"))["digest"] == digest

    service = await services.inspect(world.net.engine, made["appName"])
    assert service is not None
    task = service.spec["TaskTemplate"]
    assert service.spec["Mode"] == {"Replicated": {"Replicas": 3}}
    assert service.spec["EndpointSpec"]["Ports"] == [
        {"Protocol": "tcp", "TargetPort": 3000, "PublishedPort": 3000, "PublishMode": "ingress"}
    ]
    assert task["ContainerSpec"]["Image"] == f"docker.io/{given['dockerImage']}@{digest}"
    assert set(task["ContainerSpec"]["Env"]) == {"DATABASE_URL=postgresql://...", "REDIS_URL=redis://..."}
    assert task["Resources"]["Limits"] == {"MemoryBytes": 2048 * _MIB, "NanoCPUs": 2 * 10**9}
    running = [one for one in await services.tasks(world.net.engine, service) if one.state == "running"]
    assert len(running) == 3
    await world.sh("docker swarm leave --force")
