"""The embedded PostgreSQL: in the data directory, on a socket, without a port.

Several processes may use it at once; the last one stops it. Each of them starts it again when it was killed.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import asyncpg
import structlog

from gateway.background import BackgroundTasks
from gateway.model.errors import Unavailable
from gateway.store.postgres_cluster import Cluster
from gateway.store.transient_errors import is_transient

_LOG = structlog.get_logger()

_DATABASE = "gateway"
_RECOVERY = 300.0  # seconds of recovery after a crash of the machine, without connections
_RETRY_INTERVAL = 0.1  # seconds
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds before it is started again
_STEADY = 2.0  # seconds after which it has not ended at once


@asynccontextmanager
async def embedded_postgres(data_dir: Path) -> AsyncIterator[str]:
    """Yield the URL of the gateway's database. Raises Unavailable when the server cannot start."""
    cluster = Cluster(data_dir)
    try:
        await _run_uninterrupted(cluster.enter)
        await _create_database(cluster)
        async with BackgroundTasks().running("embedded PostgreSQL", partial(_keep_running, cluster)):
            yield cluster.url(_DATABASE)
    finally:
        await _run_uninterrupted(cluster.leave)


async def _run_uninterrupted(act: Callable[[], None]) -> None:
    """Run `act` in a thread to its end; a cancellation takes effect after it."""
    done = asyncio.ensure_future(asyncio.to_thread(act))
    try:
        await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait([done])
        raise


async def _create_database(cluster: Cluster) -> None:
    """Create the database if there is none, once the server accepts connections."""
    try:
        async with asyncio.timeout(_RECOVERY):
            await _exists(cluster)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        why = str(error) or "it does not answer in time"
        raise Unavailable(
            f"the embedded PostgreSQL in {cluster.directory} does not accept connections: {why}"
        ) from error


async def _exists(cluster: Cluster) -> None:
    """Return once the database exists and accepts connections."""
    while True:
        try:
            await (await asyncpg.connect(cluster.url(_DATABASE))).close()
        except asyncpg.InvalidCatalogNameError:
            await _create(cluster)
        except asyncpg.PostgresError as error:
            if not is_transient(error):
                raise
            await asyncio.sleep(_RETRY_INTERVAL)
        else:
            return


async def _create(cluster: Cluster) -> None:
    connection = await asyncpg.connect(cluster.url("postgres"))
    try:
        # Another process may do the same.
        with suppress(asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
            await connection.execute(f"CREATE DATABASE {_DATABASE}")
    finally:
        await connection.close()


async def _keep_running(cluster: Cluster) -> None:
    """Start the server again whenever it has ended. Open pools reconnect by themselves.

    One that ends at once, as without disk space, is started less and less often.
    """
    pause, clock = _FIRST_PAUSE, asyncio.get_running_loop().time
    while True:
        pid, began = cluster.postmaster(), clock()
        if pid is not None:
            await _end_of(pid)
            _LOG.error("The embedded PostgreSQL has ended and is started again", process=pid)
        if clock() - began >= _STEADY:
            pause = _FIRST_PAUSE
        try:
            await _run_uninterrupted(cluster.restart)
        except Unavailable as error:
            _LOG.error("The embedded PostgreSQL cannot be started again", error=str(error), again_in=pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


async def _end_of(pid: int) -> None:
    """Return when a process has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # a system without pidfd
        await _poll_end_of(pid)
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def _poll_end_of(pid: int) -> None:
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        await asyncio.sleep(1)
