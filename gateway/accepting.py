"""An accepting process: `python -m gateway.accepting`, started by `gateway.processes`, which tells it what to do.

It accepts deliveries, and relays all other requests to the supervising process. It deploys nothing: a notification
wakes the supervising process, which also looks by itself once a second.
"""

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import structlog
import uvloop
from aiohttp import web

from gateway.admin.context import Context
from gateway.admin.engine_status import EngineStatus
from gateway.api.accepting import build_accepting
from gateway.api.connections import Runner, limits_for, raise_file_limit
from gateway.api.ingress.shared_buckets import SharedBuckets
from gateway.background import BackgroundTasks
from gateway.cli import _logging
from gateway.config import Settings
from gateway.event_loop import EventLoop
from gateway.registry import client as registry_client
from gateway.stopping import run_until_stopped
from gateway.store.storage import open_storage

_LOG = structlog.get_logger()

_SERVER_SHUTDOWN = 5.0  # seconds that requests get to finish


@dataclass(frozen=True, slots=True)
class _ElsewhereRollouts:
    """Stands for the worker in a process that has none."""

    background_tasks: BackgroundTasks = field(default_factory=BackgroundTasks)
    engines: Sequence[EngineStatus] = ()

    def wake(self) -> None:
        """Do nothing: the notification wakes the worker."""

    def when_woken(self, _act: Callable[[], None], /) -> None:
        """Do nothing: nothing is woken here."""


@asynccontextmanager
async def running(given: dict[str, Any], settings: Settings) -> AsyncIterator[str]:
    """Accept until the block is left. Yields the address."""
    limits = limits_for(raise_file_limit(), settings.body_limit)
    buckets = SharedBuckets(given["buckets"])
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(open_storage(settings))
        registry = await stack.enter_async_context(registry_client.connect(frozenset()))
        context = Context(storage.pool, storage.vault, _ElsewhereRollouts(), settings, registry)
        application = build_accepting(context, buckets=buckets, supervising=Path(given["supervising"]))
        runner = Runner(application, limits, shutdown_timeout=_SERVER_SHUTDOWN)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        for descriptor in given["listeners"]:
            await web.SockSite(runner, socket.socket(fileno=descriptor)).start()
        listening = runner.addresses[0]
        yield f"http://{listening[0]}:{listening[1]}"


async def accept(given: dict[str, Any]) -> None:
    """Accept until the supervising process says so by SIGTERM, or is gone."""
    structlog.contextvars.bind_contextvars(process=os.getpid())
    orphaned = False

    def watch_supervising(stop: Callable[[], None]) -> None:
        def on_input() -> None:
            nonlocal orphaned
            orphaned = True
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            _LOG.warning("The supervising process is gone")
            stop()

        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), on_input)

    settings = Settings.model_validate(given["settings"])
    await run_until_stopped(running(given, settings), signals=(signal.SIGTERM,), watch=watch_supervising)
    if orphaned:  # nobody else removes it
        await asyncio.to_thread(shutil.rmtree, Path(given["supervising"]).parent, ignore_errors=True)


def main() -> None:
    """Read what to do from standard input, and do it."""
    # From a terminal it reaches every process, and the supervising one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line = b""
    while not line.endswith(b"\n"):  # the rest of the input is watched, so none of it may be read
        read = os.read(sys.stdin.fileno(), 65_536)
        if not read:
            return
        line += read
    given = orjson.loads(line)
    settings = given["settings"]
    _logging.configure(settings["log_level"], "json" if given["json"] else settings["log_format"], queued=True)
    uvloop.run(accept(given), loop_factory=EventLoop)


if __name__ == "__main__":
    main()
