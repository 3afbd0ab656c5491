"""A `gateway serve` of its own, as an operator runs it, and what a client asks of it."""

import asyncio
import itertools
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import orjson

from gateway.model.errors import GatewayError, Unavailable

#: words before a program that must not outlive us, even when we are killed: see setpriv(1)
WITH_US = ("setpriv", "--pdeathsig", "TERM")

FINISHED = frozenset({"succeeded", "unchanged", "failed", "rolled_back", "superseded", "cancelled"})
_LOOK_AGAIN = 0.05  # seconds
_LOOK_SELDOM = 0.25  # seconds
_SLOWER = 1.1  # times as long a pause after each look: it stays near a tenth of the wait

T = TypeVar("T")


# Below the ports that Linux gives to outgoing connections, and to whoever asks for any.
_FIRST_PORT, _PORTS = 12_000, 20_000
_next_port = itertools.count(secrets.randbelow(_PORTS))


def free_port() -> int:
    """Return a port that is free at every IPv4 address.

    Ports are returned in turn, from a random one on, and start again after the last. So another caller hardly gets one
    that waits for its use, or whose user restarts.
    """
    while True:
        port = _FIRST_PORT + next(_next_port) % _PORTS
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port


async def until(look: Callable[[], Awaitable[T | None]], *, within: float = 120, stays: bool = False) -> T:
    """Look until there is something to see; raises TimeoutError after `within` seconds.

    `stays`: it does not go away again, so the longer it takes, the less often one need look.
    """
    pause = _LOOK_AGAIN
    async with asyncio.timeout(within):
        while (seen := await look()) is None:
            await asyncio.sleep(pause)
            pause = min(pause * _SLOWER, _LOOK_SELDOM) if stays else pause
    return seen


class Refused(GatewayError):
    """A command or a call that was not done."""


class GatewayProcess:
    """One gateway that can be started, stopped and killed, again and again."""

    def __init__(self, directory: Path, docker_host: str, settings: Mapping[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = ""
        self.log = directory / "gateway.log"
        #: words before the command, as of `nsenter`
        self.prefix: tuple[str, ...] = ()
        self._process: asyncio.subprocess.Process | None = None
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "GATEWAY_LISTEN": f"127.0.0.1:{self.port}",
            "GATEWAY_DATA_DIR": str(directory / "data"),
            "GATEWAY_DOCKER_HOST": docker_host,
            "GATEWAY_WATCH_WINDOW": "0",  # whoever started it takes its containers away: no trouble of theirs
            **settings,
        }

    @property
    def pid(self) -> int:
        if self._process is None:
            raise Unavailable("the gateway was not started")
        return self._process.pid

    async def start(self) -> None:
        """Start it and wait until it can accept; raises Unavailable with the end of its log."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *WITH_US,
                *self.prefix,
                sys.executable,
                "-m",
                "gateway",
                "serve",
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        await until(self._ready)

    async def _ready(self) -> bool | None:
        if self._process is None or self._process.returncode is not None:
            raise Unavailable(f"the gateway ended:\n{self.log.read_text()[-2000:]}")
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{self.url}/readyz") as answer:
                return answer.ok or None
        except aiohttp.ClientError:
            return None

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal unless it has ended already, and return how it ended."""
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.send_signal(number)
        return await self._process.wait()

    async def cli(self, *words: str, given: str = "") -> str:
        """Run a command beside the server and return what it printed; raises Refused with what it said."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", *words,
            env=self.environment, stdin=-1, stdout=-1, stderr=-1,
        )  # fmt: skip
        out, err = await process.communicate(given.encode())
        if process.returncode != 0:
            raise Refused(err.decode())
        return out.decode().strip()

    async def endpoint(self, source: str, *words: str) -> dict[str, Any]:
        made: dict[str, Any] = orjson.loads(await self.cli("webhooks", "create", source, "--json", *words))
        return made

    async def mutate(self, procedure: str, body: Mapping[str, Any]) -> Any:
        """Call a procedure as curl would, and return what it answers; raises Refused."""
        async with (
            aiohttp.ClientSession(headers={"x-api-key": self.key}) as session,
            session.post(f"{self.url}/api/trpc/{procedure}", json=body) as answer,
        ):
            return _value(answer.status, await answer.read())

    async def query(self, procedure: str, **given: str) -> Any:
        params = {"input": orjson.dumps({"json": given}).decode()}
        async with (
            aiohttp.ClientSession(headers={"x-api-key": self.key}) as session,
            session.get(f"{self.url}/api/trpc/{procedure}", params=params) as answer,
        ):
            return _value(answer.status, await answer.read())

    async def deployments(self, application_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self.query("deployment.all", applicationId=application_id)
        return found

    async def settled(self, application_id: str, *, count: int = 1, within: float = 120) -> dict[str, Any]:
        """Wait until there are `count` deployments and all have ended; return the newest with its steps."""

        async def look() -> str | None:
            found = await self.deployments(application_id)
            done = len(found) >= count and all(one["state"] in FINISHED for one in found)
            return found[0]["deploymentId"] if done else None

        newest: dict[str, Any] = await self.query(
            "deployment.one", deploymentId=await until(look, within=within, stays=True)
        )
        return newest


def _value(status: int, body: bytes) -> Any:
    said = orjson.loads(body)
    if status != 200:  # noqa: PLR2004
        # What goes wrong before the call is reached, as with a database that is away, bears no envelope.
        error = said["error"]
        raise Refused(error.get("json", error)["message"])
    return said["result"]["data"]["json"]


@asynccontextmanager
async def gateway_process(
    directory: Path,
    docker_host: str,
    settings: Mapping[str, str] | None = None,
    prefix: tuple[str, ...] = (),
    *,
    program: type[GatewayProcess] = GatewayProcess,
) -> AsyncIterator[GatewayProcess]:
    """Run a gateway with an API key of its own; however the block is left, it and its database end."""
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    gateway = program(directory, docker_host, settings or {})
    gateway.prefix = prefix
    try:
        await gateway.start()
        gateway.key = await gateway.cli("keys", "create", "demo")
        yield gateway
    finally:
        if await asyncio.shield(gateway.stop()) != 0 and "GATEWAY_DATABASE_URL" not in gateway.environment:
            # It was killed: the next user of the embedded database is the last one out.
            await gateway.cli("migrate")
