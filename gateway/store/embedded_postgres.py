"""The PostgreSQL that comes along, for those who have none: in the data directory, on a socket, no port.

Several processes may use it at once; the last one out stops it. Whoever uses it starts it again when it was killed.
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

_LOG = structlog.get_logger()

_DATABASE = "gateway"
_RECOVERY = 300.0  # seconds after a crash of the machine, in which it lets nobody in
_LOOK_AGAIN = 0.1  # seconds
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds before it is started again


@asynccontextmanager
async def embedded_postgres(data_dir: Path) -> AsyncIterator[str]:
    """Yield the address of a database of our own; raises Unavailable where it cannot be had."""
    cluster = Cluster(data_dir)
    try:
        await _to_its_end(cluster.enter)
        await _create_database(cluster)
        async with BackgroundTasks().running("embedded PostgreSQL", partial(_keep_running, cluster)):
            yield cluster.url(_DATABASE)
    finally:
        await _to_its_end(cluster.leave)


async def _to_its_end(act: Callable[[], None]) -> None:
    """Do it in a thread, which nothing can cut: who is cancelled meanwhile learns of it afterwards."""
    done = asyncio.ensure_future(asyncio.to_thread(act))
    try:
        await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait([done])
        raise


async def _create_database(cluster: Cluster) -> None:
    """Make our database where there is none yet, once the server lets in."""
    try:
        async with asyncio.timeout(_RECOVERY):
            await _exists(cluster)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        why = str(error) or "it does not answer in time"
        raise Unavailable(f"the embedded PostgreSQL in {cluster.directory} does not let us in: {why}") from error


async def _exists(cluster: Cluster) -> None:
    """Return once our database is there and lets in."""
    while True:
        try:
            await (await asyncpg.connect(cluster.url(_DATABASE))).close()
        except asyncpg.CannotConnectNowError:
            await asyncio.sleep(_LOOK_AGAIN)
        except asyncpg.InvalidCatalogNameError:
            await _create(cluster)
        else:
            return


async def _create(cluster: Cluster) -> None:
    connection = await asyncpg.connect(cluster.url("postgres"))
    try:
        # Another process may do the same just now.
        with suppress(asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
            await connection.execute(f"CREATE DATABASE {_DATABASE}")
    finally:
        await connection.close()


async def _keep_running(cluster: Cluster) -> None:
    """Start the server again whenever it has ended; the pools that are open connect anew by themselves."""
    pause = _FIRST_PAUSE
    while True:
        pid = cluster.postmaster()
        if pid is not None:
            await _end_of(pid)
            _LOG.error("The embedded PostgreSQL has ended: it is started again", process=pid)
        try:
            await _to_its_end(cluster.restart)
            pause = _FIRST_PAUSE
        except Unavailable as error:
            _LOG.error("The embedded PostgreSQL cannot be started again", error=str(error), again_in=pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        await asyncio.sleep(pause)


async def _end_of(pid: int) -> None:
    """Return when a process has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # a system without them
        await _look_for_the_end_of(pid)
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def _look_for_the_end_of(pid: int) -> None:
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        await asyncio.sleep(1)
