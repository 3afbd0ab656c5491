"""`make image-test`: the container image, built on a Debian base made here, runs the gateway against an engine."""

import asyncio
import os
import sys
import tempfile
from pathlib import Path

import orjson

from gateway.cli.demo.engine import PrivateEngine, private_engine
from gateway.cli.demo.images import Image, push
from gateway.cli.demo.process import free_port, until
from gateway.cli.demo.registry import private_registry

ROOT = Path(__file__).parents[2]


async def run(*words: str, environment: dict[str, str] | None = None, quiet: bool = True) -> str:
    """Run a command and return what it printed; raises RuntimeError with what it said."""
    process = await asyncio.create_subprocess_exec(
        *words, env={**os.environ, **(environment or {})}, stdout=-1 if quiet else None, stderr=-1
    )
    out, err = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(words[:3])}: {err.decode()[-3000:]}{(out or b'').decode()[-3000:]}")
    return (out or b"").decode().strip()


class Docker:
    """The docker command, for one engine."""

    def __init__(self, engine: PrivateEngine) -> None:
        self._environment = {"DOCKER_HOST": engine.host, "DOCKER_BUILDKIT": "0"}

    async def __call__(self, *words: str) -> str:
        return await run("docker", *words, environment=self._environment)


async def main() -> None:
    with tempfile.TemporaryDirectory(prefix="gateway-image-") as place:
        directory = Path(place)
        async with private_engine() as engine:
            docker = Docker(engine)
            print("Making a Debian base …", flush=True)  # noqa: T201
            await base(docker, directory)
            print("Building the image …", flush=True)  # noqa: T201
            await build(docker, directory)
            print("Running it …", flush=True)  # noqa: T201
            async with private_registry(directory / "registry", free_port()) as registry:
                await deploys(docker, engine, f"{registry.address}/app:v1")
    print("The image runs the gateway, which has deployed an application.")  # noqa: T201


async def base(docker: Docker, directory: Path) -> None:
    """Make a small Debian with Python, from the mirror this machine uses."""
    targets = await run("apt-get", "indextargets", "--format", "$(REPO_URI)")
    mirror = targets.splitlines()[0]
    tree = str(directory / "debian")
    include = "--include=python3,python3-venv,ca-certificates"
    await run("debootstrap", "--variant=minbase", include, "bookworm", tree, mirror)
    await run("tar", "-C", tree, "-cf", f"{directory}/debian.tar", ".")
    await docker("import", f"{directory}/debian.tar", "base:local")


async def build(docker: Docker, directory: Path) -> None:
    """Build from a copy of what is tracked, with the wheels beside it, since the build has no index."""
    context = directory / "context"
    for name in ("Dockerfile", "requirements.txt", "gateway", "migrations"):
        await run("mkdir", "-p", str(context))
        await run("cp", "-r", str(ROOT / name), str(context / name))
    wheels = ["-r", str(ROOT / "requirements.txt"), "-d", str(context / "wheels")]
    await run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", *wheels)
    await docker("build", "--network", "none", "--build-arg", "BASE=base:local", "-t", "pushdeploy", str(context))


async def deploys(docker: Docker, engine: PrivateEngine, name: str) -> None:
    """Run the image as compose.yaml does, and let it deploy something."""
    await push(Image("v1"), name)
    port, group = free_port(), str((await asyncio.to_thread(engine.socket.stat)).st_gid)
    await docker(
        "run", "-d", "--name", "gateway", "--network", "host", "--group-add", group, "--cap-drop", "ALL",
        "-v", f"{engine.socket}:/var/run/docker.sock",
        "-e", f"GATEWAY_LISTEN=127.0.0.1:{port}", "-e", "GATEWAY_STABLE_WINDOW=0.5", "pushdeploy",
    )  # fmt: skip

    async def ready() -> bool | None:
        try:
            await docker("exec", "gateway", "gateway", "keys", "list", "--json")
        except RuntimeError:
            if await docker("inspect", "-f", "{{.State.Running}}", "gateway") != "true":
                raise RuntimeError(await docker("logs", "gateway")) from None
            return None
        return True

    await until(ready)
    assert await docker("exec", "gateway", "id", "-u") != "0"
    await docker("exec", "gateway", "gateway", "apps", "create", "app", name)
    out = await docker("exec", "gateway", "gateway", "deploy", "app", "--follow", "--json")
    assert orjson.loads(out)["state"] == "succeeded", out
    assert await docker("inspect", "-f", "{{.State.Running}}", "app") == "true"
    await docker("stop", "-t", "30", "gateway")
    assert await docker("inspect", "-f", "{{.State.ExitCode}}", "gateway") == "0"


if __name__ == "__main__":
    asyncio.run(main())
