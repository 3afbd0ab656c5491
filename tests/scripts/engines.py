"""`make engines`: pushes rolled out on each engine that Debian has, and what holds on it, one line each.

An engine runs in a network namespace of its own, a newer one of Debian's testing in a tree of its own. A scene says
what an operator would see; one that does not hold on an engine is printed, and ends the run with exit code 1, unless it
is listed in `LACKS`; one that holds in spite of that ends it so, too.
"""

import asyncio
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import orjson

from gateway.cli.demo.engine import ip, private_engine, remove_containers
from gateway.cli.demo.images import Behaviour, Image, push
from gateway.cli.demo.process import WITH_US, GatewayProcess, Refused, gateway_process, until
from gateway.cli.demo.registry import PrivateRegistry, private_registry
from gateway.docker.engine import api_version, containers
from gateway.docker.engine.client import connect
from gateway.model.errors import RolloutError
from tests.scripts import debian
from tests.scripts.debian import run
from tests.scripts.rootless import REGISTRY, rootless_docker
from tests.support.distribution_hooks import Hook, envelope

_REGISTRIES = '[[registry]]\nlocation = "127.0.0.1"\ninsecure = true\n'
_SETTINGS = {"GATEWAY_STABLE_WINDOW": "1.5", "GATEWAY_HEALTH_DEADLINE": "30", "GATEWAY_LOG_FORMAT": "text"}
_PORT = 18081
_MAC = "02:42:ac:11:77:01"
_ROOTLESS = "docker-rootless"
_ENTER = """
for one in proc sys dev tmp; do mount --rbind /$one "$0/$one"; done
mount -t tmpfs tmpfs "$0/run"
exec chroot "$0" "$@"
"""


@dataclass
class Stage:
    """An engine with a registry and a gateway, and one application's repository for each scene."""

    gateway: GatewayProcess
    registry: PrivateRegistry
    hook: Hook

    def name(self, scene: str) -> str:
        return f"{self.registry.address}/{scene}:latest"

    async def create(self, scene: str, **chosen: object) -> None:
        await self.gateway.mutate(
            "application.create", {"name": scene, "applicationId": scene, "dockerImage": self.name(scene), **chosen}
        )

    async def pushed(self, scene: str, image: Image, *, count: int) -> dict[str, Any]:
        """Push the image, let the webhook arrive, and return how the deployment ended."""
        digest = await push(image, self.name(scene))
        status, told = await self.hook.post(envelope(self.name(scene), digest))
        assert status == 202, told
        return await self.gateway.settled(scene, count=count, within=120)


async def _serves(version: str, port: int = _PORT) -> bool | None:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as answer:
            return (await answer.text()) == version or None
    except aiohttp.ClientError:
        return None


def _expect(deployment: Mapping[str, Any], state: str) -> None:
    reason = deployment["reason"] or {}
    assert deployment["state"] == state, f"{deployment['state']}: {reason.get('code')}: {reason.get('message')}"


async def push_of_published_port(stage: Stage) -> None:
    """A push replaces a version that has a port of the host."""
    await stage.create("port", ports=[{"targetPort": 8080, "publishedPort": _PORT}])
    for count, version in enumerate(("v1", "v2"), start=1):
        _expect(await stage.pushed("port", Image(version), count=count), "succeeded")
        await until(partial(_serves, version), within=20)


async def push_without_port(stage: Stage) -> None:
    """A push replaces a version that shares nothing: the new one starts first."""
    await stage.create("plain", environment="A=1", memoryLimit="64MB")
    for count, version in enumerate(("v1", "v2"), start=1):
        _expect(await stage.pushed("plain", Image(version), count=count), "succeeded")


async def version_that_exits(stage: Stage) -> None:
    """A version that exits fails, and the former one serves on."""
    await stage.create("exits", ports=[{"targetPort": 8080, "publishedPort": _PORT + 1}])
    _expect(await stage.pushed("exits", Image("v1"), count=1), "succeeded")
    ended = await stage.pushed("exits", Image("v2", Behaviour.EXITS), count=2)
    assert ended["state"] in {"failed", "rolled_back"}, ended["state"]
    assert "boom" in str(ended), "its last words are kept"
    await until(lambda: _serves("v1", _PORT + 1), within=20)


