"""What the browser looks at: a gateway with an engine and a registry that reports its pushes."""

import base64
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.cli.demo.engine import private_engine
from gateway.cli.demo.images import Behaviour, Image, push
from gateway.cli.demo.process import GatewayProcess, free_port, gateway_process
from gateway.cli.demo.registry import NotificationEndpoint, PrivateRegistry, private_registry
from gateway.docker.engine import client, containers
from gateway.store.embedded_postgres import embedded_postgres
from tests.ui.balancer import Balancer, balancer

_SETTINGS = {"GATEWAY_STABLE_WINDOW": "1", "GATEWAY_LOG_LEVEL": "info"}
_LABELS = {
    "org.opencontainers.image.source": "https://github.com/acme/web",
    "org.opencontainers.image.revision": "0123456789abcdef0123456789abcdef01234567",
}


@dataclass
class World:
    """A gateway behind a balancer, and a registry whose pushes it hears of."""

    directory: Path
    gateway: GatewayProcess
    balancer: Balancer
    registry: PrivateRegistry
    engine: str

    @property
    def url(self) -> str:
        return self.balancer.url

    def image(self, path: str, tag: str = "latest") -> str:
        return f"{self.registry.address}/{path}:{tag}"

    async def push_counting(self, path: str, lines: int) -> None:
        """Push an image whose container prints so many lines, some 2,000 a second, after a pause."""
        script = _COUNT.replace("LINES", str(lines)).encode()
        await push(Image("counts", files={"entry": script}), self.image(path))

    async def push(self, path: str, version: str, behaviour: Behaviour = Behaviour.SERVES, *, ballast: int = 0) -> None:
        made = Image(version, behaviour, config={"Labels": _LABELS}, ballast=ballast)
        await push(made, self.image(path))

    async def push_saying(self, path: str, line: str) -> None:
        """Push an image whose container prints a line, and says it of itself in its labels, and fails."""
        script = b"#!/bin/busybox sh\n/bin/busybox cat /line\nexit 3\n"
        labels = dict.fromkeys(_LABELS, line)
        files = {"entry": script, "line": line.encode()}
        await push(Image("says", config={"Labels": labels}, files=files), self.image(path))

    async def run(self, name: str, path: str) -> None:
        """Run a container that the gateway knows nothing of."""
        async with client.connect(self.engine) as engine:
            await engine.images.pull(self.image(path))
            await containers.start(engine, await containers.create(engine, name, {"Image": self.image(path)}, {}))

    @asynccontextmanager
    async def second_gateway(self) -> AsyncIterator[GatewayProcess]:
        """Run another gateway beside the first, on the same database and the same engine."""
        shared = ("GATEWAY_DATABASE_URL", "GATEWAY_MASTER_KEY", "GATEWAY_PUBLIC_URL")
        settings = {**_SETTINGS, **{name: self.gateway.environment[name] for name in shared}}
        async with gateway_process(self.directory / "second", self.engine, settings) as gateway:
            yield gateway


_COUNT = """#!/bin/busybox sh
trap 'exit 0' TERM
/bin/busybox sleep 6 & wait $!
i=0
while [ $i -lt LINES ]; do
    i=$((i+1))
    echo "\033[32mline\033[0m $i"
    [ $((i % 200)) = 0 ] && /bin/busybox usleep 95000
done
while true; do /bin/busybox sleep 1 & wait $!; done
"""


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[World]:
    """Run it all; end it all however the block is left."""
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(private_engine())
        database = await stack.enter_async_context(embedded_postgres(directory / "database"))
        front = await stack.enter_async_context(balancer(0))
        settings = {
            **_SETTINGS,
            "GATEWAY_DATABASE_URL": database,
            "GATEWAY_MASTER_KEY": base64.b64encode(b"u" * 32).decode(),
            "GATEWAY_PUBLIC_URL": front.url,
        }
        gateway = await stack.enter_async_context(gateway_process(directory / "first", engine.host, settings))
        front.target = gateway.port
        endpoint = await gateway.endpoint("distribution", "--name", "registry")
        notified = NotificationEndpoint(
            f"{front.url}{endpoint['path']}", {"Authorization": [f"Bearer {endpoint['secret']}"]}
        )
        registry = await stack.enter_async_context(
            private_registry(directory / "registry", free_port(), endpoints=[notified])
        )
        yield World(directory, gateway, front, registry, engine.host)
