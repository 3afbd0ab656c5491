"""What the database refuses for a while: requests are answered 503, and what is begun goes on without it."""

import asyncio
from base64 import b64encode
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from gateway.app import running
from gateway.cli.demo.process import until
from gateway.config import Settings
from gateway.model.deployments import Deployment, LeaseLost, Step, Swap
from gateway.model.errors import DatabaseUnavailable
from gateway.store import migrate
from gateway.store.database import Pool, connect, statement, unless_lost
from gateway.store.rollout_journal import PostgresJournal
from gateway.store.transient_errors import is_transient, is_transient_sqlstate, leaves_no_connection
from tests.integration.store.test_leases import claim, first
from tests.support.api_client import VAULT, Web, answering

__all__ = ["first"]  # a fixture

HEALING = ["08006", "25006", "25P03", "40001", "40P01", "53100", "53300", "55P03", "57014", "57P01", "57P03", "58030"]
LASTING = ["22003", "23505", "25P02", "28P01", "40002", "42501", "42P01", "57P04", "XX000"]


@pytest.mark.parametrize("state", HEALING)
def test_what_the_server_may_do_later_heals(state: str) -> None:
    assert is_transient_sqlstate(state)


@pytest.mark.parametrize("state", LASTING)
def test_what_the_server_will_never_do_is_no_outage(state: str) -> None:
    assert not is_transient_sqlstate(state)


def test_a_wrong_argument_is_no_outage() -> None:
    assert not is_transient(asyncpg.DataError("value out of int32 range"))
    assert is_transient(asyncpg.InterfaceError("connection is closed"))
    assert is_transient(asyncpg.InvalidCachedStatementError("a migration changed the table"))


async def test_a_statement_that_can_never_succeed_is_told_as_it_is(web: Web) -> None:
    with pytest.raises(asyncpg.DataError):
        async with statement(web.pool) as connection:
            await connection.execute("SELECT $1::int", 2**40)


async def test_a_read_only_database_answers_503_and_its_connections_are_left(web_postgres: str) -> None:
    # One connection, so that the request meets the one that was made read-only.
    async with connect(web_postgres, size=1) as pool, answering(pool) as web:
        async with pool.acquire() as connection:
            server = await connection.fetchval("SELECT pg_backend_pid()")
            await connection.execute("SET default_transaction_read_only = on")
        status, answer = await web.post("/api/application.create", {"name": "Web"})
        assert (status, answer["message"]) == (503, "the database is read-only: try again")
        # As after a failover: the next connection leads to a server that takes writes.
        await web.mutate("application.create", name="Web")
        async with pool.acquire() as connection:
            assert await connection.fetchval("SELECT pg_backend_pid()") != server


#: PostgreSQL answers so while it recovers.
_RECOVERS = """
    CREATE FUNCTION recover() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN RAISE 'the database system is in recovery mode' USING ERRCODE = 'cannot_connect_now'; END $$;
    CREATE TRIGGER recovers BEFORE INSERT ON serving EXECUTE FUNCTION recover();
"""


async def test_a_gateway_serves_on_when_the_database_does_not_answer_directly_after_the_start(
    web_pool: Pool, web_postgres: str, tmp_path: Path
) -> None:
    settings = {
        "GATEWAY_DATABASE_URL": web_postgres,
        "GATEWAY_MASTER_KEY": b64encode(b"k" * 32).decode(),
        "GATEWAY_DATA_DIR": str(tmp_path),
        "GATEWAY_DOCKER_HOST": "unix:///nowhere",
        "GATEWAY_LISTEN": "127.0.0.1:0",
    }
    await web_pool.execute("DELETE FROM serving")
    await web_pool.execute(_RECOVERS)
    try:
        async with running(Settings.from_environ(settings)) as url, aiohttp.ClientSession(url) as client:
            async with client.get("/readyz") as answer:
                assert answer.status == 200
            assert await web_pool.fetchval("SELECT count(*) FROM serving") == 0
            # Its address is stored as soon as the database takes it.
            await web_pool.execute("DROP TRIGGER recovers ON serving")
            stored = await until(lambda: web_pool.fetchval("SELECT listens FROM serving"))
            assert url == stored
    finally:
        await web_pool.execute("DROP FUNCTION recover CASCADE; DELETE FROM serving")


