"""The commands of README "Use it" and of docs/move-from-*.md, typed on a host as they stand.

What Portainer, Coolify and Dokploy leave on a host is made here, with the names and labels that they give. Compose is
real.
"""

import shutil
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
import pytest

from gateway.cli.demo.process import FINISHED, until
from tests.support.doc_blocks import blocks
from tests.support.own_host import OwnHost, own_host

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def script_of(page: str) -> str:
    """Return all that a page prints for a shell, in its order."""
    return "\n".join(block.text for block in blocks() if block.page == page and block.language == "sh")


@pytest.fixture(scope="module")
async def host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OwnHost]:
    home = tmp_path_factory.mktemp("home")
    # The README's directory has its virtual environment; the reader's shell here finds the command by itself.
    activate = home / ".venv/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
    async with own_host(home, GATEWAY_STABLE_WINDOW="0.5", GATEWAY_WATCH_WINDOW="0") as one:
        yield one


@pytest.fixture(autouse=True)
async def registry(host: OwnHost) -> AsyncIterator[None]:
    """A registry with v1 of the image."""
    await host.sh("gateway demo registry")
    yield
    await host.sh("gateway apps delete web --yes --follow; gateway demo registry --stop")
    # The application of a container that was adopted and never replaced leaves it.
    await host.sh("docker ps --all --quiet | xargs --no-run-if-empty docker rm --force")


async def _deployed(host: OwnHost, version: str) -> dict[str, Any]:
    """Return the container of web, which runs this version once nothing is under way.

    On a busy machine the registry reports the push after the page's own deployment, and that report is followed too.
    """

    async def settled() -> dict[str, Any] | None:
        shown: dict[str, Any] = orjson.loads(await host.sh("gateway apps show web --json"))
        return shown if shown["deploymentState"] in FINISHED else None

    shown = await until(settled, stays=True)
    assert shown["deploymentState"] in {"succeeded", "unchanged"}, shown["deployments"]
    (found,) = orjson.loads(await host.sh(f"docker inspect {shown['appName']}"))
    assert await _version(host, found["Id"]) == version
    return dict(found)


async def _version(host: OwnHost, container: str) -> str:
    return await host.sh(f"docker exec {container} /bin/busybox cat /www/index.html")


async def test_use_it_of_the_readme_can_be_typed_as_it_stands(host: OwnHost) -> None:
    use_it, over_http = (one.text for one in blocks() if one.page == "README.md" and one.language == "sh")
    said = await host.sh(use_it)
    assert "succeeded" in said
    assert "http://127.0.0.1:8080/dashboard/sign-in?link=" in said
    assert '"result"' in await host.sh(over_http)
    await host.sh("gateway deploy web --follow")
    await _deployed(host, "v2")
    came = orjson.loads(await host.sh("gateway deliveries list --json"))
    assert not [one for one in came if "'pull'" in orjson.dumps(one).decode()], "the registry reports pushes alone"


async def test_a_container_of_coolify_is_moved_as_its_page_says(host: OwnHost) -> None:
    uuid = "k8s4c0owkgcs8ookcgk4ogsc"
    name = f"{uuid}-102345123456"
    labels = {
        "coolify.managed": "true",
        "coolify.type": "application",
        "coolify.applicationId": "7",
        "coolify.resourceName": "web",
        "com.docker.compose.project": uuid,
        "com.docker.compose.service": name,
        "com.docker.compose.container-number": "1",
        "com.docker.compose.oneoff": "False",
        "traefik.enable": "true",
    }
    await host.sh("docker network create coolify")
    await _run(host, name, labels, "--network coolify --restart unless-stopped")
    await host.sh("gateway demo push v2")
    said = await host.sh(script_of("docs/move-from-coolify.md"))
    assert f"{name} web 127.0.0.1:5000/web:latest" in said
    found = await _deployed(host, "v2")
    assert found["Name"] == f"/{name}"
    assert labels.items() <= found["Config"]["Labels"].items()
    assert "coolify" in found["NetworkSettings"]["Networks"]


