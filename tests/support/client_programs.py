"""Programs others wrote for this API, installed from their registries, run as their users run them."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.images import Image, push
from gateway.cli.demo.process import GatewayProcess
from gateway.cli.demo.registry import PrivateRegistry
from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine
from gateway.model.reference import Digest
from tests.support.command_line import gateway_process
from tests.support.databases import database_settings

HERE = Path(__file__).parents[1] / "clients"
#: where npm and pip put what they brought
NODE = HERE / "node_modules"
PYTHON = HERE / ".venv" / "bin"

_FAST = {"GATEWAY_STABLE_WINDOW": "0.3", "GATEWAY_LOG_FORMAT": "text"}
_DEADLINE = 60  # seconds a program gets


@dataclass(frozen=True, slots=True)
class Said:
    """How a program ended and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return orjson.loads(self.out)


@dataclass(frozen=True, slots=True)
class Runs:
    """What the engine says of the one container that serves an application."""

    digest: str
    image: str
    environment: list[str]
    labels: Mapping[str, str]
    host: Mapping[str, Any]


@dataclass
class Workstation:
    """Where a user sits: a home of his own, a gateway and a key for it, and a registry to push to."""

    gateway: GatewayProcess
    engine: Engine
    registry: PrivateRegistry
    home: Path
    path: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def known(self) -> dict[str, str]:
        """What most programs read to find their way."""
        return {"DOKPLOY_URL": self.gateway.url, "DOKPLOY_API_KEY": self.gateway.key}

    def image(self, tag: str = "stable") -> str:
        return f"{self.registry.address}/{self.path}:{tag}"

    async def push(self, version: str, tag: str = "stable") -> Digest:
        return await push(Image(f"{self.path} {version}"), self.image(tag))

    async def run(self, *words: str | Path, given: str = "", **environment: str) -> Said:
        """Run a program to its end, with nothing of ours in its environment."""
        process = await asyncio.create_subprocess_exec(
            *map(str, words), cwd=self.home, stdin=-1, stdout=-1, stderr=-1,
            env={
                "PATH": os.environ["PATH"], "HOME": str(self.home), "COLUMNS": "200", "NO_COLOR": "1",
                **self.environment, **environment,
            },
        )  # fmt: skip
        try:
            async with asyncio.timeout(_DEADLINE):
                out, err = await process.communicate(given.encode())
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        assert process.returncode is not None
        return Said(process.returncode, out.decode(), err.decode())

    async def ended(self, application_id: str, *, count: int) -> dict[str, Any]:
        """Wait for the application's `count`th deployment to end, and require that it ended well."""
        deployment = await self.gateway.settled(application_id, count=count)
        assert deployment["state"] == "succeeded", deployment
        return deployment

    async def runs(self, application_id: str) -> Runs:
        """Return what runs; of two containers at once, or of none, the engine's user would not know which."""
        serving = [one for one in await containers.list_labelled(self.engine, application_id) if one.running]
        assert len(serving) == 1, serving
        found = await self.engine.call("GET", f"containers/{serving[0].container_id}/json")
        image = await self.engine.call("GET", f"images/{found['Image']}/json")
        digests = {name.rpartition("@")[2] for name in image["RepoDigests"] if name.startswith(self.registry.address)}
        assert len(digests) == 1, image["RepoDigests"]
        config = found["Config"]
        return Runs(digests.pop(), config["Image"], config["Env"], config["Labels"], found["HostConfig"])


@pytest.fixture(scope="session")
async def plain_gateway(
    tmp_path_factory: pytest.TempPathFactory, dockerd: PrivateEngine, postgres_server: str, worker_id: str
) -> AsyncIterator[GatewayProcess]:
    settings = {**_FAST, **await database_settings(postgres_server, f"clients_{worker_id}")}
    async with gateway_process(tmp_path_factory.mktemp("clients"), dockerd.host, settings) as process:
        yield process


@pytest.fixture
async def workstation(
    plain_gateway: GatewayProcess,
    engine: Engine,
    registry: PrivateRegistry,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> AsyncIterator[Workstation]:
    path = f"clients/{abs(hash(request.node.nodeid)):x}"
    yield Workstation(plain_gateway, engine, registry, tmp_path, path)
    for row in await plain_gateway.query("application.all"):
        for container in await containers.list_labelled(engine, row["applicationId"]):
            await containers.remove(engine, container.container_id)
