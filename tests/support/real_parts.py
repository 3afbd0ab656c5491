"""The real parts that many tests share: one engine and one registry a session."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.cli.demo.engine import PrivateEngine, private_engine
from gateway.cli.demo.images import Behaviour, Image, push
from gateway.cli.demo.process import free_port
from gateway.cli.demo.registry import PrivateRegistry, private_registry
from gateway.docker.engine.client import Engine, connect
from gateway.model.reference import Digest
from tests.support.engine_before import engine_before

# Engines that run at once on one machine take each other's packet rules away; on loopback no port needs any.
SIDE_BY_SIDE = ("--iptables=false",)


@pytest.fixture(scope="session")
async def dockerd() -> AsyncIterator[PrivateEngine]:
    async with private_engine(arguments=SIDE_BY_SIDE) as engine, engine_before(engine):
        yield engine


@pytest.fixture(scope="session")
async def engine(dockerd: PrivateEngine) -> AsyncIterator[Engine]:
    async with connect(dockerd.host) as client:
        yield client


@pytest.fixture(scope="session")
async def registry(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PrivateRegistry]:
    async with private_registry(tmp_path_factory.mktemp("registry"), free_port()) as private:
        yield private


@dataclass
class Pushes:
    """Pushes images of one repository, named by the test."""

    address: str
    path: str

    def name(self, tag: str = "latest") -> str:
        return f"{self.address}/{self.path}:{tag}"

    async def __call__(
        self, version: str, tag: str = "latest", *, behaviour: Behaviour = Behaviour.SERVES, health: str | None = None
    ) -> Digest:
        return await push(Image(version, behaviour, health), self.name(tag))


@pytest.fixture
def pushes(registry: PrivateRegistry, request: pytest.FixtureRequest, tmp_path: Path) -> Pushes:
    return Pushes(registry.address, f"tests/{abs(hash(request.node.nodeid)):x}")
