"""A backup holds every row of one moment, and is restored whole into an empty database or not at all."""

import asyncio
import io
import itertools
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.cli.demo.process import until
from gateway.model.audit import Actor
from gateway.model.errors import Conflict, InvalidInput, Unavailable
from gateway.store import inbox_parts, migrate, restore, sealed_file
from gateway.store.backup import LEFT_OUT, OF_INBOX, Backup, select_tables, verify_backup, write_backup
from gateway.store.backup_records import read_records
from gateway.store.database import Pool, connect
from gateway.store.encryption import FixedKeys, Vault
from gateway.store.master_key_file import KeyFile
from tests.support.catalog import describe
from tests.support.databases import another_database, create_database

OLD, NEW = b"o" * 32, b"n" * 32
SECRET = "correct horse battery"
ACTOR = Actor("cli", "root", "restore")
PLACE = "endpoints:h:secret"
ROWS = f"""
    INSERT INTO projects (project_id, name) VALUES ('p', 'p');
    INSERT INTO environments (environment_id, project_id, name) VALUES ('e', 'p', 'e');
    INSERT INTO applications (application_id, name, app_name, environment_id, description)
    VALUES ('a', 'a', 'a', 'e', E'two\\nlines\\tand a \\\\.');
    INSERT INTO endpoints (endpoint_id, source, name, token_hash, secret)
    VALUES ('h', 'github', 'h', 'hash', '\\x{Vault(OLD).encrypt("s", PLACE).hex()}');
    INSERT INTO deliveries (delivery_id, endpoint_id, source, body, verdict)
    VALUES ('one', 'h', 'github', '', 'queued');
    INSERT INTO delivery_keys (endpoint_id, key, delivery_id) VALUES ('h', 'k', 'one');
    INSERT INTO deployments (deployment_id, application_id, kind, forced, status, title, reference, finished_at)
    VALUES ('first', 'a', 'deploy', true, 'succeeded', '', 'r', now());
    INSERT INTO deployments (deployment_id, application_id, kind, forced, status, title, reference, lease_until, epoch)
    VALUES ('runs', 'a', 'deploy', true, 'running', '', 'r', now() + interval '1 hour', 7);
    INSERT INTO deployments (deployment_id, application_id, kind, forced, title, rolls_back_to)
    VALUES ('waits', 'a', 'rollback', true, '', 'first');
    INSERT INTO swaps (application_id, deployment_id, serving_name, new) VALUES ('a', 'runs', 'a', 'c');
    INSERT INTO deployment_deliveries (deployment_id, delivery_id) VALUES ('runs', 'one');
    INSERT INTO api_keys (key_id, name, prefix, key_hash) VALUES ('k', 'k', 'gw_1', 'hash');
    INSERT INTO sign_in_links (token_hash, key_id, expires_at) VALUES ('t', 'k', now() + interval '1 hour');
    INSERT INTO audit (call_id, via, who, action, outcome) VALUES ('c', 'cli', 'root', 'keys create', 'done');
    INSERT INTO domains (application_id, host, columns) VALUES ('a', 'a.example.com', '{{}}');
    INSERT INTO alerts (alert_id, name, receiver, target, events) VALUES ('al', 'al', 'github', '', ARRAY['failed']);
    INSERT INTO outbox_events (event_id, key, application_id, kinds, content)
    VALUES ('ev', 'k', 'a', '{{failed}}', '{{}}');
    INSERT INTO outbox_deliveries (event_id, alert_id, application_id, attempts, lease_until, progress)
    VALUES ('ev', 'al', 'a', 1, now(), '{{"sending": {{"attempt": 1, "request": ""}}}}');
    CREATE TABLE of_somebody (note text); INSERT INTO of_somebody VALUES ('mine');
"""
LATER = (
    "INSERT INTO deliveries (delivery_id, endpoint_id, source, body, verdict) VALUES ('two', 'h', 'g', '', 'queued')"
)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make keys without their cost, which is what they are for."""
    monkeypatch.setattr(sealed_file, "_derived", lambda word, salt: AESGCM((word.encode() + salt + b"0" * 32)[:32]))


@pytest.fixture
async def filled(web_postgres: str) -> AsyncIterator[Pool]:
    """A database with something in most tables, and an inbox of two parts."""
    async with connect(await create_database(web_postgres, "backed_up"), size=3) as pool:
        await pool.execute(ROWS)
        async with pool.acquire() as connection:
            assert await inbox_parts.begin_part(connection)
        await pool.execute(LATER)
        yield pool


@pytest.fixture
async def empty(web_pool: Pool, web_postgres: str) -> AsyncIterator[Pool]:
    async with another_database(web_pool, web_postgres, "restored") as pool:
        yield pool


async def write(pool: Pool, path: Path, *, inbox: bool = True, keys: Sequence[bytes] = (OLD,)) -> Backup:
    return await write_backup(pool, keys, path, SECRET, inbox=inbox)


async def content(pool: Pool) -> dict[str, list[str]]:
    async with pool.acquire() as connection:
        return {
            table.name: sorted(
                row["row"] for row in await connection.fetch(f"SELECT ({table.name}.*)::text AS row FROM {table.name}")
            )
            for table in await select_tables(connection)
            if table.name not in LEFT_OUT
        }


async def test_a_restored_database_has_every_row_and_the_schema(
    filled: Pool, empty: Pool, web_postgres: str, tmp_path: Path
) -> None:
    written = await write(filled, tmp_path / "backup")
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["backup"]  # noqa: PTH208 - in a test
    assert written == verify_backup(tmp_path / "backup", SECRET)
    assert written.rows["deliveries"] == 2
    before = await content(filled)

    restored, skipped, lost = await restore.restore_backup(empty, FixedKeys(OLD), tmp_path / "backup", SECRET, ACTOR)
    assert (restored, skipped, lost) == (written, ["of_somebody"], [])
    after = await content(empty)
    del before["of_somebody"]
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"deployments", "outbox_deliveries", "audit", "installation"}
    assert await empty.fetchval("SELECT lease_until <= now() AND epoch = 7 FROM deployments WHERE status = 'running'")
    # What a host of code may have got since the backup is looked for before it is sent.
    assert await empty.fetchval("SELECT progress FROM outbox_deliveries WHERE lease_until IS NULL") == {
        "restored": True
    }
    # Numbers go on behind the highest, and what a person did is recorded.
    assert await empty.fetchval("SELECT action FROM audit ORDER BY number DESC LIMIT 1") == "restore"
    await empty.execute("INSERT INTO domains (application_id, host, columns) VALUES ('a', 'b.example.com', '{}')")
    assert await empty.fetchval("SELECT count(*) FROM sign_in_links") == 0
    await filled.execute("DROP TABLE of_somebody")
    async with another_database(filled, web_postgres, "migrated_anew") as anew:
        await migrate.migrate(anew)
        async with empty.acquire() as restored_to, anew.acquire() as made:
            assert await describe(restored_to) == await describe(made)


@pytest.mark.long
async def test_a_backup_into_a_directory_that_is_not_there_says_what_to_create(filled: Pool, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=f"create the directory {tmp_path}/none first"):
        await write(filled, tmp_path / "none" / "backup")


async def test_secrets_are_opened_by_the_key_of_the_new_place(filled: Pool, empty: Pool, tmp_path: Path) -> None:
    await write(filled, tmp_path / "backup", inbox=False)
    assert not verify_backup(tmp_path / "backup", SECRET).rows.keys() & set(OF_INBOX)
    _, _, lost = await restore.restore_backup(empty, FixedKeys(NEW), tmp_path / "backup", SECRET, ACTOR)
    sealed = await empty.fetchval("SELECT secret FROM endpoints")
    assert (Vault(NEW).decrypt(sealed, PLACE), lost) == ("s", [])
    assert await empty.fetchval("SELECT count(*) FROM deliveries") == 0


async def test_what_a_former_key_encrypted_is_opened_at_a_place_that_has_the_newest_one_alone(
    filled: Pool, empty: Pool, tmp_path: Path
) -> None:
    """As in a backup that was made while a new key was already there, and not all was encrypted with it."""
    await write(filled, tmp_path / "backup", keys=(NEW, OLD))
    _, _, lost = await restore.restore_backup(empty, FixedKeys(NEW), tmp_path / "backup", SECRET, ACTOR)
    assert (Vault(NEW).decrypt(await empty.fetchval("SELECT secret FROM endpoints"), PLACE), lost) == ("s", [])


@pytest.mark.long
async def test_what_an_extension_made_is_left_to_it(filled: Pool, empty: Pool, tmp_path: Path) -> None:
    await write(filled, tmp_path / "backup")
    of_extension = "CREATE EXTENSION plpgsql; CREATE TABLE reference (n int); INSERT INTO reference VALUES (1);"
    await empty.execute("DROP EXTENSION plpgsql")
    await empty.execute(f"{of_extension} ALTER EXTENSION plpgsql ADD TABLE reference")
    await restore.restore_backup(empty, FixedKeys(OLD), tmp_path / "backup", SECRET, ACTOR)
    assert await empty.fetchval("SELECT n FROM reference") == 1
    assert "reference" not in (await write(empty, tmp_path / "again")).rows


@pytest.mark.long
async def test_a_key_file_gets_the_keys_of_the_backup_and_keeps_its_own(
    filled: Pool, empty: Pool, tmp_path: Path
) -> None:
    await write(filled, tmp_path / "backup", keys=(OLD, b"former".ljust(32)))
    (tmp_path / "data").mkdir()
    file = KeyFile(tmp_path / "data" / "master.key")
    file.replace([NEW])
    await restore.restore_backup(empty, file, tmp_path / "backup", SECRET, ACTOR)
    assert KeyFile(tmp_path / "data" / "master.key").own() == (OLD, b"former".ljust(32), NEW)
    assert Vault(file).decrypt(await empty.fetchval("SELECT secret FROM endpoints"), PLACE) == "s"


async def test_what_cannot_be_restored_changes_nothing(filled: Pool, empty: Pool, tmp_path: Path) -> None:
    path, keyring = tmp_path / "backup", FixedKeys(OLD)
    await write(filled, path)
    with pytest.raises(Conflict, match="exists: give another name"):
        await write(filled, path)
    before = await content(filled)
    with pytest.raises(Conflict, match=r"not empty \(it has schema_migrations\), .* name another database"):
        await restore.restore_backup(filled, keyring, path, SECRET, ACTOR)
    assert await content(filled) == before
    # Nor does anything of somebody else make way, without a table of the gateway's.
    await empty.execute("CREATE TABLE of_somebody (note text); INSERT INTO of_somebody VALUES ('mine')")
    with pytest.raises(Conflict, match=r"not empty \(it has of_somebody\)"):
        await restore.restore_backup(empty, keyring, path, SECRET, ACTOR)
    assert await empty.fetchval("SELECT note FROM of_somebody") == "mine"
    await empty.execute("DROP TABLE of_somebody")

    whole = path.read_bytes()
    for wrong in (whole[:-1], whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:]):
        path.write_bytes(wrong)
        with pytest.raises(InvalidInput, match="damaged"):
            await restore.restore_backup(empty, keyring, path, SECRET, ACTOR)
    # One whose rows break a law of the schema, after most tables are there.
    await filled.execute(
        "ALTER TABLE swaps DROP CONSTRAINT swaps_deployment_id_fkey; UPDATE swaps SET deployment_id = 'x'"
    )
    await write(filled, tmp_path / "broken")
    with pytest.raises(InvalidInput, match="the rows of swaps cannot be restored"):
        await restore.restore_backup(empty, keyring, tmp_path / "broken", SECRET, ACTOR)
    assert await empty.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    path.write_bytes(whole)
    await restore.restore_backup(empty, keyring, path, SECRET, ACTOR)


@pytest.mark.long
async def test_a_file_of_which_any_byte_was_changed_is_refused(filled: Pool, tmp_path: Path) -> None:
    await write(filled, tmp_path / "backup")
    whole, accepted = (tmp_path / "backup").read_bytes(), []
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        try:
            reader = sealed_file.SealedReader.of(io.BytesIO(changed))
            reader.unlock(SECRET)
            for _ in read_records(reader.chunks()):
                pass
        except InvalidInput:
            continue
        accepted.append(at)
    assert accepted == []


@pytest.mark.long
async def test_an_older_version_refuses_and_a_newer_one_migrates(
    filled: Pool, empty: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(filled, tmp_path / "backup")
    shipped = migrate.shipped()
    for known, why in (
        (shipped[:-1], f"has migration {shipped[-1].number}, which this version does not know"),
        ([*shipped[:-1], replace(shipped[-1], sql="another")], "is another one than this version's"),
    ):
        monkeypatch.setattr(migrate, "shipped", lambda known=known: known)
        with pytest.raises(InvalidInput, match=why):
            await restore.restore_backup(empty, FixedKeys(OLD), tmp_path / "backup", SECRET, ACTOR)
    assert await empty.fetchval("SELECT to_regclass('schema_migrations')") is None

    later = migrate.Migration(
        9998, "9998_more.sql", "-- expands\nALTER TABLE applications ADD COLUMN more int DEFAULT 3"
    )
    monkeypatch.setattr(migrate, "shipped", lambda: [*shipped, later])
    await restore.restore_backup(empty, FixedKeys(OLD), tmp_path / "backup", SECRET, ACTOR)
    assert await empty.fetchval("SELECT more FROM applications") == 3


@pytest.mark.long
async def test_under_load_nothing_that_was_committed_before_is_missing(
    filled: Pool, empty: Pool, tmp_path: Path
) -> None:
    committed: list[str] = []
    ended = asyncio.Event()

    async def push(number: int) -> None:
        for count in itertools.count():
            if ended.is_set():
                return
            name = f"{number}-{count}"
            await filled.execute(
                "INSERT INTO deliveries (delivery_id, endpoint_id, source, body, verdict)"
                " VALUES ($1, 'h', 'g', repeat('x', 2000)::bytea, 'queued')",
                name,
            )
            committed.append(name)

    pushes = [asyncio.create_task(push(number)) for number in range(2)]
    await until(lambda: asyncio.sleep(0, len(committed) > 100 or None))
    before = list(committed)
    await write(filled, tmp_path / "backup")
    ended.set()
    await asyncio.gather(*pushes)
    assert len(committed) > len(before)

    await restore.restore_backup(empty, FixedKeys(OLD), tmp_path / "backup", SECRET, ACTOR)
    there = {row["delivery_id"] for row in await empty.fetch("SELECT delivery_id FROM deliveries")}
    assert set(before) - there == set()
