"""A database of any former version becomes today's with its rows, beside gateways that serve meanwhile."""

import asyncio
import re
from collections.abc import AsyncIterator
from functools import partial

import asyncpg
import orjson
import pytest

from gateway.cli.demo.process import until
from gateway.model.errors import Unavailable
from gateway.store import database
from gateway.store import migrate as migrations
from gateway.store.database import Connection, Pool
from gateway.store.migrate import Migration, former, migrate, select_newer, shipped
from tests.support.api_client import VAULT, Web, answering
from tests.support.catalog import describe
from tests.support.claiming import claim_one
from tests.support.databases import address, another_database, create_database

DIGEST = "sha256:" + "ab" * 32
#: The last of the numbers that were published before the schema became one file; from the next one on, each file was
#: written for gateways that go on beside it.
PUBLISHED = 41
#: came after it, with a lower number
LATE = 39
LOCK = 0x6761746577617900
LATER = Migration(9999, "9999_later.sql", "CREATE TABLE later ()")
EXPANDS = Migration(9998, "9998_more.sql", "-- expands\nALTER TABLE applications ADD COLUMN more text")


def ran(deployment_id: str, **more: object) -> bytes:
    text = orjson.dumps({"environment": "A=1", "configuration": {}, **more}).decode()
    return VAULT.encrypt(text, f"deployments:{deployment_id}:ran")


def sealed(text: str, place: str) -> str:
    return f"'\\x{VAULT.encrypt(text, place).hex()}'"


#: what is put in once a migration has been applied, as the gateway of that time did
ROWS = {
    1: f"""
        INSERT INTO engines (engine_id, name, version, platform) VALUES ('e', 'e', '20.10', 'linux/amd64');
        INSERT INTO registries
               (registry_id, registry_name, registry_url, registry_type, domain, username, password) VALUES
               ('r', 'r', 'registry.example.com', 'cloud', 'registry.example.com', 'u',
                {sealed("p", "registries:r:password")});
        INSERT INTO applications (application_id, name, app_name, docker_image, environment, configuration, engine_id)
        VALUES ('a', 'a', 'a', 'docker.io/library/a:latest', {sealed("A=1", "applications:a:environment")},
                '{{"ports": [{{"publishedPort": 8080, "targetPort": 80}}]}}', 'e');
        INSERT INTO subscriptions (application_id, repository, tag) VALUES ('a', 'docker.io/library/a', 'latest');
        INSERT INTO endpoints (endpoint_id, source, name, token_hash, secret)
        VALUES ('h', 'github', 'h', 'hash', {sealed("s", "endpoints:h:secret")});
        INSERT INTO deliveries (delivery_id, endpoint_id, source, body, verdict)
        VALUES ('d', 'h', 'github', '{{}}', 'queued');
        INSERT INTO delivery_keys (endpoint_id, key, delivery_id) VALUES ('h', 'k', 'd');
        INSERT INTO deployments (deployment_id, application_id, kind, forced, status, title, reference, digest,
                                 started_at, finished_at, replaced, spec_hash)
        VALUES ('one', 'a', 'deploy', false, 'succeeded', 'one', 'docker.io/library/a:latest', '{DIGEST}',
                now() - interval '9 days', now() - interval '9 days', true, 'x');
        INSERT INTO deployments (deployment_id, application_id, kind, forced, title, reference)
        VALUES ('waits', 'a', 'redeploy', true, 'waits', 'docker.io/library/a:latest');
        INSERT INTO deployment_deliveries (deployment_id, delivery_id) VALUES ('one', 'd');
        INSERT INTO steps (deployment_id, epoch, number, step, started_at) VALUES ('one', 1, 0, 'pull', now());
        INSERT INTO swaps (application_id, deployment_id, serving_name, new) VALUES ('a', 'one', 'app-a', 'c');
        INSERT INTO api_keys (key_id, name, prefix, key_hash) VALUES ('k', 'k', 'gw_1', 'hash');
    """,
    3: "INSERT INTO servers (server_id, name, host) VALUES ('s', 's', 'tcp://127.0.0.1:1')",
    4: "INSERT INTO watches VALUES ('a', 'one', 'c', 0, now())",
    13: """
        INSERT INTO looks (repository, tag, domain, seconds, next_at)
        VALUES ('docker.io/library/a', 'latest', 'd', 60, now())
    """,
    30: "INSERT INTO key_applications VALUES ('k', 'a')",
    35: "INSERT INTO key_projects VALUES ('k', 'default')",
    41: """
        INSERT INTO domains (application_id, host, columns)
        VALUES ('a', 'a.example.com',
                '{"path": "/", "port": null, "https": false, "certificateType": "none", "customCertResolver": null,
                  "internalPath": "/", "stripPath": false}')
    """,
    54: """
        INSERT INTO pulled_images (engine_id, application_id, repository, digest)
        VALUES ('e', 'a', 'docker.io/library/a', 'sha256:0')
    """,
    60: "INSERT INTO audit (call_id, via, who, action, outcome) VALUES ('c', 'cli', 'root', 'keys create', 'done')",
    66: "INSERT INTO inbox_spans (begins, bytes) VALUES (now(), 1)",
    68: "INSERT INTO observations (application_id, state) VALUES ('a', 'healthy')",
    73: "INSERT INTO engine_addresses (engine_id, server_id, daemon, swarm_manager) VALUES ('e', 's', 'd', false)",
    78: "INSERT INTO serving (listens) VALUES ('http://127.0.0.1:8080')",
}
#: what each former version wrote down of what it ran
RAN: dict[int, dict[str, object]] = {2: {}, 5: {"base": None}, 31: {"base": None, "resolved": None}}

