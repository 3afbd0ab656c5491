"""A host of our own, as a reader of the documents has one: an engine, a gateway at its usual address, and a shell.

It has a network of its own, so that every port that the documents print is free there.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.cli.demo.engine import private_engine
from gateway.cli.demo.process import WITH_US, until
from gateway.docker.engine.client import Engine, connect
from gateway.model.errors import Unavailable
from tests.scripts.debian import run


@dataclass
class OwnHost:
    """`enter` are the words that run a program there, `home` is the reader's directory."""

    enter: tuple[str, ...]
    engine: Engine
    home: Path

    async def sh(self, script: str, **variables: str) -> str:
        """Run a script as a person would type it; raises RuntimeError with what it said."""
        named = (f"{name}={value}" for name, value in variables.items())
        return await run(*self.enter, *named, "bash", "-euo", "pipefail", "-c", script)

    async def answers(self) -> bool | None:
        """Tell whether the gateway can accept."""
        try:
            await self.sh("curl --silent --fail http://127.0.0.1:8080/readyz")
        except RuntimeError:
            return None
        return True


@asynccontextmanager
async def own_host(home: Path, **settings: str) -> AsyncIterator[OwnHost]:
    """Run it until the block is left."""
    async with (
        _own_network() as inside,
        private_engine(prefix=inside, own_network=True) as dockerd,
        connect(dockerd.host) as engine,
    ):
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(home),
            "DOCKER_HOST": dockerd.host,
            **settings,
        }
        enter = (*inside, "env", "-i", f"--chdir={home}", *(f"{name}={one}" for name, one in environment.items()))
        host = OwnHost(enter, engine, home)
        with (home / "gateway.log").open("wb") as log:
            serving = await asyncio.create_subprocess_exec(*WITH_US, *enter, "gateway", "serve", stdout=log, stderr=log)
        try:
            await until(host.answers)
            yield host
            await dockerd.remove_containers()
        finally:
            serving.terminate()
            await serving.wait()


@asynccontextmanager
async def _own_network() -> AsyncIterator[tuple[str, ...]]:
    """Hold a network namespace; yields the words that run a program in it."""
    hold = "ip link set lo up && echo ready && exec sleep infinity"
    holder = await asyncio.create_subprocess_exec(*WITH_US, "unshare", "--net", "sh", "-c", hold, stdout=-1)
    try:
        assert holder.stdout is not None
        if await holder.stdout.readline() != b"ready\n":
            raise Unavailable("no network namespace of its own")
        yield ("nsenter", f"--target={holder.pid}", "--net", "--")
    finally:
        holder.terminate()
        await holder.wait()
