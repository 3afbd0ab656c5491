"""The real parts are real, and leave nothing behind."""

import asyncio
import ctypes
import itertools
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web

from gateway.cli.demo import process
from gateway.cli.demo.engine import free_network, private_engine
from gateway.cli.demo.images import Image, push
from gateway.cli.demo.process import free_port, until
from gateway.cli.demo.registry import NotificationEndpoint, private_registry
from gateway.docker.engine.client import connect
from gateway.model.errors import Failed
from gateway.store.embedded_postgres import embedded_postgres
from tests.support.real_parts import SIDE_BY_SIDE

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET of unshare(2)


def mounted(word: str) -> list[str]:
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if word in line]


def exists(path: str) -> bool:
    return Path(path).exists()


async def test_a_private_engine_leaves_nothing_running_or_mounted() -> None:
    async with private_engine(arguments=SIDE_BY_SIDE) as engine:
        directory = str(engine.socket.parent)
        async with connect(engine.host) as client:
            assert (await client.identify()).engine_id
    assert mounted(directory) == []
    assert not exists(directory)


async def test_a_private_engine_takes_a_network_that_is_free_in_its_own_namespace() -> None:
    """There /sys still shows the interfaces of the one that it was mounted in."""
    free = 77
    taken = "\n".join(f"link add name gateway{number} type bridge" for number in range(256) if number != free)

    def look() -> int:
        # Of this thread alone, which ends with it.
        assert ctypes.CDLL(None).unshare(_NEW_NETWORK) == 0
        subprocess.run(["ip", "-batch", "-"], input=taken.encode(), check=True)
        return free_network()

    with ThreadPoolExecutor(1) as thread:
        assert await asyncio.get_running_loop().run_in_executor(thread, look) == free


async def test_a_registry_tells_of_a_push_with_the_configured_header(tmp_path: Path) -> None:
    told: asyncio.Queue[tuple[str | None, bytes]] = asyncio.Queue()

    async def receive(request: web.Request) -> web.Response:
        await told.put((request.headers.get("Authorization"), await request.read()))
        return web.Response()

    application = web.Application()
    application.router.add_post("/", receive)
    runner = web.AppRunner(application)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        hook = NotificationEndpoint(f"http://127.0.0.1:{port}/", {"Authorization": ["Bearer s3cret"]})
        async with private_registry(tmp_path, free_port(), endpoints=[hook]) as registry:
            digest = await push(Image("v1"), f"{registry.address}/app:v1")
            async with asyncio.timeout(20):
                while True:
                    header, body = await told.get()
                    assert header == "Bearer s3cret"
                    if digest in body.decode() and '"tag": "v1"' in body.decode():
                        break
    finally:
        await runner.cleanup()


HOLD = """
import asyncio, sys
from pathlib import Path
from gateway.store.embedded_postgres import embedded_postgres
from tests.support.real_parts import SIDE_BY_SIDE
async def main():
    async with embedded_postgres(Path(sys.argv[1])):
        print("ready", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_the_embedded_database_survives_the_kill_of_its_user_and_ends_with_the_next(tmp_path: Path) -> None:
    held = await asyncio.create_subprocess_exec(sys.executable, "-c", HOLD, str(tmp_path), stdout=-1)
    assert held.stdout is not None
    assert await held.stdout.readline() == b"ready\n"
    held.send_signal(signal.SIGKILL)
    await held.wait()

    async with embedded_postgres(tmp_path) as url:
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT current_database()") == "gateway"
        postmaster = int((tmp_path / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        await connection.close()

    async def gone() -> bool | None:
        try:
            os.kill(postmaster, 0)
        except ProcessLookupError:
            return True
        return None

    assert await until(gone, within=20)


async def test_an_engine_that_is_asked_for_nonsense_says_so() -> None:
    async with (
        private_engine(arguments=SIDE_BY_SIDE) as engine,
        connect(engine.host) as one,
    ):
        with pytest.raises(Failed, match="No such container"):
            await one.call("GET", "containers/nobody/json")


def test_a_port_is_not_returned_again_while_others_are_left() -> None:
    ports = [free_port() for _ in range(1000)]
    assert len(set(ports)) == len(ports)


def test_a_port_that_is_taken_at_another_address_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", port))
        monkeypatch.setattr(process, "_next_port", itertools.count(port - 12_000))
        assert free_port() != port
