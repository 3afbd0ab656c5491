"""Connections to PostgreSQL, and the one place where its failures become ours."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeAlias

import asyncpg
import asyncpg.pool
import orjson

from gateway.audit import ACTOR
from gateway.errors import Unavailable

if TYPE_CHECKING:  # generic in the stubs alone
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
else:
    Connection, Pool = asyncpg.Connection, asyncpg.Pool

#: what asyncpg raises when the server is away, restarting or out of connections
LOST = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)

_COMMAND_TIMEOUT = 30  # seconds; every statement here is short


async def _prepare(connection: Connection) -> None:
    # What a gateway that is frozen holds, others must get at: their claims pass over locked rows.
    await connection.execute("SET idle_in_transaction_session_timeout = '10s'")
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda value: b"\x01" + orjson.dumps(value),
        decoder=lambda raw: orjson.loads(raw[1:]),
    )


async def _leave_as_is(_connection: Connection) -> None:
    """Spare each release a round trip: nothing here sets what would have to be reset."""


@asynccontextmanager
async def connect(url: str, *, size: int = 10, name: str = "gateway") -> AsyncIterator[Pool]:
    """Open a pool, whose connections are seen by this name; raises Unavailable when the server does not answer."""
    try:
        pool = await asyncpg.create_pool(
            url,
            min_size=1,
            max_size=size,
            init=_prepare,
            reset=_leave_as_is,
            command_timeout=_COMMAND_TIMEOUT,
            timeout=10,
            server_settings={"application_name": name},
        )
    except (*LOST, asyncpg.PostgresError) as error:
        why = str(error) or "it does not answer in time"
        raise Unavailable(f"PostgreSQL does not let us in: {why}; check GATEWAY_DATABASE_URL") from error
    try:
        yield pool
    finally:
        try:
            await pool.close()
        except LOST:
            pool.terminate()


@asynccontextmanager
async def transaction(pool: Pool) -> AsyncIterator[Connection]:
    """Hold one connection in one transaction; a database that is away is Unavailable.

    The database is told who acts, where that is a person: it writes down what they change.
    """
    try:
        async with pool.acquire(timeout=10) as connection, connection.transaction():
            if (actor := ACTOR.get()) is not None:
                await connection.execute("SELECT set_config('gateway.actor', $1, true)", actor.written())
            yield connection
    except (*LOST, asyncpg.TransactionRollbackError) as error:
        raise Unavailable("the database does not answer: try again") from error


@asynccontextmanager
async def statement(pool: Pool) -> AsyncIterator[Connection]:
    """Hold one connection for one statement, which is a transaction by itself."""
    try:
        async with pool.acquire(timeout=10) as connection:
            yield connection
    except (*LOST, asyncpg.TransactionRollbackError) as error:
        raise Unavailable("the database does not answer: try again") from error


async def within(seconds: float, act: Coroutine[object, object, None]) -> None:
    """Do it in so many seconds; raises Unavailable where it is not done then, and leaves it to end by itself.

    A connection on which nothing comes any more is not given back until long after.
    """
    task = asyncio.ensure_future(act)
    _LEFT.add(task)
    task.add_done_callback(_forget)
    try:
        await asyncio.wait([task], timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
    if not task.done():
        raise Unavailable("the database does not answer in time")
    task.result()


_LEFT: set[asyncio.Future[None]] = set()


def _forget(task: asyncio.Future[None]) -> None:
    _LEFT.discard(task)
    if not task.cancelled():
        task.exception()


@asynccontextmanager
async def listen(pool: Pool, channels: Mapping[str, Callable[[], None]]) -> AsyncIterator[asyncio.Event]:
    """Call a channel's function at each notification there; the event is set when the connection is lost."""
    closed = asyncio.Event()
    try:
        connection = await pool.acquire(timeout=10)
    except LOST as error:
        raise Unavailable("the database does not answer") from error

    def lost(*_: object) -> None:
        closed.set()

    def told(_connection: object, _process: int, channel: str, _payload: object) -> None:
        channels[channel]()

    try:
        connection.add_termination_listener(lost)
        for channel in channels:
            await connection.add_listener(channel, told)
        yield closed
    finally:
        connection.remove_termination_listener(lost)
        with suppress(*LOST):
            for channel in channels:
                await connection.remove_listener(channel, told)
            await pool.release(connection)
