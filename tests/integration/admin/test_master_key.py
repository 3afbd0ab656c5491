"""The master key is rotated while everything runs, and however it is stopped no secret is lost."""

import asyncio
import base64
import signal
import sys
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from gateway.admin.master_key import rotate
from gateway.cli.demo.process import GatewayProcess, until
from gateway.config import Settings
from gateway.model.errors import Conflict, Unavailable
from gateway.store.database import Connection, Pool, connect
from gateway.store.embedded_postgres import embedded_postgres
from gateway.store.encryption import FixedKeys, Vault
from gateway.store.master_key_file import KeyFile
from gateway.store.postgres_cluster import Cluster
from gateway.store.reencryption import ENCRYPTED, reencrypt
from gateway.store.sessions import session_name
from gateway.store.storage import open_storage
from tests.support.api_client import VAULT, Web

OLD, NEW = b"k" * 32, b"n" * 32
BOTH = FixedKeys(NEW, (OLD,))

#: bytes that are no encrypted secrets
PLAIN = {
    ("endpoints", "token_hash"),
    ("endpoints", "former_token_hash"),
    ("deliveries", "body"),
    ("api_keys", "key_hash"),
    ("readiness_probes", "filler"),
    ("approval_links", "token_hash"),
    ("scan_reports", "report"),
    ("sign_ins", "token_hash"),
    ("sign_in_links", "token_hash"),
}


async def test_every_column_of_bytes_is_sealed_or_known_not_to_be(web: Web) -> None:
    async with web.pool.acquire() as connection:
        rows = await connection.fetch(
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema = 'public' AND data_type = 'bytea'"
        )
    assert {(row["table_name"], row["column_name"]) for row in rows} == {
        *((column.table, column.name) for column in ENCRYPTED),
        *PLAIN,
    }


@pytest.fixture
async def full(web: Web) -> Pool:
    """A database with something in every column that is encrypted, with the old key."""
    await web.mutate("project.create", name="p")
    await web.mutate("application.create", name="a", dockerImage="acme/a", applicationId="a")
    await web.mutate("application.deploy", applicationId="a")
    await web.mutate("registry.create", registryName="r", username="u", password="p", registryUrl="ghcr.io")
    await web.mutate("server.create", name="s", host="tcp://127.0.0.1:1")
    await web.mutate("gate.create", applicationId="a", kind="maturity", rule={"age": "1h"}, secret="s")
    await web.mutate("alert.create", name="h", receiver="webhook", address="https://hooks.example.com")
    await web.endpoint("github", "s")
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE endpoints SET former_until = now()")
        await connection.execute(
            "INSERT INTO swaps (application_id, deployment_id, serving_name, new)"
            " SELECT application_id, deployment_id, 'a', 'new' FROM deployments"
        )
        for column in ENCRYPTED:
            keys = await connection.fetch(f"SELECT {column.key} AS key FROM {column.table}")
            assert keys, column
            for row in keys:
                place = column.place(row["key"])
                statement = f"UPDATE {column.table} SET {column.name} = $2 WHERE {column.key} = $1"
                await connection.execute(statement, row["key"], VAULT.encrypt(f"of {place}", place))
    return web.pool


async def sealed_with(pool: Pool, key: bytes) -> int:
    """Count the secrets that this key alone opens, and hold each to what it was."""
    vault, count = Vault(key), 0
    async with pool.acquire() as connection:
        for column in ENCRYPTED:
            for row in await connection.fetch(
                f"SELECT {column.key} AS key, {column.name} AS encrypted FROM {column.table}"
            ):
                if row["encrypted"] is not None and vault.is_current(row["encrypted"], column.place(row["key"])):
                    assert vault.decrypt(row["encrypted"], column.place(row["key"])) == f"of {column.place(row['key'])}"
                    count += 1
    return count


async def test_every_secret_is_sealed_with_the_new_key_and_stays_what_it_was(full: Pool) -> None:
    count = await sealed_with(full, OLD)
    assert count >= len(ENCRYPTED)
    done = await rotate(full, Vault(BOTH))
    assert (done.resealed, done.secrets) == (count, count)
    assert (await sealed_with(full, OLD), await sealed_with(full, NEW)) == (0, count)
    again = await rotate(full, Vault(BOTH))
    assert (again.resealed, again.secrets) == (0, count)


