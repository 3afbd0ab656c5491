"""`make image-test`: the container image, built twice on a Debian base made here, is the same, and runs the gateway.

It is built by Podman, which gives what it builds the time of a commit; the builder of Docker 20.10 cannot.
"""

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import Any

import orjson

from gateway.cli.demo.engine import PrivateEngine, private_engine
from gateway.cli.demo.images import Image, push
from gateway.cli.demo.process import free_port, until
from gateway.cli.demo.registry import NotificationEndpoint, PrivateRegistry, private_registry
from gateway.version import VERSION
from tests.scripts import debian
from tests.scripts.debian import ROOT, run
from tests.scripts.image_archive import without_builder

BUILT = ROOT / "build/image/pushdeploy.tar"
SBOM = ROOT / "build/image/sbom.cdx.json"
SOURCES = ("Dockerfile", "requirements.txt", "requirements-sbom.txt", "pyproject.toml", "gateway", "migrations")


def say(text: str, since: float) -> None:
    print(f"{monotonic() - since:6.1f} s  {text}", flush=True)  # noqa: T201 - for whoever runs it


class Docker:
    """The docker command, for one engine."""

    def __init__(self, engine: PrivateEngine) -> None:
        self._environment = {"DOCKER_HOST": engine.host, "DOCKER_BUILDKIT": "0"}

    async def __call__(self, *words: str) -> str:
        return await run("docker", *words, environment=self._environment)

    async def shell(self, text: str) -> str:
        return await run("sh", "-euc", text, environment=self._environment)


class Podman:
    """The podman command, with a storage of its own, which it removes."""

    def __init__(self, directory: Path) -> None:
        self._place = (f"--root={directory}/storage", f"--runroot={directory}/run", f"--tmpdir={directory}/tmp")

    async def __call__(self, *words: str) -> str:
        return await run("podman", *self._place, "--cgroup-manager=cgroupfs", "--events-backend=none", *words)

    async def base(self, tree: Path) -> str:
        """Import a tree and return its name with its digest, as a base is pinned."""
        await self("import", "--quiet", str(tree), "localhost/base:local")
        return "localhost/base@" + await self("image", "inspect", "--format", "{{.Digest}}", "localhost/base:local")


async def context(directory: Path) -> Path:
    """Copy what the image is built from, with the wheels beside it, since the build has no index."""
    made = directory / "context"
    await asyncio.to_thread(made.mkdir)
    for name in SOURCES:
        for one in (await run("git", "-C", str(ROOT), "ls-files", name)).splitlines():
            await asyncio.to_thread((made / one).parent.mkdir, parents=True, exist_ok=True)
            await asyncio.to_thread(shutil.copy, ROOT / one, made / one)
    download = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes")
    for name in ("requirements.txt", "requirements-sbom.txt"):
        await run(*download, "-r", str(ROOT / name), "-d", str(made / "wheels"))
    return made


async def of_commit() -> dict[str, str]:
    """Return the arguments of the build that say which commit it is of, and when that was made."""
    day = "--date=format-local:%Y-%m-%dT%H:%M:%SZ"
    epoch, created, revision = (
        await run("git", "-C", str(ROOT), "log", "-1", "--format=%ct %cd %H", day, environment={"TZ": "UTC"})
    ).split()
    return {"SOURCE_DATE_EPOCH": epoch, "CREATED": created, "REVISION": revision}


async def build(podman: Podman, source: Path, base: str) -> str:
    """Build the image, using nothing of a former build, and keep it in BUILT; return its id."""
    arguments = {"BASE": base, **await of_commit()}
    time = f"--timestamp={arguments['SOURCE_DATE_EPOCH']}"
    words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    await podman(
        "build", "--quiet", "--no-cache", "--network=none", "--format=docker", time, *words,
        "--tag", "localhost/pushdeploy", str(source),
    )  # fmt: skip
    await asyncio.to_thread(BUILT.parent.mkdir, parents=True, exist_ok=True)
    await asyncio.to_thread(BUILT.unlink, missing_ok=True)
    await podman("save", "--quiet", "--format=docker-archive", "--output", str(BUILT), "localhost/pushdeploy")
    return await asyncio.to_thread(without_builder, BUILT)


async def built(directory: Path, times: int = 1) -> list[str]:
    """Build the image so many times and return the ids. The last one is in BUILT."""
    podman = Podman(directory)
    try:
        base = await podman.base(await debian.python())
        source = await context(directory)
        return [await build(podman, source, base) for _ in range(times)]
    finally:
        await podman("system", "reset", "--force")


async def load(docker: Docker) -> None:
    """Load the image that was built into an engine, under the name that compose.yaml has."""
    await docker("load", "--quiet", "--input", str(BUILT))
    await docker("tag", "localhost/pushdeploy", "pushdeploy")