QUERIES = {
    "application.one": {"applicationId": "a"},
    "application.all": {},
    "application.pending": {"applicationId": "a"},
    "deployment.all": {"applicationId": "a"},
    "deployment.one": {"deploymentId": "one"},
    "project.all": {},
    "registry.all": {},
    "server.all": {},
    "user.get": {},
    "webhook.all": {},
    "delivery.all": {},
    "delivery.one": {"deliveryId": "d"},
    "subscription.all": {"applicationId": "a"},
}


async def fill(pool: Pool, number: int) -> None:
    if statements := ROWS.get(number):
        await pool.execute(statements)
    if (more := RAN.get(number)) is not None:
        await pool.execute("UPDATE deployments SET ran = $1 WHERE deployment_id = 'one'", ran("one", **more))


@pytest.mark.timeout(600)  # a database for each, which takes long on a machine that does much else
@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.long)])
async def test_a_database_of_a_former_version_becomes_todays_with_its_rows(
    web_pool: Pool, web_postgres: str, every: int
) -> None:
    async with another_database(web_pool, web_postgres, "former") as pool:
        await pool.close()
    before: dict[str, int] = {}
    for number in range(1, len(former()) + 1):
        async with database.connect(address(web_postgres, "former"), size=2) as pool:
            (applied,) = await migrate(pool, former()[:number])
            await fill(pool, applied.number)
            before = await count_rows(pool)
        if number % every and number < len(former()):
            continue
        await web_pool.execute("DROP DATABASE IF EXISTS copy")
        await until(partial(copied, web_pool))
        async with database.connect(address(web_postgres, "copy")) as pool:
            assert await migrate(pool) == [*former()[number:], *shipped()]
            after = await count_rows(pool)
            assert {table: after[table] for table in before} == before, applied.name
            async with answering(pool, emptied=False) as web:
                await all_is_there(web, applied)
    assert {table for table, rows in before.items() if not rows} == {"readiness_probes"}


async def count_rows(pool: Pool) -> dict[str, int]:
    tables = await pool.fetch(
        "SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'schema_migrations'"
    )
    return {row["name"]: await pool.fetchval(f"SELECT count(*) FROM {row['name']}") for row in tables}


async def copied(pool: Pool) -> bool | None:
    """Copy the database; PostgreSQL refuses while a connection to it is just being closed."""
    try:
        await pool.execute("CREATE DATABASE copy TEMPLATE former")
    except asyncpg.ObjectInUseError:
        return None
    return True


async def all_is_there(web: Web, since: Migration) -> None:
    for procedure, given in QUERIES.items():
        status, answer = await web.get(f"/api/trpc/{procedure}", input=orjson.dumps({"json": given}).decode())
        assert status == 200, (since.name, procedure, answer)
    found = await web.query("application.one", applicationId="a")
    assert (found["env"], found["ports"][0]["targetPort"]) == ("A=1", 80), since.name
    status, answer = await web.post("/api/trpc/rollback.rollback", {"json": {"rollbackId": "one"}})
    # What the first version ran was not written down yet: there is nothing to go back to, and that is said.
    assert status == (404 if since == former()[0] else 200), (since.name, answer)


def test_each_migration_leaves_in_place_what_a_former_gateway_uses() -> None:
    """Else the former one fails beside it; what has to go goes a release later, in one without `-- expands`."""
    breaks = re.compile(
        r"\b(DROP\s+(TABLE|COLUMN|TYPE)|RENAME|SET\s+NOT\s+NULL|ALTER\s+COLUMN\s+\w+\s+TYPE)\b"
        r"|ADD\s+COLUMN\s+(?![^,;]*\bDEFAULT\b)[^,;]*\bNOT\s+NULL\b",
        re.IGNORECASE,
    )
    for migration in [*(one for one in former() if one.number > PUBLISHED), *shipped()[1:]]:
        plain = re.sub(r"--[^\n]*", "", migration.sql)
        assert breaks.findall(plain) == [], migration.name


