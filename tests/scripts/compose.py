"""`make compose-test`: both compose files, started by Docker Compose as they say, deploy a push.

It runs in a network and a mount namespace of its own, where port 8080 and /var/run/docker.sock are free. The images of
PostgreSQL and HAProxy are stand-ins of the same names, made of Debian's packages, since no registry can be asked.
"""

import asyncio
import re
import shutil
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import orjson

from gateway.cli.demo.engine import ip, private_engine
from gateway.cli.demo.images import Image, push
from gateway.cli.demo.process import FINISHED, until
from gateway.cli.demo.registry import NotificationEndpoint, PrivateRegistry, private_registry
from tests.scripts import debian, image
from tests.scripts.debian import ROOT, run
from tests.scripts.image import Docker, say

COMPOSE = ROOT / "build/compose-venv"
_SOCKET = Path("/var/run/docker.sock")
#: an address of this host that the containers reach too
_REGISTRY = "10.213.255.1"
_GATEWAY = "http://127.0.0.1:8080"
_APP_PORT = 18080
_PARTS = ("postgresql", "haproxy")

# What the gateway needs of https://hub.docker.com/_/postgres: a user, a database and a password from the environment.
_POSTGRES = r"""#!/bin/sh
set -eu
export PATH=/usr/lib/postgresql/15/bin:$PATH PGDATA=/var/lib/postgresql/data/pgdata
if [ ! -e "$PGDATA/PG_VERSION" ]; then
    install -d -o postgres -m 700 "$PGDATA"
    (umask 077; printf %s "$POSTGRES_PASSWORD" > /tmp/password; chown postgres /tmp/password)
    setpriv --reuid=postgres --regid=postgres --clear-groups initdb -A scram-sha-256 -U "$POSTGRES_USER" \
        --pwfile=/tmp/password
    rm /tmp/password
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    setpriv --reuid=postgres --regid=postgres --clear-groups postgres --single postgres <<END
CREATE DATABASE $POSTGRES_DB
END
fi
exec setpriv --reuid=postgres --regid=postgres --clear-groups postgres -c listen_addresses='*'
"""


class Stack:
    """What compose.yaml starts, and the commands that are printed for it, in a folder with a copy of both files."""

    def __init__(self, folder: Path, files: tuple[str, ...]) -> None:
        self._folder = folder
        self._files = [word for name in files for word in ("-f", name)]
        self._environment = {"DOCKER_CONFIG": str(folder / "docker"), "DOCKER_HOST": f"unix://{_SOCKET}"}

    async def __call__(self, *words: str) -> str:
        return await run("docker", "compose", *self._files, *words, environment=self._environment, cwd=self._folder)

    async def shell(self, text: str) -> str:
        return await run("sh", "-euc", text, environment=self._environment, cwd=self._folder)

    async def gateway(self, *words: str) -> Any:
        """Run a command in the gateway's container; return what it printed, read as JSON."""
        return orjson.loads(await self("exec", "-T", "gateway", "gateway", *words, "--json"))


async def stand_ins(docker: Docker, directory: Path) -> None:
    """Make images of PostgreSQL and HAProxy under the names that the compose files have."""
    tree = await debian.tree("parts", _PARTS)
    await docker("import", str(tree), "parts:local")
    folder = directory / "stand-ins"
    folder.mkdir()
    (folder / "entry").write_text(_POSTGRES, encoding="utf-8")
    (folder / "entry").chmod(0o755)
    names = {
        name: one
        for path in ("compose.yaml", "deploy/compose.socket-proxy.yaml")
        for name, one in re.findall(r"image: ((postgres|haproxy):\S+)", (ROOT / path).read_text(encoding="utf-8"))
    }
    assert sorted(names.values()) == ["haproxy", "postgres"], names
    of = {
        "postgres": "FROM parts:local\nENV PATH=/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
        'COPY entry /entry\nENTRYPOINT ["/entry"]\n',
        "haproxy": "FROM parts:local\nRUN groupadd -g 99 ha && useradd -u 99 -g 99 ha\n",
    }
    for name, one in names.items():
        (folder / "Dockerfile").write_text(of[one], encoding="utf-8")
        await docker("build", "--network", "none", "--tag", name, str(folder))


def lay_out(folder: Path) -> None:
    """Copy what a user of the compose files has, with Docker Compose as docker's plug-in."""
    (folder / "docker/cli-plugins").mkdir(parents=True)
    (folder / "docker/cli-plugins/docker-compose").symlink_to(COMPOSE / "bin/docker-compose")
    shutil.copy(ROOT / "compose.yaml", folder)
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    # The registry here has no TLS, which a user would not have to say of a real one; the seconds are the test's.
    settings = {"GATEWAY_INSECURE_REGISTRIES": f"{_REGISTRY}:5000", "GATEWAY_STABLE_WINDOW": "1"}
    override = {"services": {"gateway": {"environment": settings}}}
    (folder / "compose.override.yaml").write_bytes(orjson.dumps(override))


def steps() -> str:
    """Return the commands at the top of compose.yaml, up to the one that starts everything."""
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    lines = [line.split("  # ")[0] for line in re.findall(r"^#   (.+)$", text, re.MULTILINE)]
    assert lines[-2:] == ["docker compose up -d", "docker compose exec gateway gateway keys create laptop"], lines
    return "\n".join(lines[:-1])


