"""From a push to the container, against what a shell and the bare API do."""

import asyncio
import shutil
import time
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from gateway.cli.demo.client import watching
from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.images import Image, push
from gateway.cli.demo.process import GatewayProcess, free_port, gateway_process, until
from gateway.cli.demo.registry import PrivateRegistry
from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine, connect
from tests.bench.report import Figure, figure
from tests.support.distribution_hooks import Hook, envelope

ROUNDS = 11
SETTLE = 1.2  # seconds between rounds, for the client's neighbour entries to be what they are in peace


async def measure(dockerd: PrivateEngine, registry: PrivateRegistry, directory: Path) -> list[Figure]:
    async with (
        connect(dockerd.host) as engine,
        gateway_process(directory / "one", dockerd.host, {"GATEWAY_STABLE_WINDOW": "0.5"}) as gateway,
    ):
        ours, outages, theirs, bare = [], [], [], []
        hook, name, port = await _application(gateway, registry)
        shell_port, bare_port = free_port(), free_port()
        container = await _bare_container(engine, name, bare_port)
        # In turn, so that what the machine does meanwhile is done to each.
        for number in range(ROUNDS):
            taken, outage = await _by_push(gateway, hook, name, port, f"g{number}", count=number + 2)
            ours.append(taken)
            outages.append(outage)
            bare.append(await _bare(engine, container, bare_port))
            theirs.append(await _by_shell(dockerd, registry, f"s{number}", shell_port))
    return [
        figure("(a) push accepted to running, over a shell's pull stop rm run", ours, theirs, "s", gate=1.0),
        figure("(b) outage a client sees, over a bare stop and start", outages, bare, "s", gate=1.15),
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
    digest = await push(Image(version), name)
    async with watching(port) as watch:
        await asyncio.sleep(SETTLE)
        began = time.time()
        await hook.post(envelope(name, digest))
        row = await gateway.settled("a", count=count)
        await _sees(watch, version)
    swapped = next(step["finishedAt"] for step in row["steps"] if step["step"] == "swap")
    return datetime.fromisoformat(swapped).timestamp() - began, watch.outage()


async def _sees(watch: Any, version: str) -> None:
    async def look() -> bool | None:
        return watch.last() == version or None

    await until(look, within=20)


async def _by_shell(dockerd: PrivateEngine, registry: PrivateRegistry, version: str, port: int) -> float:
    """Return the time of what people type, watched by the same client."""
    name = f"{registry.address}/bench/shell:latest"
    run = f"docker run -d --name shell -p {port}:8080 {name}"
    if version == "s0":
        await push(Image("before"), name)
        await _shell(dockerd, run)
    await push(Image(version), name)
    async with watching(port):
        await asyncio.sleep(SETTLE)
        began = time.time()
        await _shell(dockerd, f"docker pull -q {name} && docker stop shell && docker rm shell && {run}")
        return time.time() - began


async def _shell(dockerd: PrivateEngine, line: str) -> None:
    if shutil.which("docker") is None:
        raise RuntimeError("the docker command is needed to compare with")
    process = await asyncio.create_subprocess_shell(
        line, env={"PATH": "/usr/local/bin:/usr/bin:/bin", "DOCKER_HOST": dockerd.host}, stdout=-1, stderr=-1
    )
    _, err = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(err.decode())


async def _bare_container(engine: Engine, image: str, port: int) -> str:
    body = {"Image": image, "HostConfig": {"PortBindings": {"8080/tcp": [{"HostPort": str(port)}]}}}
    container = await containers.create(engine, "bare", body, {})
    await containers.start(engine, container)
    return container


async def _bare(engine: Engine, container: str, port: int) -> float:
    """Return the outage of one container that is stopped and started again.

    It has two modes, a second apart: the engine listens on the port before the container's address answers, and
    when the kernel has forgotten where that is, it looks again only a second later.
    """
    async with watching(port) as watch:
        await asyncio.sleep(SETTLE)
        await containers.stop(engine, container, grace=10)
        await containers.start(engine, container)
        seen = len(watch.answers)

        async def again() -> bool | None:
            return len(watch.answers) > seen + 3 or None

        await until(again)
    return watch.outage()


async def fan_out(dockerd: PrivateEngine, registry: PrivateRegistry, directory: Path) -> list[Figure]:
    """One push to twenty applications with fixed ports, against the bare API, over how many swap at once."""
    figures = []
    for slots in (1, 2, 4, 8):
        settings = {"GATEWAY_STABLE_WINDOW": "0.5", "GATEWAY_SWAPS": str(slots)}
        async with gateway_process(directory / f"fan{slots}", dockerd.host, settings) as gateway:
            served, outage = await _at_once(gateway, registry, 20)
        async with connect(dockerd.host) as engine:
            raw_total, raw_outage = await _twenty_raw(engine, registry, slots)
        await dockerd.remove_containers()
        figures += [
            Figure(f"(e) 20 applications on one push, {slots} swaps at once: total", served[-1], raw_total, "s"),
            Figure(f"(e) 20 applications on one push, {slots} swaps at once: outage", outage, raw_outage, "s"),
        ]
    async with gateway_process(directory / "curve", dockerd.host, {"GATEWAY_STABLE_WINDOW": "0.5"}) as gateway:
        served, _ = await _at_once(gateway, registry, 50)
    await dockerd.remove_containers()
    curve = [
        Figure(
            f"(e) 50 applications on one push: the {number}th serves, over the first",
            served[number - 1],
            served[0],
            "s",
        )
        for number in (10, 25, 50)
    ]
    return [*figures, *curve]


async def _at_once(gateway: GatewayProcess, registry: PrivateRegistry, many: int) -> tuple[list[float], float]:
    """Return when each application served after one push to all of them, the first one first, and a swap's time."""
    hook, name = await Hook.open(gateway), f"{registry.address}/bench/fan:latest"
    ids = [f"f{number}" for number in range(many)]
    for application_id in ids:
        ports = [{"targetPort": 8080, "publishedPort": free_port()}]
        made = {"name": application_id, "applicationId": application_id, "dockerImage": name, "ports": ports}
        await gateway.mutate("application.create", made)
    await hook.post(envelope(name, await push(Image(f"one {time.time()}"), name)))
    await asyncio.gather(*(gateway.settled(one, within=120) for one in ids))
    digest = await push(Image(f"two {time.time()}"), name)
    began = time.time()
    await hook.post(envelope(name, digest))
    rows = await asyncio.gather(*(gateway.settled(one, count=2, within=120) for one in ids))
    swaps = [step for row in rows for step in row["steps"] if step["step"] == "swap"]
    served = sorted(datetime.fromisoformat(step["finishedAt"]).timestamp() - began for step in swaps)
    return served, median(step["milliseconds"] for step in swaps) / 1000


async def _twenty_raw(engine: Engine, registry: PrivateRegistry, slots: int) -> tuple[float, float]:
    name, at_once, outages = f"{registry.address}/bench/fan:latest", asyncio.Semaphore(slots), []
    bodies = [
        {"Image": name, "HostConfig": {"PortBindings": {"8080/tcp": [{"HostPort": str(free_port())}]}}}
        for _ in range(20)
    ]
    olds = [await containers.create(engine, f"raw-old{number}", body, {}) for number, body in enumerate(bodies)]
    for old in olds:
        await containers.start(engine, old)

    async def replace(number: int) -> None:
        new = await containers.create(engine, f"raw-new{number}", bodies[number], {})
        async with at_once:
            stopped = time.time()
            await containers.stop(engine, olds[number], grace=10)
            await containers.start(engine, new)
            outages.append(time.time() - stopped)

    began = time.time()
    async with AsyncExitStack():
        await asyncio.gather(*map(replace, range(20)))
    return time.time() - began, median(outages)