async def replaced_in_turn(stage: Stage) -> None:
    """Each version answers at the port of the host, and each that exits leaves the former one answering there."""
    port = _PORT + 5
    await stage.create("turns", ports=[{"targetPort": 8080, "publishedPort": port}])
    for count in range(1, 2 * int(os.environ.get("TURNS", "3")), 2):
        serves = partial(_serves, f"v{count}", port)
        _expect(await stage.pushed("turns", Image(f"v{count}"), count=count), "succeeded")
        await until(serves, within=20)
        _expect(await stage.pushed("turns", Image(f"v{count + 1}", Behaviour.EXITS), count=count + 1), "rolled_back")
        await until(serves, within=20)


async def health_check(stage: Stage) -> None:
    """A HEALTHCHECK of the image decides when a version is ready."""
    await stage.create("health")
    _expect(await stage.pushed("health", Image("v1", health="true"), count=1), "succeeded")
    ended = await stage.pushed("health", Image("v2", health="exit 1"), count=2)
    assert ended["state"] in {"failed", "rolled_back"}, ended["state"]
    assert ended["reason"]["code"] == "unhealthy", ended["reason"]


async def rollback(stage: Stage) -> None:
    """A rollback brings the former version back."""
    await stage.create("back", ports=[{"targetPort": 8080, "publishedPort": _PORT + 2}])
    for count, version in enumerate(("v1", "v2"), start=1):
        _expect(await stage.pushed("back", Image(version), count=count), "succeeded")
    await stage.gateway.mutate("application.rollback", {"applicationId": "back"})
    _expect(await stage.gateway.settled("back", count=3), "succeeded")


async def stop_and_start(stage: Stage) -> None:
    """An application is stopped and started, and its state is observed."""
    await stage.create("halts")
    _expect(await stage.pushed("halts", Image("v1"), count=1), "succeeded")
    for count, word in enumerate(("stop", "start"), start=2):
        await stage.gateway.mutate(f"application.{word}", {"applicationId": "halts"})
        _expect(await stage.gateway.settled("halts", count=count), "succeeded")


async def network_and_volume(stage: Stage) -> None:
    """Files, a volume and a network of its own reach the container."""
    await stage.create(
        "full",
        volumes=[{"type": "volume", "source": "kept", "target": "/data"}],
        files=[{"target": "/etc/app.conf", "content": "here"}],
    )
    for count, version in enumerate(("v1", "v2"), start=1):
        _expect(await stage.pushed("full", Image(version), count=count), "succeeded")


async def adopted(stage: Stage) -> None:
    """A container that somebody made is adopted, and its next version is made as it was."""
    found = await _adopted_and_replaced(stage, "adopted", {"Env": ["A=1"]})
    assert "A=1" in found["Config"]["Env"], found["Config"]["Env"]


async def adopted_with_address(stage: Stage) -> None:
    """So is one with a MAC address that somebody chose."""
    found = await _adopted_and_replaced(stage, "addressed", {"MacAddress": _MAC})
    addresses = [one["MacAddress"] for one in found["NetworkSettings"]["Networks"].values()]
    assert addresses == [_MAC], addresses


