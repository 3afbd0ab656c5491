"""The accepting processes of a gateway: started, replaced when they end, and stopped by the supervising one.

Each has a listening socket of its own on the one port (SO_REUSEPORT), which the supervising process holds open: what
waits to be accepted outlives the process that would have accepted it, and is accepted by its replacement.

An accepting process gets its settings on standard input, since they hold secrets, and ends when that is closed. So none
outlives the supervising process, however that ends.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path

import orjson
import structlog
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from gateway.background import BackgroundTasks, backoff, cancel_and_wait
from gateway.config import Settings

ENDED = Counter("gateway_accepting_processes_ended_total", "Accepting processes that ended and were replaced.")

_LOG = structlog.get_logger()

BACKLOG = 1024  # connections that may wait to be accepted
_STEADY = 30.0  # seconds a process runs before its end counts as the first one again
_LONGEST_PAUSE = 10.0  # seconds before another one is started
_STOP = 20.0  # seconds an accepting process may take to stop


def listen(host: str, port: int, count: int) -> list[list[socket.socket]]:
    """Return the listening sockets of so many processes; raises OSError where another program listens there."""
    with ExitStack() as failed:
        found: list[list[socket.socket]] = []
        kinds = dict.fromkeys(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))
        for *_, address in kinds:
            _bind(address, shared=False).close()  # a socket that is shared would share with another gateway
        for _ in range(count):
            addresses = [(*address[:1], port, *address[2:]) for *_, address in kinds]
            own = [failed.enter_context(_bind(address, shared=True)) for address in addresses]
            port = own[0].getsockname()[1]  # with port 0, the system has chosen one
            found.append(own)
        failed.pop_all()
        return found


def _bind(address: tuple[object, ...], *, shared: bool) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in str(address[0]) else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if bound.family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
    except BaseException:
        bound.close()
        raise
    return bound


class AcceptingProcesses:
    """The processes beside this one. `directory` holds the socket to this one, and their metrics."""

    def __init__(self, directory: Path, settings: Settings, buckets: int, *, as_json: bool) -> None:
        self.directory = directory
        self.supervising = directory / "supervising"
        self._settings, self._buckets, self._as_json = settings, buckets, as_json
        self._metrics = directory / "metrics"
        self._metrics.mkdir()

    def metrics(self) -> Mapping[str, Metric]:
        """Return the metrics of these processes, also of those that have ended: no counter goes back."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self._metrics))
        found = {metric.name: metric for metric in registry.collect()}
        for metric in found.values():  # each process has gauges that this one alone sets
            metric.samples = [one for one in metric.samples if "pid" not in one.labels]
        return found

    @asynccontextmanager
    async def running(
        self, listeners: Sequence[Collection[socket.socket]], background_tasks: BackgroundTasks
    ) -> AsyncIterator[None]:
        """Run one process for each of these until the block is left; then let them finish their requests."""
        tasks = [
            background_tasks.start("accepting process", partial(self._replace_forever, own), about=str(number))
            for number, own in enumerate(listeners, start=2)
        ]
        try:
            yield
        finally:
            for one in chain.from_iterable(listeners):
                one.close()
            await cancel_and_wait(*tasks)

    async def _replace_forever(self, listeners: Collection[socket.socket]) -> None:
        ends, clock = 0, asyncio.get_running_loop().time
        while True:
            began = clock()
            process, code = await self._run(listeners)
            ends = 1 if clock() - began > _STEADY else ends + 1
            pause = 0.0 if ends == 1 else backoff(ends - 1, _LONGEST_PAUSE)
            ENDED.inc()
            _LOG.error("An accepting process ended and is replaced", process=process, code=code, after=pause)
            await asyncio.sleep(pause)

    async def _run(self, listeners: Collection[socket.socket]) -> tuple[int, int]:
        """Run one process to its end, and return its id and its code; cancelled, stop it."""
        descriptors = [one.fileno() for one in listeners]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.accepting"),
            stdin=asyncio.subprocess.PIPE,
            pass_fds=(*descriptors, self._buckets),
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(self._metrics)},
        )
        try:
            if process.stdin is not None:
                with suppress(ConnectionError):  # it has ended already
                    process.stdin.write(self._given(descriptors))
                    await process.stdin.drain()
            return process.pid, await process.wait()
        finally:
            if process.returncode is None:
                await _stop(process)
            mark_process_dead(process.pid, str(self._metrics))

    def _given(self, descriptors: Sequence[int]) -> bytes:
        given = {
            "settings": self._settings.revealed(),
            "listeners": descriptors,
            "buckets": self._buckets,
            "supervising": str(self.supervising),
            "json": self._as_json,
        }
        return orjson.dumps(given, default=str, option=orjson.OPT_APPEND_NEWLINE)


async def _stop(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP):
            await process.wait()
    except TimeoutError:
        _LOG.warning("An accepting process does not stop and is killed", process=process.pid)
        process.kill()
        await process.wait()
