"""What a client sees of a stop-first swap, against the same container stopped and started by the bare API.

In turn, in one run, and never both on the network at once: a bridge that loses its last container makes the kernel
forget where the next one is, for up to a second.
"""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.cli.demo.client import Watch, watching
from gateway.cli.demo.engine import PrivateEngine, private_engine
from gateway.cli.demo.images import Image, push
from gateway.cli.demo.process import GatewayProcess, free_port, gateway_process, until
from gateway.cli.demo.registry import PrivateRegistry, private_registry
from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine, connect
from tests.bench.report import Figure, figure
from tests.support import leftovers
from tests.support.distribution_hooks import Hook, envelope

ROUNDS = 9
SETTLE = 1.2  # seconds between rounds, for the client's neighbour entries to be what they are in peace
GATE, GATE_OF_A_SLOW_BOOT = 0.6, 0.2
_DEFAULT, _OWN = "bridge", "front"
_BOOTS_SLOWLY = b"""#!/bin/busybox sh
trap 'kill $!; exit 0' TERM
/bin/busybox sleep 2 & wait $!
/bin/busybox httpd -f -p 8080 -h /www &
wait $!
"""


@dataclass(frozen=True)
class SetUp:
    name: str
    network: str
    #: whether nothing else is on the network
    alone: bool
    gate: float = GATE
    slow: bool = False

    def image(self, version: str) -> Image:
        return Image(version, files={"entry": _BOOTS_SLOWLY} if self.slow else {})


SET_UPS = (
    SetUp("alone on the default bridge", _DEFAULT, alone=True),
    SetUp("not alone on the default bridge", _DEFAULT, alone=False),
    SetUp("alone on its own network", _OWN, alone=True),
    SetUp("not alone on its own network", _OWN, alone=False),
    SetUp("booting takes 2 s", _OWN, alone=True, gate=GATE_OF_A_SLOW_BOOT, slow=True),
)


async def measure(dockerd: PrivateEngine, registry: PrivateRegistry, directory: Path) -> list[Figure]:
    return [
        figure(f"outage, {one.name}, over a bare stop and start", ours, bare, "s", one.gate)
        async for one, ours, bare in outages(dockerd, registry, directory)
    ]


async def outages(
    dockerd: PrivateEngine, registry: PrivateRegistry, directory: Path, set_ups: Sequence[SetUp] = SET_UPS
) -> AsyncIterator[tuple[SetUp, list[float], list[float]]]:
    """Yield the outages of each set-up in seconds: those of swaps, and those of bare stops and starts."""
    settings = {"GATEWAY_STABLE_WINDOW": "0.5"}
    async with (
        connect(dockerd.host) as engine,
        gateway_process(directory / "outage", dockerd.host, settings) as gateway,
    ):
        await engine.call("POST", "networks/create", body={"Name": _OWN})
        hook = await Hook.open(gateway)
        for number, one in enumerate(set_ups):
            application = _Application(gateway, hook, f"{registry.address}/outage/a{number}:latest", f"a{number}", one)
            ours, bare = await application.compare(engine)
            await dockerd.remove_containers()
            yield one, ours, bare
        await engine.call("DELETE", f"networks/{_OWN}")


@dataclass
class _Application:
    gateway: GatewayProcess
    hook: Hook
    image: str
    application_id: str
    set_up: SetUp
    _deployed: int = 0

    async def compare(self, engine: Engine) -> tuple[list[float], list[float]]:
        ours, theirs, port, bare_port = [], [], free_port(), free_port()
        on = {} if self.set_up.network == _DEFAULT else {"networks": [self.set_up.network]}
        ports = [{"targetPort": 8080, "publishedPort": port}]
        made = {"name": self.application_id, "applicationId": self.application_id, "dockerImage": self.image}
        await self.gateway.mutate("application.create", {**made, "ports": ports, **on})
        await self._deploy("first")
        serving = await _serving(engine, self.application_id)
        if not self.set_up.alone:
            await containers.start(engine, await self._create(engine, "neighbour", None))
        bare = await self._create(engine, "bare", bare_port)
        for number in range(ROUNDS):
            async with _seen(port, f"v{number}") as watch:
                await self._deploy(f"v{number}")
            ours.append(watch.outage())
            serving = await _serving(engine, self.application_id)
            await containers.stop(engine, serving, grace=10)
            await containers.start(engine, bare)
            async with _seen(bare_port, None) as watch:
                await containers.stop(engine, bare, grace=10)
                await containers.start(engine, bare)
            theirs.append(watch.outage())
            await containers.stop(engine, bare, grace=10)
            await containers.start(engine, serving)
        return ours, theirs

    async def _deploy(self, version: str) -> None:
        digest = await push(self.set_up.image(version), self.image)
        await self.hook.post(envelope(self.image, digest))
        self._deployed += 1
        await self.gateway.settled(self.application_id, count=self._deployed)

    async def _create(self, engine: Engine, name: str, port: int | None) -> str:
        host: dict[str, Any] = {"NetworkMode": self.set_up.network}
        if port is not None:
            host["PortBindings"] = {"8080/tcp": [{"HostPort": str(port)}]}
        return await containers.create(engine, name, {"Image": self.image, "HostConfig": host}, {})


async def _serving(engine: Engine, application_id: str) -> str:
    return next(one.container_id for one in await containers.list_labelled(engine, application_id) if one.running)


@asynccontextmanager
async def _seen(port: int, version: str | None) -> AsyncIterator[Watch]:
    """Watch the port while the block runs, until it answers again: with the version, if one is given."""
    async with watching(port) as watch:

        async def answered() -> bool | None:
            return bool(watch.answers) or None

        await until(answered)
        await asyncio.sleep(SETTLE)
        yield watch
        seen = len(watch.answers)

        async def again() -> bool | None:
            return (len(watch.answers) > seen + 3 and version in {None, watch.last()}) or None

        await until(again)


async def main(numbers: Sequence[int]) -> bool:
    """Print the outages and the ratio of these set-ups, or of all, with the spread of the pairs."""
    chosen = [SET_UPS[number] for number in numbers] or SET_UPS
    kept = True
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as place:
        directory = Path(place)
        async with private_engine() as dockerd, private_registry(directory / "registry", free_port()) as registry:
            async for one, ours, bare in outages(dockerd, registry, directory, chosen):
                found = figure(one.name, ours, bare, "s", one.gate)
                pairs = sorted(our / their for our, their in zip(ours, bare, strict=True))
                kept = kept and found.kept
                print(  # noqa: T201 - that is what it is for
                    f"{one.name:<34}{found.ours:>7.2f}{found.theirs:>7.2f} s {found.ratio:>6.2f}"
                    f"  pairs {pairs[0]:.2f}-{pairs[-1]:.2f}  <= {one.gate} {'kept' if found.kept else 'BROKEN'}",
                    flush=True,
                )
    return kept


if __name__ == "__main__":
    leftovers.start_watcher()
    sys.exit(0 if asyncio.run(main([int(one) for one in sys.argv[1:]])) else 1)
