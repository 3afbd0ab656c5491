"""A private Docker Engine in a directory, which leaves nothing behind."""

import asyncio
import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from gateway.cli.demo.process import WITH_US
from gateway.docker.engine.client import connect
from gateway.model.errors import RolloutError, Unavailable

_READY_DEADLINE = 60.0  # seconds
_STOP_DEADLINE = 30.0  # seconds
_LOOK_AGAIN = 0.1  # seconds


class PrivateEngine:
    """A dockerd of our own. `host` is its address, `socket` the file."""

    def __init__(self, directory: Path, environment: Mapping[str, str], arguments: Sequence[str]) -> None:
        self._directory = directory
        self._environment = dict(environment)
        self._arguments = list(arguments)
        self._prefix: list[str] = []
        self._process: asyncio.subprocess.Process | None = None
        self.socket = directory / "docker.sock"
        self.host = f"unix://{self.socket}"

    async def start(self, prefix: Sequence[str] | None = None) -> None:
        """Start it, under `prefix` if given, else as before, and wait until it answers; raises Unavailable."""
        prefix = self._prefix = self._prefix if prefix is None else list(prefix)
        with (self._directory / "dockerd.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *WITH_US, *prefix, "dockerd",
                "--data-root", str(self._directory / "data"),
                "--exec-root", str(self._directory / "exec"),
                "--pidfile", str(self._directory / "pid"),
                "--host", self.host,
                "--insecure-registry", "127.0.0.0/8",
                *self._arguments,
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, **self._environment},
                start_new_session=True,
            )  # fmt: skip
        try:
            async with asyncio.timeout(_READY_DEADLINE):
                await self._answers()
        except TimeoutError as error:
            raise Unavailable(f"dockerd does not answer:\n{self._log()}") from error

    async def _answers(self) -> None:
        async with connect(self.host) as engine:
            while True:
                if self._process is None or self._process.returncode is not None:
                    raise Unavailable(f"dockerd ended at once:\n{self._log()}")
                with suppress(RolloutError):
                    await engine.identify()
                    return
                await asyncio.sleep(_LOOK_AGAIN)

    async def stop(self, number: int = signal.SIGTERM) -> None:
        """End the daemon, its containers with it (not so with SIGKILL)."""
        self.tell(number)
        if self._process is None:
            return
        try:
            async with asyncio.timeout(_STOP_DEADLINE):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_DEADLINE):
                await self._containerd_ends()

    async def _containerd_ends(self) -> None:
        """Wait for the daemon's containerd, which ends a moment later: the next daemon would wait for it in vain."""
        with suppress(OSError, ValueError):  # until there is no such process
            pid = int((self._directory / "exec/containerd/containerd.pid").read_text())
            while True:
                os.kill(pid, 0)
                await asyncio.sleep(_LOOK_AGAIN)

    def tell(self, number: int = signal.SIGTERM) -> None:
        """Send it a signal; before it ends, it stops its containers, and answers meanwhile."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def remove_containers(self) -> None:
        await remove_containers(self.host)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def _log(self) -> str:
        path = self._directory / "dockerd.log"
        return path.read_text(errors="replace")[-2000:] if path.exists() else ""


async def remove_containers(host: str) -> None:
    """End and remove every container of the engine at this address. Raises RolloutError."""
    async with connect(host) as engine:
        for container in await engine.call("GET", "containers/json", params={"all": 1}):
            with suppress(RolloutError):
                await engine.call("DELETE", f"containers/{container['Id']}", params={"force": 1, "v": 1})


@asynccontextmanager
async def private_engine(
    environment: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
    prefix: Sequence[str] = (),
    *,
    own_network: bool = False,
) -> AsyncIterator[PrivateEngine]:
    """Run an engine until the block is left; nothing of it is left then, on disk, mounted or running.

    `own_network`: the prefix puts it into a network namespace of its own.
    """
    if os.geteuid() != 0 or not all(map(shutil.which, ("dockerd", "ip"))):
        raise Unavailable("no Docker Engine: start one, or as root: apt-get install docker.io iptables iproute2")
    # A socket's path may have 107 bytes; the directory of the user's choice could be longer.
    directory = Path(tempfile.mkdtemp(prefix="gateway-"))
    async with AsyncExitStack() as stack:
        bridge = () if own_network else ("--bridge", await stack.enter_async_context(_bridge()))
        engine = PrivateEngine(directory, environment or {}, [*bridge, *arguments])
        try:
            await engine.start(prefix)
            yield engine
        finally:
            await asyncio.shield(_clear(engine, directory))


@asynccontextmanager
async def _bridge() -> AsyncIterator[str]:
    """Make a network bridge of its own: engines that share docker0 take it from each other."""
    number = free_network()
    name = f"gateway{number}"
    # An address of its own, as docker0 has: else it changes with the containers, and each change makes the kernel
    # forget where they are.
    await ip("link", "add", "name", name, "address", f"02:42:0a:d5:{number:02x}:01", "type", "bridge")
    try:
        await ip("addr", "add", f"10.213.{number}.1/24", "dev", name)
        await ip("link", "set", name, "up")
        yield name
    finally:
        await asyncio.shield(ip("link", "delete", name))


def free_network() -> int:
    """Return a number that no bridge has in this network namespace; /sys may show the bridges of another one."""
    taken = {name for _, name in socket.if_nameindex()}
    return secrets.choice([number for number in range(256) if f"gateway{number}" not in taken])


async def ip(*words: str) -> None:
    """Run `ip` of iproute2; raises Unavailable."""
    process = await asyncio.create_subprocess_exec("ip", *words, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    if process.returncode != 0:
        raise Unavailable(f"no network for a private engine: ip {' '.join(words)}: {said.decode().strip()}")


async def _clear(engine: PrivateEngine, directory: Path) -> None:
    with suppress(RolloutError):
        await engine.remove_containers()
    await engine.stop()
    for mounted in _mounted_below(directory):
        umount = await asyncio.create_subprocess_exec("umount", "--lazy", mounted)
        await umount.wait()
    await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


def _mounted_below(directory: Path) -> list[str]:
    """Return the mount points below a directory, the deepest first."""
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return sorted((point for point in points if point.startswith(f"{directory}/")), reverse=True)
