"""Connections to PostgreSQL, and the translation of its errors to the gateway's."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from random import random
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar, cast

import asyncpg
import asyncpg.pool
import orjson
from prometheus_client import Counter

from gateway.model.audit import CURRENT_ACTOR
from gateway.model.errors import DatabaseUnavailable, InvalidInput, TransactionConflict, Unavailable
from gateway.store.transient_errors import describe, is_conflict, is_read_only, is_transient, leaves_no_connection

REFUSALS = Counter(
    "gateway_database_refusals_total",
    "Statements that failed on a transient error of the database, by SQLSTATE.",
    ["sqlstate"],
)

if TYPE_CHECKING:  # only the stubs have generic types
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    _Lent: TypeAlias = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    _Plain: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection, Pool, _Lent = asyncpg.Connection, asyncpg.Pool, asyncpg.pool.PoolConnectionProxy
    _Plain = asyncpg.Connection

_COMMAND_TIMEOUT = 30  # seconds; every statement here is short
_ACQUIRE_DEADLINE = 10.0  # seconds
_ASK_AGAIN = 0.05  # seconds until another connection may be free
_TYPES_KEPT = 60.0  # seconds
_PAUSES = (0.02, 0.1, 0.3)  # seconds, at most, before a transaction is repeated

_T = TypeVar("_T")


# The query about types that asyncpg does not know, which every connection repeats. asyncpg's own query is recursive and
# takes the server eight times as long. This one suffices, since the schema defines no types but enums and their arrays.
_TYPES = """
    SELECT t.oid, n.nspname AS ns, t.typname AS name, t.typtype AS kind, NULL::oid AS basetype,
           CASE WHEN e.oid IS NOT NULL THEN t.typelem ELSE 0 END AS elemtype, e.typdelim AS elemdelim,
           NULL::oid AS range_subtype, NULL::oid[] AS attrtypoids, NULL::text[] AS attrnames, 0 AS depth,
           NULL::text AS basetype_name, e.oid::regtype::text AS elemtype_name, NULL::text AS range_subtype_name
      FROM pg_catalog.pg_type t
      JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
      LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND t.typlen = -1
     WHERE t.oid = ANY($1::oid[]) OR t.oid IN (SELECT typelem FROM pg_catalog.pg_type WHERE oid = ANY($1::oid[]))
        OR n.nspname = 'public' AND (t.typtype = 'e' OR e.typtype = 'e')  -- another statement will ask for these
     ORDER BY e.oid IS NOT NULL  -- an array after its elements
"""


class _Types:
    """A cache of the types that connections of a pool have asked for. It is short, since the server may be replaced."""

    def __init__(self) -> None:
        self._rows: dict[int, Any] = {}
        self._until = 0.0

    def of(self, oids: Collection[int]) -> list[Any] | None:
        """Return all known types if these are among them, an array after its elements; else None."""
        fresh = time.monotonic() < self._until and all(oid in self._rows for oid in oids)
        return list(self._rows.values()) if fresh else None

    def remember(self, rows: Iterable[Any]) -> None:
        self._rows, self._until = {row["oid"]: row for row in rows}, time.monotonic() + _TYPES_KEPT


class _Connection(_Plain):
    """A connection that looks up the schema's types quickly. Domains, ranges and rows are looked up as by asyncpg."""

    _types: ClassVar[_Types]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._intro_query = _TYPES

    async def _introspect_types(self, typeoids: Collection[int], timeout: float) -> tuple[list[Any], Any]:
        if (known := self._types.of(typeoids)) is not None:
            return known, _PREPARED
        found, prepared = await super()._introspect_types(typeoids, timeout)  # type: ignore[misc]  # not in the stubs
        self._types.remember(found)
        return found, prepared


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Stands for the statement that looks up types, if that was not needed."""

    name: str = "known"


_PREPARED = _Prepared()


class _Share:
    """The part of a pool's interface that is used here, limited to some of its connections."""

    def __init__(self, pool: Pool, most: int) -> None:
        self._pool = pool
        self._free = asyncio.Semaphore(most)

    async def acquire(self, *, timeout: float) -> _Lent:
        """Return a connection. Raises TimeoutError."""
        clock = asyncio.get_running_loop().time
        until = clock() + timeout
        async with asyncio.timeout(timeout):
            await self._free.acquire()
        try:
            return await self._pool.acquire(timeout=max(_ASK_AGAIN, until - clock()))
        except BaseException:
            self._free.release()
            raise

    async def release(self, connection: _Lent) -> None:
        try:
            await self._pool.release(connection)
        finally:
            self._free.release()

    async def expire_connections(self) -> None:
        await self._pool.expire_connections()


