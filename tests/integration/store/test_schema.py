"""The schema states the laws, migrations are applied once, secrets open only in their place."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from gateway.model.errors import Conflict, Unavailable
from gateway.store import applications
from gateway.store.database import Pool
from gateway.store.encryption import Vault
from gateway.store.master_key_file import KeyFile
from gateway.store.migrate import Migration, migrate, shipped
from tests.support.databases import another_database


@pytest.fixture
async def empty(web_pool: Pool, web_postgres: str) -> AsyncIterator[Pool]:
    """A database of its own, without a table."""
    async with another_database(web_pool, web_postgres, "empty") as pool:
        yield pool


async def test_gateways_that_start_together_migrate_once(empty: Pool) -> None:
    applied = await asyncio.gather(*(migrate(empty) for _ in range(5)))
    assert sorted(map(len, applied)) == [0, 0, 0, 0, len(shipped())]


async def test_an_edited_migration_is_refused(empty: Pool) -> None:
    await migrate(empty)
    edited = [replace(one, sql=one.sql + "\n-- edited") for one in shipped()]
    with pytest.raises(Unavailable, match="not the one that was applied"):
        await migrate(empty, edited)


async def test_a_newer_database_is_refused(empty: Pool) -> None:
    await migrate(empty, [*shipped(), Migration(9999, "9999_later.sql", "SELECT 1")])
    with pytest.raises(Unavailable, match="newer than this gateway"):
        await migrate(empty)


async def test_a_migration_that_fails_leaves_nothing(empty: Pool) -> None:
    broken = Migration(9999, "9999_broken.sql", "CREATE TABLE half (); SELECT nonsense")
    with pytest.raises(Unavailable, match=r"9999_broken\.sql failed, and none is applied: .*nonsense"):
        await migrate(empty, [*shipped(), broken])
    assert await empty.fetchval("SELECT to_regclass('deployments')") is None


QUEUE = (
    "INSERT INTO deployments (application_id, kind, forced, title, reference) VALUES ('a', 'deploy', false, '', 'r')"
)


@pytest.mark.parametrize(
    "statement",
    [
        f"{QUEUE}; {QUEUE}",
        f"{QUEUE}; UPDATE deployments SET status = 'succeeded'",
        f"{QUEUE}; UPDATE deployments SET finished_at = now()",
        f"{QUEUE}; UPDATE deployments SET status = 'running'",
        f"{QUEUE}; UPDATE deployments SET reference = NULL",
        "UPDATE applications SET app_name = '../info'",
        "UPDATE applications SET application_id = '../info'",
        "UPDATE applications SET environment_id = NULL",
        "DELETE FROM environments",
    ],
)
async def test_a_row_cannot_break_a_law(empty: Pool, statement: str) -> None:
    await migrate(empty)
    await empty.execute(
        "INSERT INTO projects (project_id, name) VALUES ('p', 'p');"
        "INSERT INTO environments (environment_id, project_id, name) VALUES ('e', 'p', 'e');"
        "INSERT INTO applications (application_id, name, app_name, environment_id) VALUES ('a', 'a', 'a', 'e')"
    )
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await empty.execute(statement)


def test_a_secret_opens_only_in_its_place() -> None:
    vault = Vault(b"k" * 32)
    sealed = vault.encrypt("hunter2", "registries:1:password")
    assert b"hunter2" not in sealed
    assert vault.decrypt(sealed, "registries:1:password") == "hunter2"
    for other, place in ((vault, "registries:2:password"), (Vault(b"o" * 32), "registries:1:password")):
        with pytest.raises(Unavailable):
            other.decrypt(sealed, place)


def test_the_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    (key,) = KeyFile(tmp_path / "deep" / "master.key").keys()
    assert [key] == list(KeyFile(tmp_path / "deep" / "master.key").keys())
    assert (tmp_path / "deep" / "master.key").stat().st_mode & 0o777 == 0o600


async def test_a_containers_name_is_one_on_its_host_alone(empty: Pool) -> None:
    await migrate(empty)
    async with empty.acquire() as connection:
        await connection.execute("INSERT INTO servers (server_id, name, host) VALUES ('b', 'b', 'tcp://127.0.0.1:1')")

        async def called_web(server_id: str | None) -> str:
            return await applications.insert_application(
                connection, application_id=None, name="Web", app_name="web", description=None, server_id=server_id
            )

        ours, theirs = await called_web(None), await called_web("b")
        assert await applications.select_named(connection, "web", None) == ours
        assert await applications.select_named(connection, "web", "b") == theirs
        with pytest.raises(Conflict, match="AppName"):
            await called_web(None)
        with pytest.raises(Conflict, match="same name"):
            await applications.update_application(connection, Vault(b"k" * 32), ours, {"server_id": "b"})