def check(found: dict[str, Any], revision: str) -> None:
    """Check what the image says of itself."""
    config = found["Config"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels["title"] == "Pushdeploy", labels
    assert (labels["version"], labels["revision"], labels["licenses"]) == (VERSION, revision, "Apache-2.0"), labels
    assert "@sha256:" in labels["base.name"], labels
    assert labels["created"].endswith("Z"), labels
    assert config["User"] == "gateway", config["User"]
    assert config["Healthcheck"]["Test"], config
    assert list(config["Volumes"]) == ["/data"], config


def check_sbom(text: str) -> int:
    """Check that the list of what is in the image has all that is pinned; return how many there are."""
    found = orjson.loads(text)
    assert found["bomFormat"] == "CycloneDX", found
    assert found["metadata"]["component"]["name"] == "pushdeploy", found["metadata"]
    named = {one["name"].lower().replace("_", "-") for one in found["components"]}
    pinned = {
        line.partition("==")[0].lower()
        for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith((" ", "#")) and ";" not in line
    }
    assert pinned <= named, pinned - named
    return len(named)


async def main() -> None:
    since = monotonic()
    with tempfile.TemporaryDirectory(prefix="gateway-image-") as place:
        directory = Path(place)
        await debian.python()
        say("made a Debian base", since)
        first, second = await built(directory, times=2)
        assert first == second, f"two builds differ: {first}, {second}"
        say(f"built it twice: {first}", since)
        async with private_engine() as engine:
            docker = Docker(engine)
            await load(docker)
            found = orjson.loads(await docker("image", "inspect", "pushdeploy"))[0]
            assert found["Id"] == first, found["Id"]
            check(found, (await of_commit())["REVISION"])
            sbom = await docker("run", "--rm", "--entrypoint", "cat", "pushdeploy", "/opt/gateway/share/sbom.cdx.json")
            await asyncio.to_thread(SBOM.write_text, sbom, encoding="utf-8")
            say(f"its labels, user and health check are there, and an SBOM of {check_sbom(sbom)} packages", since)
            async with private_registry(directory / "registry", free_port()) as registry:
                await deploys(docker, engine, registry)
    say("it runs the gateway, healthy, which has deployed a push", since)


def printed() -> str:
    """Return the command of docs/container.md that runs the image alone."""
    page = (ROOT / "docs/container.md").read_text(encoding="utf-8")
    return page[
        page.index("    docker run -d --name pushdeploy") : page.index("    docker exec pushdeploy gateway apps")
    ]


async def deploys(docker: Docker, engine: PrivateEngine, registry: PrivateRegistry) -> None:
    """Run the image as docs/container.md says, and let the webhook of a push arrive there."""
    port, name, began = free_port(), f"{registry.address}/app:latest", monotonic()
    await push(Image("v1"), name)
    command = (
        printed().replace("8080", str(port)).replace("stat -c %g /var/run/docker.sock", f"stat -c %g {engine.socket}")
    )
    command = command.replace("-v /var/run/docker.sock:", f"-v {engine.socket}:")
    # The seconds are the test's.
    command = command.replace("docker run", "docker run --health-interval 1s -e GATEWAY_STABLE_WINDOW=0.5")
    await docker.shell(command)

    async def ready() -> bool | None:
        try:
            await docker("exec", "pushdeploy", "gateway", "keys", "list", "--json")
        except RuntimeError:
            if await docker("inspect", "-f", "{{.State.Running}}", "pushdeploy") != "true":
                raise RuntimeError(await docker("logs", "pushdeploy")) from None
            return None
        return True

    async def healthy() -> bool | None:
        state = await docker("inspect", "-f", "{{.State.Health.Status}}", "pushdeploy")
        return True if state == "healthy" else None

    await until(ready)
    await docker("exec", "pushdeploy", "gateway", "apps", "create", "app", name)
    out = await docker("exec", "pushdeploy", "gateway", "deploy", "app", "--follow", "--json")
    assert orjson.loads(out)["state"] == "succeeded", out
    made = orjson.loads(await docker("exec", "pushdeploy", "gateway", "webhooks", "create", "distribution", "--json"))
    await registry.stop()
    headers = {made["header"]: [f"Bearer {made['secret']}"]}
    registry.endpoints = [NotificationEndpoint(f"http://127.0.0.1:{port}{made['path']}", headers)]
    await registry.start()
    digest = await push(Image("v2"), name)

    async def deployed() -> bool | None:
        found = orjson.loads(await docker("exec", "pushdeploy", "gateway", "deployments", "list", "app", "--json"))
        return (found[0]["digest"], found[0]["state"]) == (digest, "succeeded") or None

    await until(deployed)
    say(f"from nothing to a first push deployed: 5 commands, {(monotonic() - began) / 60:.1f} minutes", began)
    await until(healthy)
    assert await docker("exec", "pushdeploy", "id", "-u") != "0"
    assert await docker("inspect", "-f", "{{.State.Running}}", "app") == "true"
    await docker("stop", "pushdeploy")
    assert await docker("inspect", "-f", "{{.State.ExitCode}}", "pushdeploy") == "0"


if __name__ == "__main__":
    asyncio.run(main())