async def answers() -> bool | None:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{_GATEWAY}/readyz") as answer:
            return answer.ok or None
    except aiohttp.ClientError:
        return None


async def serves(version: str) -> bool | None:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{_APP_PORT}/") as answer:
            return (await answer.text()) == version or None
    except aiohttp.ClientError:
        return None


async def deploys(stack: Stack, registry: PrivateRegistry, first: str, then: str, *, creates: bool) -> None:
    """Let a push of `then` arrive as the registry's webhook, and see it served in place of `first`."""
    name = f"{registry.address}/app:latest"
    if creates:
        await push(Image(first), name)
        await stack.gateway("apps", "create", "app", name, "--publish", f"{_APP_PORT}:8080")
        told = await stack.gateway("deploy", "app", "--follow")
        assert told["state"] == "succeeded", told
        made = await stack.gateway("webhooks", "create", "distribution")
        await registry.stop()
        headers = {made["header"]: [f"Bearer {made['secret']}"]}
        registry.endpoints = [NotificationEndpoint(f"{_GATEWAY}{made['path']}", headers)]
        await registry.start()
    await until(lambda: serves(first))
    before = len(await stack.gateway("deployments", "list", "app"))
    digest = await push(Image(then), name)

    async def ended() -> dict[str, Any] | None:
        found = await stack.gateway("deployments", "list", "app")
        return found[0] if len(found) > before and found[0]["state"] in FINISHED else None

    newest = await until(ended)
    assert (newest["state"], newest["digest"]) == ("succeeded", digest), newest
    await until(lambda: serves(then), within=5)


async def doctor(stack: Stack) -> None:
    """What is missing in the container, and is no property of this test."""
    told = orjson.loads(await stack.shell("docker compose exec -T gateway gateway doctor --json || true"))
    states = {one["name"]: one["status"] for one in told["checks"]}
    wanted = {states[name] for name in ("engine", "engine access", "database", "schema")}
    assert wanted == {"ok"}, told


async def both(docker: Docker, directory: Path, registry: PrivateRegistry, since: float) -> None:
    folder = directory / "pushdeploy"
    folder.mkdir()
    lay_out(folder)
    stack = Stack(folder, ())
    say(f"Docker Compose {await stack('version', '--short')}", since)
    try:
        began = monotonic()
        await stack.shell(steps())
        await until(answers)
        key = await stack("exec", "-T", "gateway", "gateway", "keys", "create", "laptop")
        assert key, "no key"
        say("with the socket: it serves", since)
        await deploys(stack, registry, "v1", "v2", creates=True)
        # With a key, an application, its first deployment, a webhook and the push.
        count, took = len(steps().splitlines()) + 5, monotonic() - began
        say(f"from nothing to a first push deployed: {count} commands, {took / 60:.1f} minutes", since)
        await doctor(stack)
        say("with the socket: the push of v2 arrived, and v2 serves", since)

        proxied = Stack(folder, ("compose.yaml", "deploy/compose.socket-proxy.yaml", "compose.override.yaml"))
        await proxied("up", "-d")
        await until(answers)
        say("with a proxy before the socket: it serves", since)
        seen = await docker("inspect", "-f", "{{range .Mounts}}{{.Destination}} {{end}}", "pushdeploy-gateway-1")
        assert "docker.sock" not in seen, seen
        await deploys(proxied, registry, "v2", "v3", creates=False)
        await doctor(proxied)
        say("with a proxy before the socket: the push of v3 arrived, and v3 serves", since)
        await proxied("down", "--volumes")
        assert await serves("v3"), "what was deployed goes on"
    except BaseException:
        print(await stack("logs", "--tail", "40"), file=sys.stderr)  # noqa: T201 - for whoever runs it
        raise


async def main() -> None:
    since = monotonic()
    with tempfile.TemporaryDirectory(prefix="gateway-compose-") as place:
        directory = Path(place)
        await ip("link", "add", "registry", "type", "bridge")
        await ip("addr", "add", f"{_REGISTRY}/32", "dev", "registry")
        await ip("link", "set", "registry", "up")
        arguments = ("--host", f"unix://{_SOCKET}", "--insecure-registry", f"{_REGISTRY}/32")
        async with private_engine(arguments=arguments, own_network=True) as engine:
            docker = Docker(engine)
            await stand_ins(docker, directory)
            say("made stand-ins for the images of PostgreSQL and HAProxy", since)
            await image.load(docker)
            async with private_registry(directory / "registry", 5000, host=_REGISTRY) as registry:
                await both(docker, directory, registry, since)


def prepare() -> None:
    """Make what needs the network: the trees, and the image, unless it was built after the last change of its files."""
    sources = [ROOT / name for name in image.SOURCES]
    changed = max(one.stat().st_mtime for top in sources for one in ([top] if top.is_file() else top.rglob("*.*")))
    asyncio.run(_trees())
    if not image.BUILT.exists() or image.BUILT.stat().st_mtime < changed:
        with tempfile.TemporaryDirectory(prefix="gateway-image-") as place:
            asyncio.run(image.built(Path(place)))


async def _trees() -> None:
    await debian.python()
    await debian.tree("parts", _PARTS)


if __name__ == "__main__":
    if sys.argv[1:] == ["prepare"]:
        prepare()
    else:
        asyncio.run(main())
