"""`make proxy`: an application behind nginx is updated again and again under load, and no request fails."""

import asyncio
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from gateway.cli.demo.engine import private_engine
from gateway.cli.demo.images import Image, push
from gateway.cli.demo.process import GatewayProcess, free_port, gateway_process, until
from gateway.cli.demo.registry import PrivateRegistry, private_registry
from tests.scripts.debian import run
from tests.scripts.image import Docker
from tests.support.distribution_hooks import Hook, envelope

UPDATES = 20
CLIENTS = 8
_PAUSE = 0.01  # seconds between a client's requests

DOCS = Path(__file__).parents[2] / "docs/reverse-proxy.md"


@dataclass
class Load:
    """What clients saw that each ask again and again: answers by version, and whatever else there was."""

    url: str
    answers: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    longest: float = 0.0

    async def ask_for_ever(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            while True:
                began = time.monotonic()
                try:
                    async with session.get(self.url) as answer:
                        said = await answer.text()
                    if answer.status == 200:
                        self.answers[said] += 1
                    else:
                        self.failures[f"HTTP {answer.status}"] += 1
                except (aiohttp.ClientError, TimeoutError) as error:
                    self.failures[repr(error)] += 1
                self.longest = max(self.longest, time.monotonic() - began)
                await asyncio.sleep(_PAUSE)


async def nginx_image(docker: Docker, directory: Path) -> None:
    """Make an image of Debian's nginx with the libraries it needs, and nothing else."""
    tree = directory / "nginx"
    libraries = set(re.findall(r"(/\S+) \(0x", await run("ldd", "/usr/sbin/nginx")))
    for path in ("/usr/sbin/nginx", *libraries):
        target = tree / path.lstrip("/")
        await run("mkdir", "-p", str(target.parent))
        await run("cp", "-L", path, str(target))
    for folder in ("etc/nginx", "run", "var/log/nginx", "var/lib/nginx", "dev", "tmp"):
        await run("mkdir", "-p", str(tree / folder))
    (tree / "etc/passwd").write_text("root:x:0:0::/:/\nnobody:x:65534:65534::/:/\n")
    (tree / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    await run("tar", "-C", str(tree), "-cf", f"{directory}/nginx.tar", ".")
    await docker("import", f"{directory}/nginx.tar", "nginx:local")


def documented(application: str) -> str:
    """Return the configuration of the docs, for this application."""
    found = re.search(r"```nginx\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert found is not None
    return found[1].replace("my-app", application)


async def proxied(docker: Docker, directory: Path, application: str, port: int) -> None:
    configuration = directory / "nginx.conf"
    configuration.write_text(documented(application))
    await nginx_image(docker, directory)
    await docker(
        "run", "-d", "--name", "proxy", "--network", "front", "-p", f"{port}:80",
        "-v", f"{configuration}:/etc/nginx/nginx.conf:ro",
        "nginx:local", "/usr/sbin/nginx", "-g", "daemon off; user root; error_log /dev/stderr;",
    )  # fmt: skip


async def application(gateway: GatewayProcess, name: str, hook: Hook) -> str:
    """Create it, let its first version serve, and return its name on the network."""
    made = {"name": "web", "applicationId": "web", "dockerImage": name, "networks": ["front"]}
    await gateway.mutate("application.create", made)
    await hook.post(envelope(name, await push(Image("version 0"), name)))
    await gateway.settled("web")
    return str((await gateway.query("application.one", applicationId="web"))["appName"])


async def main() -> bool:
    with tempfile.TemporaryDirectory(prefix="gateway-proxy-") as place:
        directory = Path(place)
        async with (
            private_engine() as dockerd,
            private_registry(directory / "registry", free_port()) as registry,
            gateway_process(directory / "gateway", dockerd.host, {"GATEWAY_STABLE_WINDOW": "0.5"}) as gateway,
        ):
            docker = Docker(dockerd)
            await docker("network", "create", "front")
            load = await updated_under_load(gateway, registry, docker, directory)
            if load.failures:
                print(await docker("logs", "proxy"), flush=True)  # noqa: T201
    seen = sum(load.answers.values())
    print(f"{UPDATES} updates, {seen} requests answered by {len(load.answers)} versions")  # noqa: T201
    print(f"longest answer {load.longest * 1000:.0f} ms, failed {sum(load.failures.values())}: {dict(load.failures)}")  # noqa: T201
    return not load.failures and len(load.answers) == UPDATES + 1


async def updated_under_load(
    gateway: GatewayProcess, registry: PrivateRegistry, docker: Docker, directory: Path
) -> Load:
    name, port, hook = f"{registry.address}/web:latest", free_port(), await Hook.open(gateway)
    await proxied(docker, directory, await application(gateway, name, hook), port)
    load = Load(f"http://127.0.0.1:{port}/")

    async def serves() -> bool | None:
        try:
            async with aiohttp.ClientSession() as session, session.get(load.url) as answer:
                return answer.ok or None
        except aiohttp.ClientError:
            return None

    await until(serves)
    clients = [asyncio.create_task(load.ask_for_ever()) for _ in range(CLIENTS)]
    try:
        for number in range(1, UPDATES + 1):
            await hook.post(envelope(name, await push(Image(f"version {number}"), name)))
            row = await gateway.settled("web", count=number + 1)
            assert row["state"] == "succeeded", row["reason"]
            print(f"version {number}: {sum(load.answers.values())} answers, {load.failures}", flush=True)  # noqa: T201
    finally:
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    return load


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
