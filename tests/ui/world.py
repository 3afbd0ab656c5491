"""What the browser looks at: a gateway with an engine and a registry that reports its pushes."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.cli.demo.engine import private_engine
from gateway.cli.demo.images import Behaviour, Image, push
from gateway.cli.demo.process import GatewayProcess, free_port, gateway_process
from gateway.cli.demo.registry import NotificationEndpoint, PrivateRegistry, private_registry

_SETTINGS = {"GATEWAY_STABLE_WINDOW": "1", "GATEWAY_LOG_LEVEL": "info"}


@dataclass
class World:
    """A gateway, and a registry whose pushes it hears of."""

    gateway: GatewayProcess
    registry: PrivateRegistry

    def image(self, path: str, tag: str = "latest") -> str:
        return f"{self.registry.address}/{path}:{tag}"

    async def push_counting(self, path: str, lines: int) -> None:
        """Push an image whose container prints so many lines, some 2,000 a second, after a pause."""
        script = _COUNT.replace("LINES", str(lines)).encode()
        await push(Image("counts", files={"entry": script}), self.image(path))

    async def push(self, path: str, version: str, behaviour: Behaviour = Behaviour.SERVES) -> None:
        await push(Image(version, behaviour), self.image(path))


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
        gateway = await stack.enter_async_context(gateway_process(directory, engine.host, _SETTINGS))
        endpoint = await gateway.endpoint("distribution", "--name", "registry")
        notified = NotificationEndpoint(
            f"{gateway.url}{endpoint['path']}", {"Authorization": [f"Bearer {endpoint['secret']}"]}
        )
        registry = await stack.enter_async_context(
            private_registry(directory / "registry", free_port(), endpoints=[notified])
        )
        yield World(gateway, registry)