@pytest.fixture
async def url(web: Web, web_postgres: str) -> str:
    """The database as a role sees it that may do what its owner may, over one connection at most."""
    async with web.pool.acquire() as connection:
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'few')"):
            await connection.execute("CREATE ROLE few LOGIN PASSWORD 'few' CONNECTION LIMIT 1")
            owner = await connection.fetchval("SELECT current_user")
            await connection.execute(f"GRANT {owner} TO few")
    return f"postgresql://few:few@{web_postgres.partition('@')[2]}"


async def test_who_is_not_let_in_waits_for_a_connection_that_is_there(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = asyncio.Event()

    def seen(error: BaseException) -> bool:
        refused.set()
        return leaves_no_connection(error)

    monkeypatch.setattr("gateway.store.database.leaves_no_connection", seen)
    async with connect(url, size=3) as pool:
        async with statement(pool):
            waiting = asyncio.create_task(ask(pool))
            await refused.wait()
        assert await waiting == "few"


async def ask(pool: Pool) -> str:
    async with statement(pool) as connection:
        return str(await connection.fetchval("SELECT current_user::text"))


async def test_what_waits_for_a_server_that_is_gone_is_told(web_pool: Pool, web_postgres: str) -> None:
    """As COPY does, where asyncpg waits for the server to take more."""
    async with connect(web_postgres, size=1) as pool:

        async def wait_under_the_lock() -> None:
            async with pool.acquire() as connection, migrate.exclusively(connection):
                process = await connection.fetchval("SELECT pg_backend_pid()")
                waiting = asyncio.ensure_future(unless_lost(connection, asyncio.Event().wait()))
                await web_pool.execute("SELECT pg_terminate_backend($1)", process)
                await waiting

        with pytest.raises(DatabaseUnavailable, match="the connection to the database was lost"):
            await wait_under_the_lock()
        async with pool.acquire() as connection:
            assert await unless_lost(connection, connection.fetchval("SELECT 1")) == 1


@pytest.mark.parametrize("broken", ["default_transaction_read_only=on", "search_path=nowhere"])
async def test_no_answer_of_the_database_stops_a_swap(web: Web, first: Deployment, url: str, broken: str) -> None:
    """It is read-only, or answers as no gateway foresees."""
    swap = Swap(first.application_id, first.deployment_id, "app", "old", {}, "new")
    async with connect(f"{url}&{broken}", size=1) as pool:
        journal = PostgresJournal(pool, VAULT, first)
        journal.note_step(Step.SWAP)
        await journal.extend_lease_if_possible(9)
        await journal.ensure_lease()
        await journal.flush_if_possible()
        await journal.record_reversal(swap)
        await journal.close_swap_if_possible()
        assert not journal.lost
    async with web.pool.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM steps") == 0


async def test_a_database_that_answers_still_stops_who_was_taken_over_from(web: Web, first: Deployment) -> None:
    journal = PostgresJournal(web.pool, VAULT, first)
    assert await claim(web, "second", lease=9) is not None
    for write in (journal.extend_lease_if_possible(9), journal.close_swap_if_possible()):
        with pytest.raises(LeaseLost):
            await write


async def test_steps_are_written_again_after_a_transaction_that_was_undone(web: Web, first: Deployment) -> None:
    journal = PostgresJournal(web.pool, VAULT, first)
    journal.note_step(Step.COMMIT)
    async with web.pool.acquire() as connection:
        undone = connection.transaction()
        await undone.start()
        await journal.flush(connection)
        await undone.rollback()
    await journal.flush()
    assert await web.count("steps") == 1
