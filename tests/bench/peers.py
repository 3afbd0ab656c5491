"""What the gateway is compared with: servers that do less, each measured in the same run."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from gateway.cli.demo.process import WITH_US, free_port, until

_AIOHTTP = """
import sys, uvloop
from aiohttp import web
{prepare}
async def answer(request):
    body = await request.read()
    {store}
    return web.json_response({{}})
async def application():
    app = web.Application()
    {open}
    app.router.add_post("/{{path:.*}}", answer)
    return app
uvloop.install()
web.run_app(application(), host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
"""

_EMPTY = _AIOHTTP.format(prepare="", store="", open="")
_INSERT = _AIOHTTP.format(
    prepare="import asyncpg\npool = None",
    store='await pool.execute("INSERT INTO pushes (body) VALUES ($1)", body)',
    open="global pool; pool = await asyncpg.create_pool(sys.argv[2], min_size=10, max_size=10)",
)


@dataclass(frozen=True)
class Peer:
    url: str
    pid: int


@asynccontextmanager
async def empty_handler() -> AsyncIterator[Peer]:
    """Run an aiohttp handler that reads the request and answers an empty object."""
    async with _running(sys.executable, "-c", _EMPTY, str(port := free_port()), port=port) as peer:
        yield peer


@asynccontextmanager
async def insert_handler(database: str) -> AsyncIterator[Peer]:
    """Run an aiohttp handler that inserts the body into the table `pushes` before it answers."""
    async with _running(sys.executable, "-c", _INSERT, str(port := free_port()), database, port=port) as peer:
        yield peer


@asynccontextmanager
async def adnanh_webhook(directory: Path) -> AsyncIterator[Peer | None]:
    """Run adnanh/webhook with /bin/true as its command; None where it is not installed."""
    if shutil.which("webhook") is None:
        yield None
        return
    hooks = directory / "hooks.json"
    hooks.write_text(json.dumps([{"id": "push", "execute-command": "/bin/true"}]))
    words = ("webhook", "-hooks", str(hooks), "-ip", "127.0.0.1", "-port", str(port := free_port()))
    async with _running(*words, port=port, path="/hooks/push") as peer:
        yield peer


@asynccontextmanager
async def _running(*words: str, port: int, path: str = "/") -> AsyncIterator[Peer]:
    silent = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*WITH_US, *words, stdout=silent, env=dict(os.environ))

    async def answers() -> bool | None:
        if process.returncode is not None:
            raise RuntimeError(f"{words[0]} ended")
        try:
            async with aiohttp.ClientSession() as session, session.post(f"http://127.0.0.1:{port}{path}") as answer:
                return answer.ok or None
        except aiohttp.ClientError:
            return None

    try:
        await until(answers, within=20)
        yield Peer(f"http://127.0.0.1:{port}", process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
