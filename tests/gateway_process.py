"""A real gateway process, as an operator runs it, and what a client asks of it."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import orjson

FINISHED = frozenset({"succeeded", "unchanged", "failed", "rolled_back", "superseded", "cancelled"})

T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(look: Callable[[], Awaitable[T | None]], *, within: float = 60) -> T:
    """Look until there is something to see; raises TimeoutError after `within` seconds."""
    async with asyncio.timeout(within):
        while (seen := await look()) is None:
            await asyncio.sleep(0.05)
    return seen


class GatewayProcess:
    """One `gateway serve` that can be started, told to stop and killed, again and again."""

    def __init__(self, directory: Path, docker_host: str, settings: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.directory = directory
        self.process: asyncio.subprocess.Process | None = None
        self.key = ""
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "GATEWAY_LISTEN": f"127.0.0.1:{self.port}",
            "GATEWAY_DATA_DIR": str(directory / "data"),
            "GATEWAY_DOCKER_HOST": docker_host,
            "GATEWAY_STABLE_WINDOW": "0.4",
            "GATEWAY_LEASE": "1",
            **(settings or {}),
        }

    @property
    def log(self) -> Path:
        return self.directory / "gateway.log"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway", "serve", env=self.environment, stdout=log, stderr=log
            )
        await until(self.ready, within=30)

    async def ready(self) -> bool | None:
        assert self.process is not None
        if self.process.returncode is not None:
            raise AssertionError(f"the gateway ended: {self.log.read_text()[-2000:]}")
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{self.url}/readyz") as answer:
                return answer.status == 200 or None
        except aiohttp.ClientError:
            return None

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal unless it is gone already, and return how it ended."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.process.wait()

    async def cli(self, *words: str, given: str = "") -> str:
        """Run a command beside the server and return what it printed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", *words,
            env=self.environment, stdin=-1, stdout=-1, stderr=-1,
        )  # fmt: skip
        out, err = await process.communicate(given.encode())
        assert process.returncode == 0, err.decode()
        return out.decode().strip()

    async def endpoint(self, source: str, *words: str) -> dict[str, Any]:
        made: dict[str, Any] = orjson.loads(await self.cli("webhooks", "create", source, "--json", *words))
        return made

    async def mutate(self, procedure: str, body: Mapping[str, Any]) -> Any:
        """Call a procedure as curl would, and return what it answers."""
        async with aiohttp.ClientSession() as session:
            return await self._answer(session.post(f"{self.url}/api/trpc/{procedure}", json=body, headers=self._auth))

    async def query(self, procedure: str, **given: str) -> Any:
        async with aiohttp.ClientSession() as session:
            url, params = f"{self.url}/api/trpc/{procedure}", {"input": orjson.dumps({"json": given}).decode()}
            return await self._answer(session.get(url, params=params, headers=self._auth))

    @property
    def _auth(self) -> dict[str, str]:
        return {"x-api-key": self.key}

    async def _answer(self, call: Any) -> Any:
        async with call as answer:
            said = orjson.loads(await answer.read())
            assert answer.status == 200, said
            return said["result"]["data"]["json"]

    async def deployments(self, application_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self.query("deployment.all", applicationId=application_id)
        return found

    async def settled(self, application_id: str, *, count: int = 1, within: float = 60) -> dict[str, Any]:
        """Wait until there are `count` deployments and all have ended; return the newest."""

        async def look() -> dict[str, Any] | None:
            found = await self.deployments(application_id)
            done = len(found) >= count and all(one["state"] in FINISHED for one in found)
            return found[0] if done else None

        return await until(look, within=within)


@asynccontextmanager
async def gateway_process(
    directory: Path, docker_host: str, settings: Mapping[str, str] | None = None
) -> AsyncIterator[GatewayProcess]:
    """Run a gateway with an API key of its own; however the block is left, it ends."""
    directory.mkdir(parents=True, exist_ok=True)
    gateway = GatewayProcess(directory, docker_host, settings)
    try:
        await gateway.start()
        gateway.key = await gateway.cli("keys", "create", "tests")
        yield gateway
    finally:
        if gateway.process is not None:
            await gateway.stop(signal.SIGKILL if gateway.process.returncode is None else 0)
