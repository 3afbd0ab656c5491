"""From a push to the container that serves, and one push to many, against what a shell and the bare API do.

Each round does the same to ours and to theirs, one after the other: only the ratio of two things measured at the same
time holds on a machine that does other things too.
"""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from gateway.cli.demo.client import Watch, watching
from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.images import Image, push
from gateway.cli.demo.process import FINISHED, GatewayProcess, free_port, gateway_process, until
from gateway.cli.demo.registry import PrivateRegistry
from gateway.docker.engine import containers, images
from gateway.docker.engine.client import Engine, connect
from gateway.model.reference import Digest, Reference
from tests.bench.report import Figure, figure
from tests.support.distribution_hooks import Hook, envelope

ROUNDS = 11
FAN_ROUNDS = 5
WIDTHS = (1, 2, 4, 8)
SETTLE = 1.2  # seconds between rounds, for the client's neighbour entries to be what they are in peace
_SETTINGS = {"GATEWAY_STABLE_WINDOW": "0.5"}
_PULL_STALL = 60.0  # seconds
_LOOK_AGAIN, _MOST_LOOKS = 0.3, 400  # seconds
_MOST_SECONDS = 120


async def measure(dockerd: PrivateEngine, registry: PrivateRegistry, directory: Path) -> list[Figure]:
    """Measure one application at a time: ours, a shell script, and the calls of the API that nobody can do without."""
    ours, outages = list[float](), list[float]()
    script, bare, bare_outages = list[float](), list[float](), list[float]()
    async with (
        connect(dockerd.host) as engine,
        gateway_process(directory / "one", dockerd.host, _SETTINGS) as gateway,
    ):
        hook, name, port = await _application(gateway, registry)
        shell, raw = await _Shell.start(dockerd, registry), await _Bare.start(engine, registry)
        for number in range(ROUNDS):
            taken, outage = await _by_push(gateway, hook, name, port, f"g{number}", count=number + 2)
            ours.append(taken)
            outages.append(outage)
            taken, outage = await raw.replace(f"b{number}")
            bare.append(taken)
            bare_outages.append(outage)
            script.append(await shell.replace(f"s{number}"))
    await dockerd.remove_containers()
    return [
        figure("(a) push to running, over a shell's pull stop rm run", ours, script, "s", gate=0.8, before="0.92"),
        figure("(a) push to running, over the API's pull create stop start", ours, bare, "s", gate=1.1, before="1.05"),
        figure("(b) outage a client sees, over a bare stop and start", outages, bare_outages, "s", gate=1.15),
    ]


async def _application(gateway: GatewayProcess, registry: PrivateRegistry) -> tuple[Hook, str, int]:
    hook, name, port = await Hook.open(gateway), f"{registry.address}/bench/app:latest", free_port()
    ports = [{"targetPort": 8080, "publishedPort": port}]
    await gateway.mutate("application.create", {"name": "a", "applicationId": "a", "dockerImage": name, "ports": ports})
    await hook.post(envelope(name, await push(Image("first"), name)))
    await gateway.settled("a")
    return hook, name, port


async def _by_push(
    gateway: GatewayProcess, hook: Hook, name: str, port: int, version: str, *, count: int
) -> tuple[float, float]:
    """Return the time from the push event to the start of the new container, and the outage a client sees."""
    digest = await push(Image(version), name)
    async with watching(port) as watch:
        await asyncio.sleep(SETTLE)
        began = time.time()
        await hook.post(envelope(name, digest))
        await _sees(watch, version)  # nobody asks the gateway before that
        row = await _ended(gateway, "a", count)
    return _swapped_at(row) - began, watch.outage()


async def _ended(gateway: GatewayProcess, one: str, count: int) -> dict[str, Any]:
    """Return the newest of so many deployments once it has ended."""
    for _ in range(_MOST_LOOKS):
        found = await gateway.deployments(one)
        if len(found) >= count and found[0]["state"] in FINISHED:
            row: dict[str, Any] = await gateway.query("deployment.one", deploymentId=found[0]["deploymentId"])
            return row
        await asyncio.sleep(_LOOK_AGAIN)
    raise TimeoutError(f"{one} was not deployed")


async def _nothing_waits_or_runs(gateway: GatewayProcess) -> None:
    """Return once the queue is empty. To ask for that costs the gateway one statement a second."""
    for _ in range(_MOST_SECONDS):
        if not await gateway.query("deployment.queueList"):
            return
        await asyncio.sleep(1)
    raise TimeoutError("the queue did not become empty")


def _swap_of(row: dict[str, Any]) -> dict[str, Any]:
    return next(step for step in row["steps"] if step["step"] == "swap")


def _swapped_at(row: dict[str, Any]) -> float:
    return datetime.fromisoformat(_swap_of(row)["finishedAt"]).timestamp()


async def _sees(watch: Watch, version: str) -> None:
    async def look() -> bool | None:
        return watch.last() == version or None

    await until(look, within=20)