@pytest.mark.parametrize("after", [0, 1, 5])
async def test_stopped_anywhere_it_is_done_again_and_goes_on(
    full: Pool, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    count, encrypted, seal = await sealed_with(full, OLD), 0, Vault.encrypt

    def until_stopped(self: Vault, secret: str, place: str) -> bytes:
        nonlocal encrypted
        encrypted += 1
        if encrypted > after:
            raise asyncio.CancelledError
        return seal(self, secret, place)

    with monkeypatch.context() as patched:
        patched.setattr(Vault, "encrypt", until_stopped)
        with pytest.raises(asyncio.CancelledError):
            await rotate(full, Vault(BOTH))
    assert (await sealed_with(full, OLD), await sealed_with(full, NEW)) == (count - after, after)
    assert (await rotate(full, Vault(BOTH))).resealed == count - after


async def test_what_somebody_changes_meanwhile_is_theirs(full: Pool) -> None:
    column = next(one for one in ENCRYPTED if one.table == "registries")
    async with full.acquire() as connection, connection.transaction():
        row = await connection.fetchval("SELECT registry_id FROM registries FOR UPDATE")
        task = asyncio.create_task(reencrypt(full, Vault(BOTH), [column]))
        await until(partial(somebody_waits, connection))
        theirs = Vault(NEW).encrypt("theirs", column.place(row))
        await connection.execute("UPDATE registries SET password = $1", theirs)
    await task
    async with full.acquire() as connection:
        assert await connection.fetchval("SELECT password FROM registries") == theirs


async def somebody_waits(connection: Connection) -> bool | None:
    return await connection.fetchval("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted") or None


async def test_nothing_is_begun_while_somebody_seals_with_another_key(full: Pool) -> None:
    count = await sealed_with(full, OLD)
    url = await address_of(full)
    async with connect(url, name=session_name(FixedKeys(OLD).mark)):
        with pytest.raises(Conflict, match="restart each with the new GATEWAY_MASTER_KEY"):
            await rotate(full, Vault(BOTH))
    assert await sealed_with(full, OLD) == count
    async with connect(url, name=session_name(BOTH.mark)):
        assert (await rotate(full, Vault(BOTH))).resealed == count


async def test_the_key_of_the_settings_is_rotated_in_the_order_that_is_documented(full: Pool) -> None:
    url, count = await address_of(full), await sealed_with(full, OLD)

    def settings(**keys: bytes) -> Settings:
        named = {f"GATEWAY_{name.upper()}": base64.b64encode(key).decode() for name, key in keys.items()}
        return Settings.from_environ({"HOME": "/", "GATEWAY_DATABASE_URL": url, **named})

    both = settings(master_key=NEW, former_master_keys=OLD)
    async with open_storage(settings(master_key=OLD)), open_storage(both) as kept:
        with pytest.raises(Conflict, match="restart each"):
            await rotate(kept.pool, kept.vault)
    async with open_storage(both), open_storage(both) as kept:
        assert (await rotate(kept.pool, kept.vault)).resealed == count
    async with open_storage(settings(master_key=NEW)) as kept, kept.pool.acquire() as connection:
        row = await connection.fetchrow("SELECT registry_id, password FROM registries")
        assert row is not None
        place = f"registries:{row['registry_id']}:password"
        assert kept.vault.decrypt(row["password"], place) == f"of {place}"


async def address_of(pool: Pool) -> str:
    async with pool.acquire() as connection:
        directory = Path(await connection.fetchval("SHOW data_directory"))
        return Cluster(directory.parent).url(await connection.fetchval("SELECT current_database()"))


async def test_what_no_key_opens_is_named_and_all_else_is_done(full: Pool) -> None:
    count = await sealed_with(full, OLD)
    async with full.acquire() as connection:
        await connection.execute("UPDATE registries SET password = $1", Vault(b"x" * 32).encrypt("lost", "elsewhere"))
    with pytest.raises(Unavailable, match=r"registries:.*:password.*GATEWAY_FORMER_MASTER_KEYS"):
        await rotate(full, Vault(BOTH))
    assert await sealed_with(full, NEW) == count - 1


def test_a_key_file_is_replaced_whole_and_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    mine, theirs = KeyFile(path), KeyFile(path, [OLD])
    (first,) = mine.keys()
    assert list(theirs.keys()) == [first, OLD]
    mine.replace([NEW, first])
    assert list(theirs.keys()) == [NEW, first, OLD]
    assert (path.stat().st_mode & 0o777, list(tmp_path.iterdir())) == (0o600, [path])
    path.write_bytes(b"short")
    with pytest.raises(Unavailable, match="restore it from a backup"):
        theirs.keys()


@pytest.mark.long
async def test_beside_a_server_that_runs_and_killed_half_way_it_loses_nothing(tmp_path: Path) -> None:
    gateway, path = GatewayProcess(tmp_path, "unix:///nowhere", {}), tmp_path / "data" / "master.key"
    try:
        await gateway.start()
        gateway.key = await gateway.cli("keys", "create", "tests")
        for name in ("a", "b", "c"):
            await gateway.mutate("application.create", {"name": name, "applicationId": name, "env": f"A={name}"})
        first = path.read_bytes()
        async with embedded_postgres(tmp_path / "data") as url:
            keeper = await asyncpg.connect(url)
            held = keeper.transaction()
            await held.start()
            await keeper.execute("SELECT FROM applications WHERE application_id = 'b' FOR UPDATE")
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway", "keys", "rotate-master", env=gateway.environment
            )
            await until(partial(somebody_waits, keeper))
            process.send_signal(signal.SIGKILL)
            await process.wait()
            await held.rollback()
            await keeper.close()
        assert path.read_bytes()[32:] == first
        assert [one["env"] for one in await gateway.query("application.all")] == ["A=c", "A=b", "A=a"]
        await gateway.mutate("application.create", {"name": "d", "applicationId": "d", "env": "A=d"})
        await gateway.cli("keys", "rotate-master", "--json")
        assert [one["env"] for one in await gateway.query("application.all")] == ["A=d", "A=c", "A=b", "A=a"]
        assert len(path.read_bytes()) == 64
        assert first not in path.read_bytes()
    finally:
        await gateway.stop()