def test_the_numbers_of_the_files_have_no_holes() -> None:
    assert [one.number for one in shipped()] == list(range(1, len(shipped()) + 1))
    assert [one.name[:5] for one in shipped()] == [f"{one.number:04}_" for one in shipped()]


# -- the schema as one file


@pytest.fixture
async def published(web_pool: Pool, web_postgres: str) -> AsyncIterator[Pool]:
    """A database of the published version that had the former numbers, with rows."""
    async with another_database(web_pool, web_postgres, "published") as pool:
        then = [one for one in former() if one.number <= PUBLISHED and one.number != LATE]
        for number in range(1, len(then) + 1):
            (applied,) = await migrate(pool, then[:number])
            await fill(pool, applied.number)
        yield pool


async def test_the_schema_is_the_one_that_the_former_files_make(web_pool: Pool, published: Pool) -> None:
    await migrate(published)
    async with published.acquire() as brought_over, web_pool.acquire() as new:
        assert await describe(brought_over) == await describe(new)


async def test_a_published_database_keeps_each_row(published: Pool) -> None:
    async def rows() -> dict[str, list[dict[str, object]]]:
        return {
            table: [dict(row) for row in await published.fetch(f"SELECT * FROM {table} ORDER BY {table}::text")]
            for table in before_names
        }

    before_names = [table for table, count in (await count_rows(published)).items() if count]
    before = await rows()
    await migrate(published)
    after = await rows()
    assert len(before) == 20
    for table in before_names:
        # A column that came since was added to each row; no value that was there is another.
        kept = [{name: row[name] for name in was} for was, row in zip(before[table], after[table], strict=True)]
        assert kept == before[table], table


async def test_gateways_that_start_together_bring_a_published_database_over_once(published: Pool) -> None:
    applied = await asyncio.gather(*(migrate(published) for _ in range(5)))
    late = [one for one in former() if one.number > PUBLISHED or one.number == LATE]
    assert [one for one in applied if one] == [[*late, *shipped()]]
    ledger = await published.fetch("SELECT number, name, expands FROM schema_migrations ORDER BY number")
    assert [tuple(row) for row in ledger] == [
        (0, "renumbered", False),
        *((one.number, one.name, one.expands) for one in shipped()),
    ]


async def test_a_gateway_of_the_former_numbers_is_too_old_once_the_database_is_brought_over(published: Pool) -> None:
    known = {one.number for one in former()}
    async with published.acquire() as connection:
        assert await select_newer(connection, known) is None
        await migrate(published)
        assert await select_newer(connection, known) == 0
        assert await select_newer(connection) is None