@dataclass(frozen=True, slots=True)
class _Shell:
    """A container that the words replace which people type, watched by the same client."""

    dockerd: PrivateEngine
    name: str
    run: str
    port: int

    @classmethod
    async def start(cls, dockerd: PrivateEngine, registry: PrivateRegistry) -> "_Shell":
        name, port = f"{registry.address}/bench/shell:latest", free_port()
        await push(Image("before"), name)
        one = cls(dockerd, name, f"docker run -d --name shell -p {port}:8080 {name}", port)
        await one._type(one.run)
        return one

    async def replace(self, version: str) -> float:
        await push(Image(version), self.name)
        async with watching(self.port):
            await asyncio.sleep(SETTLE)
            began = time.time()
            await self._type(f"docker pull -q {self.name} && docker stop shell && docker rm shell && {self.run}")
            return time.time() - began

    async def _type(self, line: str) -> None:
        if shutil.which("docker") is None:
            raise RuntimeError("the docker command is needed to compare with")
        process = await asyncio.create_subprocess_shell(
            line, env={"PATH": "/usr/local/bin:/usr/bin:/bin", "DOCKER_HOST": self.dockerd.host}, stdout=-1, stderr=-1
        )
        _, err = await process.communicate()
        if process.returncode != 0:
            raise RuntimeError(err.decode())


@dataclass(slots=True)
class _Bare:
    """A container that is replaced with the calls of the API that nobody can do without."""

    engine: Engine
    name: str
    port: int
    serving: str

    @classmethod
    async def start(cls, engine: Engine, registry: PrivateRegistry) -> "_Bare":
        name, port = f"{registry.address}/bench/bare:latest", free_port()
        image = await _pull(engine, name, await push(Image("before"), name))
        serving = await containers.create(engine, "bare-before", _publishing(image, port), {})
        await containers.start(engine, serving)
        return cls(engine, name, port, serving)

    async def replace(self, version: str) -> tuple[float, float]:
        """Return the time from the push to the start of the new container, and the outage a client sees."""
        digest, old = await push(Image(version), self.name), self.serving
        async with watching(self.port) as watch:
            await asyncio.sleep(SETTLE)
            began = time.time()
            image = await _pull(self.engine, self.name, digest)
            new = await containers.create(self.engine, f"bare-{version}", _publishing(image, self.port), {})
            await containers.stop(self.engine, old, grace=10)
            await containers.start(self.engine, new)
            taken = time.time() - began
            await _sees(watch, version)
        await containers.remove(self.engine, old)
        self.serving = new
        return taken, watch.outage()


async def _pull(engine: Engine, name: str, digest: Digest) -> str:
    """Pull an image by digest and return its name."""
    reference = Reference.parse(name).with_digest(digest)
    await images.pull(engine, reference, None, progress=_unseen, stall=_PULL_STALL)
    return f"{reference.repository}@{digest}"


async def _unseen(_progress: str) -> None:
    """Show nobody how a pull gets on."""


def _publishing(image: str, port: int) -> dict[str, Any]:
    return {"Image": image, "HostConfig": {"PortBindings": {"8080/tcp": [{"HostPort": str(port)}]}}}


# -- one push to many


@dataclass(slots=True)
class Spread:
    """What one push to many took, in each round: until the last one served, and the median outage of one."""

    totals: list[float] = field(default_factory=list)
    outages: list[float] = field(default_factory=list)

    def add(self, total: float, outages: Sequence[float]) -> None:
        self.totals.append(total)
        self.outages.append(median(outages))


async def fan_out(dockerd: PrivateEngine, registry: PrivateRegistry, directory: Path) -> list[Figure]:
    """Measure one push to twenty and to fifty applications with fixed ports, against the bare API."""
    return [
        *await _fan_out(dockerd, registry, directory / "fan20", 20, WIDTHS),
        *await _fan_out(dockerd, registry, directory / "fan50", 50, (2,)),
    ]


