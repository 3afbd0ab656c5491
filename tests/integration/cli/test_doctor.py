"""`gateway doctor` beside a real database, and a gateway that runs."""

from base64 import b64encode
from contextlib import closing
from functools import partial
from pathlib import Path

from gateway.cli.checks import database, reach
from gateway.cli.checks.finding import Finding, Status, run
from gateway.client.address import Address
from gateway.client.http import HttpGateway
from gateway.config import Settings
from gateway.store.database import Pool
from tests.support.api_client import Web
from tests.support.databases import address, another_database

_KEY = b64encode(b"k" * 32).decode()


async def statuses(url: str, directory: Path) -> dict[str, tuple[Status, str]]:
    environ = {"GATEWAY_DATABASE_URL": url, "GATEWAY_MASTER_KEY": _KEY, "GATEWAY_DATA_DIR": str(directory)}
    found = await database.check_database(Settings.from_environ(environ), running=False)
    return {one.name: (one.status, one.text) for one in found}


async def test_the_schema_is_compared_and_never_migrated(web_pool: Pool, web_postgres: str, tmp_path: Path) -> None:
    current = await statuses(web_postgres, tmp_path)
    assert {status for status, _ in current.values()} == {Status.OK}, current
    async with another_database(web_pool, web_postgres, "doctor") as empty:
        url = address(web_postgres, "doctor")
        assert "empty" in (await statuses(url, tmp_path))["schema"][1]
        assert await empty.fetchval("SELECT to_regclass('schema_migrations')") is None
        async with web_pool.acquire() as connection:
            first = await connection.fetchval("SELECT sha256 FROM schema_migrations WHERE number = 1")
        await empty.execute("CREATE TABLE schema_migrations (number integer, sha256 text, expands boolean)")
        await empty.execute("INSERT INTO schema_migrations VALUES (1, $1, false)", first)
        status, text = (await statuses(url, tmp_path))["schema"]
        assert (status, "gateway migrate" in text) == (Status.WARNING, True)
        await empty.execute("INSERT INTO schema_migrations VALUES (9999, 'x', false)")
        assert (await statuses(url, tmp_path))["schema"][0] is Status.FAILED


async def test_a_gateway_that_runs_says_how_it_is_and_a_wrong_key_fails(web: Web) -> None:
    url = str(web.client.make_url("/"))
    accepted = await asked(url, web.key)
    assert accepted[0].status is Status.OK
    assert [one.status for one in accepted if one.name.startswith("engine ")] == [Status.FAILED]
    for place, key in ((url, "wrong"), ("http://127.0.0.1:1", web.key)):
        assert [one.status for one in await asked(place, key)] == [Status.FAILED]


async def asked(url: str, key: str) -> list[Finding]:
    with closing(HttpGateway.at(Address.parse(url), key)) as gateway:
        return list(await run("gateway", partial(reach.check_gateway, gateway)))