async def test_a_container_of_a_stack_of_portainer_is_moved_as_its_page_says(host: OwnHost) -> None:
    labels = {
        "com.docker.compose.project": "shop",
        "com.docker.compose.service": "web",
        "com.docker.compose.container-number": "1",
        "com.docker.compose.oneoff": "False",
        "com.docker.compose.project.config_files": "/data/compose/22/docker-compose.yml",
    }
    await _run(host, "shop-web-1", labels, "--publish 8000:8080")
    await host.sh("gateway demo push v2")
    await host.sh(script_of("docs/move-from-portainer.md"))
    found = await _deployed(host, "v2")
    assert (found["Name"], await host.sh("curl --silent http://127.0.0.1:8000")) == ("/shop-web-1", "v2")


async def _run(host: OwnHost, name: str, labels: Mapping[str, str], options: str) -> None:
    words = " ".join(f"--label {name}={value}" for name, value in labels.items())
    # The engine may still have what the test before pushed by the same name.
    await host.sh(f"docker run --pull always --detach --name {name} {words} {options} 127.0.0.1:5000/web:latest")
    assert await _version(host, name) == "v1"


_COMPOSE = """
services:
  web: {image: "127.0.0.1:5000/web:latest", depends_on: [db], privileged: false}
  db: {image: "127.0.0.1:5000/web:latest", volumes: ["data:/data"]}
volumes: {data: {}}
version: "3.8"
"""


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="needs Debian's docker-compose")
async def test_a_project_of_compose_is_moved_in_both_ways_of_its_page(host: OwnHost) -> None:
    place = host.home / "shop"
    place.mkdir()
    (place / "compose.yaml").write_text(_COMPOSE)
    keeps, *leaves = script_of("docs/move-from-compose.md").splitlines()
    compose = "docker-compose --file compose.yaml"

    await host.sh(f"cd shop; {compose} pull --quiet; {compose} up --detach")
    container = await host.sh(f"cd shop; {compose} ps --quiet web")
    assert await _version(host, container) == "v1"
    await host.sh("gateway demo push v2")
    await host.sh(keeps.replace("shop-web-1", f"{container} --name web") + "\ngateway deploy web --follow")
    await _deployed(host, "v2")
    await host.sh(f"cd shop; {compose} up --detach")
    container = await host.sh(f"cd shop; {compose} ps --quiet web")
    assert await _version(host, container) == "v2", "compose does not go back"
    await host.sh("gateway apps delete web --yes --follow")

    await host.sh(f"cd shop; {compose} up --detach")
    said = await host.sh("cd shop\n" + "\n".join(leaves).replace("docker compose", compose))
    assert "networks: create shop_default on the engine" in said
    assert "privileged" not in said
    found = await _deployed(host, "v2")
    assert "shop_default" in found["NetworkSettings"]["Networks"]
    groups = orjson.loads(await host.sh("gateway groups show shop --json"))
    assert len(groups["members"]) == 2
    await host.sh("gateway groups remove shop; gateway apps delete db --yes --follow")


async def test_a_service_of_dokploy_is_moved_as_its_page_says(host: OwnHost) -> None:
    """Last of all, since from then on the engine is a Swarm."""
    await host.sh(
        """
        docker swarm init --advertise-addr 127.0.0.1
        docker network create --driver overlay --attachable dokploy-network
        docker service create --detach --name shop-web-x1y2z3 --network dokploy-network \\
            --endpoint-mode dnsrr 127.0.0.1:5000/web:latest
        gateway demo push v2
        """
    )
    said = await host.sh(script_of("docs/move-from-dokploy.md"))
    assert "shop-web-x1y2z3" in said
    made = orjson.loads(await host.sh("gateway deployments list web --json"))
    assert "ci" in [one["requestedBy"] for one in made], "also if the registry reports the push after it"
    shown = orjson.loads(await host.sh("gateway deploy web --follow --json"))
    assert shown["state"] in {"succeeded", "unchanged"}, shown
    (task,) = (await host.sh("docker ps --quiet --filter name=shop-web-x1y2z3")).split()
    assert await _version(host, task) == "v2"