def share(pool: Pool, most: int) -> Pool:
    """Return a pool that uses at most so many connections of `pool`, and leaves the rest to others."""
    return cast(Pool, _Share(pool, most))


async def _prepare(connection: Connection) -> None:
    # A frozen gateway must not keep its locks: the claims of others skip locked rows.
    await connection.execute("SET idle_in_transaction_session_timeout = '10s'")
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda value: b"\x01" + orjson.dumps(value),
        decoder=lambda raw: orjson.loads(raw[1:]),
    )


async def _leave_as_is(_connection: Connection) -> None:
    """Save a round trip for each release: no code here changes the state of a session."""


@asynccontextmanager
async def connect(url: str, *, size: int = 10, name: str = "gateway") -> AsyncIterator[Pool]:
    """Open a pool whose connections have this application name. Raises Unavailable if the server does not respond."""
    try:
        pool = await asyncpg.create_pool(
            url,
            min_size=1,
            max_size=size,
            connection_class=type("_PoolConnection", (_Connection,), {"_types": _Types()}),
            init=_prepare,
            reset=_leave_as_is,
            command_timeout=_COMMAND_TIMEOUT,
            timeout=10,
            # Nothing here is worth compiling, and asyncpg would switch it off and on around each question about a type.
            server_settings={"application_name": name, "jit": "off"},
        )
    except Exception as error:
        if isinstance(error, ValueError):  # its text may contain the password
            raise InvalidInput(
                "GATEWAY_DATABASE_URL is not a URL of PostgreSQL like postgresql://user:password@host/database; "
                "in the password, write @ : / # as %40 %3A %2F %23"
            ) from error
        if not (is_transient(error) or isinstance(error, asyncpg.PostgresError)):
            raise
        why = str(error) or "it does not answer in time"
        raise Unavailable(f"cannot connect to PostgreSQL: {why}; check GATEWAY_DATABASE_URL") from error
    try:
        yield pool
    finally:
        try:
            await pool.close()
        except Exception as error:
            if not is_transient(error):
                raise
            pool.terminate()


@asynccontextmanager
async def transaction(pool: Pool) -> AsyncIterator[Connection]:
    """Run the block in a transaction on one connection. Raises Unavailable on a transient error.

    If a person acts, the transaction names them, and the triggers of the audit record what they change.
    """
    async with statement(pool) as connection:
        async with connection.transaction():
            if (actor := CURRENT_ACTOR.get()) is not None:
                await connection.execute("SELECT set_config('gateway.actor', $1, true)", actor.to_json())
            yield connection
        if (attempt := _ATTEMPT.get()) is not None and not connection.is_in_transaction():
            attempt.has_committed = True