async def _adopted_and_replaced(stage: Stage, scene: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Run a container, adopt it, push a version, and return the inspection of the container that serves then."""
    image = stage.name(scene)
    await push(Image("v1"), image)
    async with connect(stage.gateway.environment["GATEWAY_DOCKER_HOST"]) as engine:
        await engine.images.pull(image)
        request = {"Image": image, **body}
        if "MacAddress" in body and api_version.is_podman(await engine.call("GET", "version")):
            request["NetworkingConfig"] = {"EndpointsConfig": {"podman": {"MacAddress": request.pop("MacAddress")}}}
        made = await containers.create(engine, scene, request, {})
        await containers.start(engine, made)
        named = await stage.gateway.cli("apps", "adopt", scene)
        digest = await push(Image("v2"), image)
        assert (await stage.hook.post(envelope(image, digest)))[0] == 202
        _expect(await stage.gateway.settled(named), "succeeded")
        found = await containers.inspect_raw(engine, scene)
    assert found is not None
    assert found["Id"] != made, "its container was replaced"
    return found


async def killed_gateway(stage: Stage) -> None:
    """A gateway that is killed in a rollout finishes it when it starts again."""
    await stage.create("killed", ports=[{"targetPort": 8080, "publishedPort": _PORT + 3}])
    _expect(await stage.pushed("killed", Image("v1"), count=1), "succeeded")
    digest = await push(Image("v2"), stage.name("killed"))
    assert (await stage.hook.post(envelope(stage.name("killed"), digest)))[0] == 202
    await asyncio.sleep(1.0)  # into the rollout, wherever that is
    await stage.gateway.stop(9)
    await stage.gateway.start()
    _expect(await stage.gateway.settled("killed", count=2), "succeeded")


async def probe_of_published_port(stage: Stage) -> None:
    """A probe of the gateway's decides when a version with a port of the host is ready."""
    probe = {"type": "http", "port": 8080, "interval": 0.5}
    await stage.create("probed", probe=probe, ports=[{"targetPort": 8080, "publishedPort": _PORT + 4}])
    _expect(await stage.pushed("probed", Image("v1"), count=1), "succeeded")


async def probe_of_container(stage: Stage) -> None:
    """A probe reaches the address of a container that publishes no port."""
    try:
        await stage.create("inner", probe={"type": "http", "port": 8080, "interval": 0.5})
    except Refused as error:
        raise AssertionError(
            f"refused, and the remedy is {'' if 'publish it' in str(error) else 'not '}there"
        ) from error
    _expect(await stage.pushed("inner", Image("v1"), count=1), "succeeded")


async def doctor(stage: Stage) -> None:
    """`gateway doctor` names the engine, and may use it."""
    told = orjson.loads(await run("sh", "-c", f"{sys.executable} -m gateway doctor --json || true",
                                  environment=stage.gateway.environment))  # fmt: skip
    states = {one["name"]: one for one in told["checks"]}
    print(f"          {states['engine']['message']}", flush=True)  # noqa: T201 - for whoever runs it
    assert states["engine"]["status"] in {"ok", "warning"}, states["engine"]
    assert states["engine access"]["status"] == "ok", states["engine access"]
    if "-rootless-" in stage.gateway.environment["GATEWAY_DOCKER_HOST"]:
        assert states["limits of the engine"]["status"] == "warning", told


SCENES: tuple[Callable[[Stage], Awaitable[None]], ...] = (
    doctor, push_of_published_port, push_without_port, version_that_exits, replaced_in_turn, health_check, rollback,
    stop_and_start, network_and_volume, adopted, adopted_with_address, killed_gateway, probe_of_published_port,
    probe_of_container,
)  # fmt: skip

#: what an engine cannot do, by its name or its kind: Podman runs no HEALTHCHECK of an image in the format of OCI, and
#: does not tell which of its containers' MAC addresses somebody chose; the addresses of a rootless engine's containers
#: lead nowhere from outside its network
LACKS: Mapping[str, frozenset[str]] = {
    "podman": frozenset({"health_check", "adopted_with_address"}),
    _ROOTLESS: frozenset({"probe_of_container"}),
}


@asynccontextmanager
async def docker(prefix: tuple[str, ...], arguments: tuple[str, ...] = ()) -> AsyncIterator[str]:
    async with private_engine(prefix=prefix, arguments=arguments, own_network=True) as engine:
        yield engine.host


@asynccontextmanager
async def podman(prefix: tuple[str, ...]) -> AsyncIterator[str]:
    """Run Podman's service with a storage of its own; leave nothing of it."""
    directory = Path(tempfile.mkdtemp(prefix="gateway-podman-"))
    devices = {name for _, name in socket.if_nameindex()}
    (directory / "registries.conf").write_text(_REGISTRIES, encoding="utf-8")
    (directory / "net").mkdir()
    # Its defaults are more than a container of a machine like CI's may have.
    limits = '[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n[engine]\nruntime = "runc"\n'
    (directory / "containers.conf").write_text(limits, encoding="utf-8")
    places = (
        f"--root={directory}/storage", f"--runroot={directory}/run", f"--tmpdir={directory}/tmp",
        f"--network-config-dir={directory}/net", "--cgroup-manager=cgroupfs", "--events-backend=file",
    )  # fmt: skip
    environment = {**os.environ, "CONTAINERS_REGISTRIES_CONF": f"{directory}/registries.conf",
                   "CONTAINERS_CONF": f"{directory}/containers.conf"}  # fmt: skip
    address = f"unix://{directory}/podman.sock"
    with (directory / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *WITH_US, *prefix, "podman", *places, "system", "service", "--time=0", address,
            env=environment, stdout=log, stderr=log,
        )  # fmt: skip
    try:

        async def listens() -> bool | None:
            assert process.returncode is None, (directory / "log").read_text(encoding="utf-8")
            return (directory / "podman.sock").exists() or None

        await until(listens)
        yield address
    finally:
        # A reset that runs in mounts of its own does not find the processes of containers: they would run on.
        with suppress(RolloutError):
            await remove_containers(address)
        process.terminate()
        await process.wait()
        await run(*prefix, "podman", *places, "system", "reset", "--force", environment=environment)
        # Its bridge stays, and has the addresses that another Podman here gives its containers.
        for name in {name for _, name in socket.if_nameindex()} - devices:
            await ip("link", "delete", name)
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


def _inside(tree: Path) -> tuple[str, ...]:
    """Return the words that run a program in a Debian's tree, which sees this machine's /tmp and devices."""
    return ("unshare", "--mount", "sh", "-euc", f'mount --bind "$0" "$0"; {_ENTER}', str(tree))


@asynccontextmanager
async def engine(name: str) -> AsyncIterator[str]:
    """Run an engine, `docker` or `podman`, or that of a Debian, as `docker-forky`; `docker-rootless` is a user's."""
    if name == _ROOTLESS:
        async with rootless_docker() as host:
            yield host
        return
    kind, _, suite = name.partition("-")
    prefix = _inside((debian.KEPT / suite).resolve()) if suite else ()
    async with docker(prefix) if kind == "docker" else podman(prefix) as host:
        yield host


async def on(name: str) -> bool:
    """Play every scene on the engine; return whether what should hold did."""
    held, since = True, monotonic()
    with tempfile.TemporaryDirectory(prefix="gateway-engines-") as place:
        directory = Path(place)
        listens = REGISTRY if name == _ROOTLESS else "127.0.0.1"
        settings = {**_SETTINGS, "GATEWAY_INSECURE_REGISTRIES": f"{listens}:5000"}
        async with (
            engine(name) as host,
            private_registry(directory / "registry", 5000, host=listens) as registry,
            gateway_process(directory / "gateway", host, settings) as gateway,
        ):
            stage = Stage(gateway, registry, await Hook.open(gateway))
            wanted = os.environ.get("SCENES", "").split()
            for scene in SCENES:
                if wanted and scene.__name__ not in wanted:
                    continue
                lacks = scene.__name__ in {*LACKS.get(name, ()), *LACKS.get(name.partition("-")[0], ())}
                try:
                    await scene(stage)
                    held = held and not lacks
                    said = "HOLDS: take it out of LACKS" if lacks else "holds"
                except Exception as error:
                    held = held and lacks
                    said = f"{'lacks' if lacks else 'FAILS'}: {type(error).__name__} {str(error)[:1000]}"
                print(f"{monotonic() - since:6.1f} s  {name}: {scene.__name__}: {said}", flush=True)  # noqa: T201
            if not held:
                print(gateway.log.read_text(encoding="utf-8")[-6000:], file=sys.stderr)  # noqa: T201
    return held


async def prepare(names: Sequence[str]) -> None:
    """Make what needs the network: the trees of newer Debians."""
    for suite in sorted({name.partition("-")[2] for name in names if name != _ROOTLESS} - {""}):
        await debian.directory(suite, ("docker.io", "iptables", "iproute2", "podman", "crun", "netavark", "nftables"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["prepare"]:
        asyncio.run(prepare(sys.argv[2:] or ["docker-trixie", "docker-forky"]))
    else:
        outcomes = [asyncio.run(on(one)) for one in sys.argv[1:]]
        sys.exit(0 if all(outcomes) else 1)