async def _fan_out(
    dockerd: PrivateEngine, registry: PrivateRegistry, directory: Path, many: int, widths: Sequence[int]
) -> list[Figure]:
    """Compare at each width, and the width that the gateway chooses with the width that is best for the bare API."""
    ours, raw = {width: Spread() for width in (None, *widths)}, {width: Spread() for width in widths}
    async with (
        connect(dockerd.host) as engine,
        Many.deployed(dockerd, registry, directory, many) as gateway,
        RawMany.started(engine, registry, many) as bare,
    ):
        turns = [None, *widths]
        for number in range(FAN_ROUNDS):
            # What came just before shows in a figure too, so that each round begins with another width.
            for width in turns[number % len(turns) :] + turns[: number % len(turns)]:
                await gateway.restart(width)
                ours[width].add(*await gateway.push())
                if width is not None:
                    raw[width].add(*await bare.push(width))
    await dockerd.remove_containers()
    fastest = min(widths, key=lambda width: median(raw[width].totals))
    # Twice as long for all of them is as bad as twice as long for one.
    best = min(widths, key=lambda width: median(raw[width].totals) * median(raw[width].outages))
    what = f"(e) {many} applications on one push"
    figures = []
    for width in widths:
        figures += [
            figure(f"{what}, {width} at once: total", ours[width].totals, raw[width].totals, "s", gate=1.1),
            figure(f"{what}, {width} at once: outage", ours[width].outages, raw[width].outages, "s", gate=1.1),
        ]
    chosen = ours[None]
    return [
        *figures,
        figure(f"{what}, as chosen: total, over {best} at once", chosen.totals, raw[best].totals, "s", gate=1.1),
        figure(f"{what}, as chosen: outage, over {best} at once", chosen.outages, raw[best].outages, "s", gate=1.1),
        figure(f"{what}, as chosen: total, over the fastest, {fastest}", chosen.totals, raw[fastest].totals, "s"),
        figure(f"{what}, as chosen: outage, over the fastest, {fastest}", chosen.outages, raw[fastest].outages, "s"),
    ]


@dataclass(slots=True)
class Many:
    """Applications of one image, deployed by a gateway."""

    gateway: GatewayProcess
    hook: Hook
    name: str
    ids: list[str]
    pushes: int = 1

    @classmethod
    @asynccontextmanager
    async def deployed(
        cls,
        dockerd: PrivateEngine,
        registry: PrivateRegistry,
        directory: Path,
        many: int,
        prefix: tuple[str, ...] = (),
    ) -> AsyncIterator["Many"]:
        async with gateway_process(directory, dockerd.host, _SETTINGS, prefix) as gateway:
            hook, name = await Hook.open(gateway), f"{registry.address}/bench/{directory.name}:latest"
            ids = [f"{directory.name}-{number}" for number in range(many)]
            for one in ids:
                ports = [{"targetPort": 8080, "publishedPort": free_port()}]
                made = {"name": one, "applicationId": one, "dockerImage": name, "ports": ports}
                await gateway.mutate("application.create", made)
            await hook.post(envelope(name, await push(Image(f"{time.time()}"), name)))
            for one in ids:
                await gateway.settled(one)
            yield cls(gateway, hook, name, ids)

    async def restart(self, width: int | None) -> None:
        """Restart the gateway with so many swaps at once, None for as many as it chooses."""
        await self.gateway.stop()
        self.gateway.environment.pop("GATEWAY_SWAPS", None)
        if width is not None:
            self.gateway.environment["GATEWAY_SWAPS"] = str(width)
        await self.gateway.start()

    async def push(self) -> tuple[float, list[float]]:
        """Push once, and return the seconds until the last one served, and each one's swap."""
        digest = await push(Image(f"{time.time()}"), self.name)
        await asyncio.sleep(SETTLE)
        self.pushes += 1
        began = time.time()
        await self.hook.post(envelope(self.name, digest))
        await _nothing_waits_or_runs(self.gateway)
        rows = [await _ended(self.gateway, one, self.pushes) for one in self.ids]
        outages = [_swap_of(row)["milliseconds"] / 1000 for row in rows]
        return max(_swapped_at(row) for row in rows) - began, outages


@dataclass(slots=True)
class RawMany:
    """As many containers of one image, replaced by the bare API: one pull, then create, stop and start for each."""

    engine: Engine
    name: str
    ports: list[int]
    serving: list[str] = field(default_factory=list)
    pushes: int = 0

    @classmethod
    @asynccontextmanager
    async def started(cls, engine: Engine, registry: PrivateRegistry, many: int) -> AsyncIterator["RawMany"]:
        one = cls(engine, f"{registry.address}/bench/raw{many}:latest", [free_port() for _ in range(many)])
        image = await _pull(engine, one.name, await push(Image(f"{time.time()}"), one.name))
        for number in range(many):
            made = await one._create(number, image)
            await containers.start(engine, made)
            one.serving.append(made)
        yield one

    async def _create(self, number: int, image: str) -> str:
        name = f"raw{len(self.ports)}-{number}-{self.pushes}"
        return await containers.create(self.engine, name, _publishing(image, self.ports[number]), {})

    async def push(self, width: int) -> tuple[float, list[float]]:
        digest = await push(Image(f"{time.time()}"), self.name)
        await asyncio.sleep(SETTLE)
        self.pushes += 1
        at_once, outages, began = asyncio.Semaphore(width), list[float](), time.time()
        image = await _pull(self.engine, self.name, digest)

        async def replace(number: int) -> str:
            new = await self._create(number, image)
            async with at_once:
                stopped = time.time()
                await containers.stop(self.engine, self.serving[number], grace=10)
                await containers.start(self.engine, new)
                outages.append(time.time() - stopped)
            return new

        before, self.serving = self.serving, await asyncio.gather(*map(replace, range(len(self.ports))))
        total = time.time() - began
        for old in before:
            await containers.remove(self.engine, old)
        return total, outages