async def test_a_former_database_that_cannot_be_completed_stays_as_it_is(
    published: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = await published.fetch("SELECT * FROM schema_migrations ORDER BY number")
    broken = [*former(), Migration(84, "0084_broken.sql", "SELECT nonsense")]
    monkeypatch.setattr(migrations, "former", lambda: broken)
    with pytest.raises(Unavailable, match=r"0084_broken\.sql failed, and none is applied"):
        await migrate(published)
    assert await published.fetch("SELECT * FROM schema_migrations ORDER BY number") == ledger
    assert await published.fetchval("SELECT to_regclass('audit')") is None


async def test_an_edited_former_migration_is_refused(published: Pool) -> None:
    await published.execute("UPDATE schema_migrations SET sha256 = 'another' WHERE number = 2")
    with pytest.raises(Unavailable, match=r"0002_versions\.sql is not the one that was applied"):
        await migrate(published)


async def test_a_former_database_with_a_migration_that_nobody_knows_is_refused(published: Pool) -> None:
    await migrate(published, [*former(), Migration(84, "0084_unknown.sql", "SELECT 1")])
    with pytest.raises(Unavailable, match="it has migration 84"):
        await migrate(published)


async def test_a_migration_that_comes_late_is_refused(web_pool: Pool, web_postgres: str) -> None:
    late, newest = Migration(9001, "9001_late.sql", "SELECT 1"), Migration(9002, "9002_newest.sql", "SELECT 1")
    async with another_database(web_pool, web_postgres, "late") as pool:
        await migrate(pool, [*shipped(), newest])
        with pytest.raises(Unavailable, match=r"9001_late\.sql is missing below 9002"):
            await migrate(pool, [*shipped(), late, newest])


# -- beside others


@pytest.fixture
async def served(web_pool: Pool, web_postgres: str) -> AsyncIterator[Web]:
    """A gateway on a database of its own, which may be changed."""
    async with database.connect(await create_database(web_postgres, "served")) as pool, answering(pool) as web:
        yield web


async def test_a_gateway_goes_on_beside_a_schema_that_only_expands(served: Web) -> None:
    application = await served.application("docker.io/library/a:latest")
    await migrate(served.pool, [*shipped(), EXPANDS])
    assert (await served.push("docker.io/library/a:latest"))[0] == 202
    assert (await served.get("/readyz"))[1]["database"] == "ok"
    assert (await claim(served.pool)) == application
    assert await migrate(served.pool) == []


async def test_a_gateway_that_is_too_old_for_the_schema_claims_nothing_and_says_so(served: Web) -> None:
    await served.application("docker.io/library/a:latest")
    assert (await served.push("docker.io/library/a:latest"))[0] == 202
    await migrate(served.pool, [*shipped(), LATER])
    assert await claim(served.pool) is None
    status, body = await served.get("/readyz")
    assert (status, body["status"]) == (503, "unavailable")
    assert "it has migration 9999. Run a newer gateway" in body["database"]
    status, body = await served.push("docker.io/library/a:latest")
    assert (status, body["error"]["message"]) == (503, (await served.get("/readyz"))[1]["database"])
    assert (await served.get("/healthz"))[0] == 200


async def claim(pool: Pool) -> str | None:
    await pool.execute(
        "INSERT INTO engines (engine_id, name, version, platform) VALUES ('e', 'e', '1', 'p') ON CONFLICT DO NOTHING"
    )
    claimed = await claim_one(pool, "o", "e", lease=15)
    return None if claimed is None else claimed.application_id


async def test_a_migration_waits_for_another_longer_than_a_statement_may_take(
    served: Web, web_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_COMMAND_TIMEOUT", 0.2)
    long = Migration(9998, "9998_long.sql", "-- expands\nSELECT pg_sleep(0.5)")
    async with served.pool.acquire() as other, database.connect(address(web_postgres, "served")) as pool:
        await other.execute("SELECT pg_advisory_lock($1)", LOCK)
        waits = asyncio.create_task(migrate(pool, [*shipped(), long]))
        await asyncio.wait([waits], timeout=0.6)
        assert not waits.done()
        await other.execute("SELECT pg_advisory_unlock($1)", LOCK)
        assert await waits == [long]


async def test_a_migration_gives_way_to_who_serves_and_is_done_once_the_tables_are_free(served: Web) -> None:
    alters = Migration(
        9998,
        "9998_alters.sql",
        "-- expands\nALTER TABLE deployments ADD COLUMN more text; ALTER TABLE applications ADD COLUMN more text",
    )
    async with served.pool.acquire() as connection:
        serving = connection.transaction()
        await serving.start()
        await connection.execute("LOCK TABLE applications IN ROW SHARE MODE")
        waits = asyncio.create_task(migrate(served.pool, [*shipped(), alters]))
        await until_it_waits(connection)
        # It holds deployments and wants applications; who serves holds applications and wants deployments.
        assert await connection.fetchval("SELECT count(*) FROM deployments") == 0
        await serving.commit()
        assert await waits == [alters]


async def until_it_waits(connection: Connection) -> None:
    async def waits() -> bool | None:
        return await connection.fetchval("SELECT true FROM pg_locks WHERE NOT granted") is True or None

    assert await until(waits)


async def test_while_the_schema_expands_every_push_is_taken(served: Web) -> None:
    await served.application("docker.io/library/a:latest")
    tables = await served.pool.fetch("SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'")
    names = [row["name"] for row in tables if row["name"] != "schema_migrations"]
    expanded = [
        Migration(
            9000 + step,
            f"{9000 + step}.sql",
            "-- expands\n" + ";".join(f"ALTER TABLE {one} ADD COLUMN more{step} text" for one in names),
        )
        for step in range(3)
    ]
    ended = asyncio.Event()
    answers: list[int] = []

    async def keep_pushing() -> None:
        while not ended.is_set():
            answers.append((await served.push("docker.io/library/a:latest"))[0])
            answers.append((await served.get("/api/trpc/application.all"))[0])

    pushing = [asyncio.create_task(keep_pushing()) for _ in range(4)]
    for step in range(3):
        await migrate(served.pool, [*shipped(), *expanded[: step + 1]])
        seen = len(answers)
        assert await until(partial(more_than, answers, seen + 20))
    ended.set()
    await asyncio.gather(*pushing)
    assert set(answers) <= {200, 202}


async def more_than(found: list[int], least: int) -> bool | None:
    return len(found) > least or None


async def test_a_database_that_goes_away_is_told_with_a_text(served: Web) -> None:
    ends = Migration(9998, "9998_ends.sql", "SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(Unavailable, match="the database went away during its migration"):
        await migrate(served.pool, [*shipped(), ends])


async def test_a_lock_that_is_never_free_ends_with_what_holds_it(served: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "_DEADLINE", 0.1)
    async with served.pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE applications")
        with pytest.raises(Unavailable, match="its tables were in use"):
            await migrate(served.pool, [*shipped(), EXPANDS])