class _Joined:
    """A pool with one connection, on which a transaction runs: its transactions are parts of that one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def acquire(self, *, timeout: float) -> Connection:  # noqa: ARG002 - a pool's signature
        return self._connection

    async def release(self, _connection: Connection) -> None:
        """Do nothing: the connection belongs to the caller of `joined`."""

    async def expire_connections(self) -> None:
        """Do nothing: the connection belongs to the caller of `joined`."""


def joined(connection: Connection) -> Pool:
    """Return a pool whose transactions become parts of the transaction that runs on this connection."""
    return cast(Pool, _Joined(connection))


@asynccontextmanager
async def trial(pool: Pool) -> AsyncIterator[Connection]:
    """Run the block in a transaction that is rolled back at its end."""
    async with statement(pool) as connection:
        undone = connection.transaction()
        await undone.start()
        try:
            await connection.execute("SET LOCAL lock_timeout = '5s'")
            yield connection
        finally:
            await undone.rollback()


@dataclass
class _Attempt:
    has_committed: bool = False


_ATTEMPT: ContextVar[_Attempt | None] = ContextVar("attempt", default=None)


async def repeat_on_conflict(act: Callable[[], Awaitable[_T]]) -> _T:
    """Run `act`, and repeat it a few times if its first transaction conflicts with another one.

    Before that transaction, `act` must only read. After a commit, nothing is repeated. Raises TransactionConflict when
    the last try conflicts too.
    """
    for pause in _PAUSES:
        attempt = _Attempt()
        token = _ATTEMPT.set(attempt)
        try:
            return await act()
        except TransactionConflict:
            if attempt.has_committed:
                raise
        finally:
            _ATTEMPT.reset(token)
        await asyncio.sleep(random() * pause)  # noqa: S311 - so that the same two do not conflict again
    return await act()


@asynccontextmanager
async def statement(pool: Pool) -> AsyncIterator[Connection]:
    """Run the block on one connection, without a transaction around it. Raises Unavailable on a transient error."""
    connection = await _acquire_or_unavailable(pool)
    try:
        yield connection
    except Exception as error:
        if not is_transient(error):
            raise
        REFUSALS.labels(getattr(error, "sqlstate", None) or "").inc()
        if is_read_only(error):
            # The address may lead to another server now, which accepts writes.
            await pool.expire_connections()
        kind = TransactionConflict if is_conflict(error) else DatabaseUnavailable
        raise kind(describe(error)) from error
    finally:
        await _release(pool, connection)


async def _release(pool: Pool, connection: _Lent) -> None:
    with suppress(OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresError):
        await pool.release(connection)


async def _acquire_or_unavailable(pool: Pool) -> _Lent:
    """Return a connection of the pool. Raises Unavailable for every error of the server."""
    try:
        return await _acquire(pool)
    except Exception as error:
        if not (is_transient(error) or isinstance(error, asyncpg.PostgresError)):
            raise
        REFUSALS.labels(getattr(error, "sqlstate", None) or "").inc()
        raise DatabaseUnavailable(describe(error)) from error


async def _acquire(pool: Pool) -> _Lent:
    """Acquire a connection. While the server accepts no new ones, wait for one that the pool has already."""
    clock = asyncio.get_running_loop().time
    until = clock() + _ACQUIRE_DEADLINE
    while True:
        try:
            return await pool.acquire(timeout=max(_ASK_AGAIN, until - clock()))
        except asyncpg.PostgresError as error:
            if not leaves_no_connection(error) or clock() >= until:
                raise
        await asyncio.sleep(_ASK_AGAIN)


async def within(seconds: float, act: Coroutine[object, object, None]) -> None:
    """Run `act` for at most `seconds`. After that, cancel it without waiting for its end, and raise Unavailable.

    If the server is silent, `act` ends much later, when its connection has been released.
    """
    task = asyncio.ensure_future(act)
    _ABANDONED.add(task)
    task.add_done_callback(_forget)
    try:
        await asyncio.wait([task], timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
    if not task.done():
        raise DatabaseUnavailable("the database does not answer in time")
    task.result()


def is_lost(connection: Connection) -> bool:
    """Tell whether the connection is closed. Its pool takes a closed connection back, and any use of it then raises."""
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:
        return True


async def unless_lost(connection: Connection, act: Coroutine[object, object, _T]) -> _T:
    """Return what `act` returns. Raises DatabaseUnavailable as soon as its connection is lost.

    This is for sending much data: asyncpg would keep waiting for a lost server to accept more.
    """
    lost = asyncio.Event()

    def note(*_: object) -> None:
        lost.set()

    connection.add_termination_listener(note)
    acting, losing = asyncio.ensure_future(act), asyncio.ensure_future(lost.wait())
    _ABANDONED.add(acting)
    acting.add_done_callback(_forget)
    try:
        await asyncio.wait([acting, losing], return_when=asyncio.FIRST_COMPLETED)
        if acting.done():
            return acting.result()
        raise DatabaseUnavailable("the connection to the database was lost: try again")
    finally:
        acting.cancel()
        losing.cancel()
        await asyncio.wait([acting, losing], timeout=_ASK_AGAIN)
        if not is_lost(connection):
            connection.remove_termination_listener(note)


#: tasks that nobody waits for any more; their exceptions are retrieved, so that asyncio does not complain
_ABANDONED: set[asyncio.Future[Any]] = set()


def _forget(task: asyncio.Future[Any]) -> None:
    _ABANDONED.discard(task)
    if not task.cancelled():
        task.exception()


@asynccontextmanager
async def listen(
    pool: Pool, channels: Mapping[str, Callable[[], None]]
) -> AsyncIterator[tuple[Connection, asyncio.Event]]:
    """Call the function of a channel at each notification.

    Yields the connection, and an event that is set when it is lost.
    """
    closed = asyncio.Event()
    connection = await _acquire_or_unavailable(pool)

    def lost(*_: object) -> None:
        closed.set()

    def notified(_connection: object, _process: int, channel: str, _payload: object) -> None:
        channels[channel]()

    try:
        connection.add_termination_listener(lost)
        for channel in channels:
            await connection.add_listener(channel, notified)
        yield connection, closed
    finally:
        try:
            connection.remove_termination_listener(lost)
            for channel in channels:
                await connection.remove_listener(channel, notified)
        except Exception as error:
            if not is_transient(error):
                raise
        finally:
            await _release(pool, connection)
