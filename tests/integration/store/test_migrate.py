"""A database of any former version becomes today's with its rows, beside gateways that serve meanwhile."""

import asyncio
import re
from collections.abc import AsyncIterator
from functools import partial
from urllib.parse import urlsplit

import asyncpg
import orjson
import pytest

from gateway.cli.demo.process import until
from gateway.model.errors import Unavailable
from gateway.store import database
from gateway.store import migrate as migrations
from gateway.store.database import Connection, Pool
from gateway.store.migrate import Migration, migrate, shipped
from gateway.worker import claims
from tests.support.api_client import VAULT, Web, another_database, answering

DIGEST = "sha256:" + "ab" * 32
#: from here on each is written for gateways that go on beside it
FIRST_BESIDE_OTHERS = 42
LOCK = 0x6761746577617900
LATER = Migration(9999, "9999_later.sql", "CREATE TABLE later ()")
EXPANDS = Migration(9998, "9998_more.sql", "-- expands\nALTER TABLE applications ADD COLUMN more text")


def ran(deployment_id: str, **more: object) -> bytes:
    text = orjson.dumps({"environment": "A=1", "configuration": {}, **more}).decode()
    return VAULT.seal(text, f"deployments:{deployment_id}:ran")


def sealed(text: str, place: str) -> str:
    return f"'\\x{VAULT.seal(text, place).hex()}'"


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
async def test_a_database_of_each_former_version_becomes_todays_with_its_rows(
    web_pool: Pool, web_postgres: str
) -> None:
    async with another_database(web_pool, web_postgres, "former") as pool:
        await pool.close()
    for number in range(1, len(shipped()) + 1):
        async with database.connect(beside(web_postgres, "former"), size=2) as pool:
            (applied,) = await migrate(pool, shipped()[:number])
            await fill(pool, applied.number)
        await web_pool.execute("DROP DATABASE IF EXISTS copy")
        await until(partial(copied, web_pool))
        async with database.connect(beside(web_postgres, "copy")) as pool:
            await migrate(pool)
            async with answering(pool, emptied=False) as web:
                await all_is_there(web, applied)


def beside(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{name}").geturl()


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
    assert status == (404 if since.number == 1 else 200), (since.name, answer)


def test_each_migration_leaves_in_place_what_a_former_gateway_uses() -> None:
    """Else the former one fails beside it; what has to go goes a release later, in one without `-- expands`."""
    breaks = re.compile(
        r"\b(DROP\s+(TABLE|COLUMN|TYPE)|RENAME|SET\s+NOT\s+NULL|ALTER\s+COLUMN\s+\w+\s+TYPE)\b"
        r"|ADD\s+COLUMN\s+(?![^,;]*\bDEFAULT\b)[^,;]*\bNOT\s+NULL\b",
        re.IGNORECASE,
    )
    for migration in shipped():
        if migration.number >= FIRST_BESIDE_OTHERS or migration.expands:
            plain = re.sub(r"--[^\n]*", "", migration.sql)
            assert breaks.findall(plain) == [], migration.name


# -- beside others


@pytest.fixture
async def served(web_pool: Pool, web_postgres: str) -> AsyncIterator[Web]:
    """A gateway on a database of its own, which may be changed."""
    async with another_database(web_pool, web_postgres, "served") as pool:
        await migrate(pool)
        async with answering(pool) as web:
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
    claimed = await claims.claim(pool, owner="o", engine_id="e", server_ids=[None], held=[], lease=15)
    return None if claimed is None else claimed.application_id


async def test_a_migration_waits_for_another_longer_than_a_statement_may_take(
    served: Web, web_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_COMMAND_TIMEOUT", 0.2)
    long = Migration(9998, "9998_long.sql", "-- expands\nSELECT pg_sleep(0.5)")
    async with served.pool.acquire() as other, database.connect(beside(web_postgres, "served")) as pool:
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
    monkeypatch.setattr(migrations, "_PATIENCE", 0.1)
    async with served.pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE applications")
        with pytest.raises(Unavailable, match="its tables were in use"):
            await migrate(served.pool, [*shipped(), EXPANDS])
