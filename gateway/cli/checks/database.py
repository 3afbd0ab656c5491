"""The database: whether it answers, its version, its schema, its clock, and whether it takes writes."""

import time
from collections.abc import Sequence

from gateway.cli.checks.clock import compare
from gateway.cli.checks.finding import Finding, failed, ok, warning
from gateway.config import Settings
from gateway.model.errors import GatewayError, Unavailable
from gateway.store import readiness
from gateway.store.database import Pool
from gateway.store.migrate import Standing, standing
from gateway.store.postgres_programs import find_programs
from gateway.store.storage import open_pool

_OLDEST = 15  # the oldest major version that the tests have run with
_SET_URL = "Correct GATEWAY_DATABASE_URL, or start PostgreSQL; docs/database.md says more."


async def check_database(settings: Settings, *, running: bool) -> Sequence[Finding]:
    """Open the database without migrating it. An embedded one that was never started is not created."""
    directory = settings.data_dir / "postgres"
    if settings.database_url is None and not directory.exists():
        return [_embedded_is_possible(settings)]
    try:
        one = settings.model_copy(update={"database_connections": 2})
        async with open_pool(one, name="gateway doctor") as pool:
            return await _ask(pool, settings, running=running)
    except GatewayError as error:
        embedded = "gateway serve says more in its log; docs/database.md tells who may start it."
        return [failed("database", str(error), embedded if settings.database_url is None else _SET_URL)]


def _embedded_is_possible(settings: Settings) -> Finding:
    try:
        find_programs(settings.data_dir / "postgres")
    except Unavailable as error:
        return failed("database", str(error), "Then run: gateway doctor")
    return ok("database", f"the embedded PostgreSQL is created in {settings.data_dir} at the first start")


async def _ask(pool: Pool, settings: Settings, *, running: bool) -> Sequence[Finding]:
    async with pool.acquire() as connection:
        number = int(await connection.fetchval("SHOW server_version_num"))
        most = int(await connection.fetchval("SHOW max_connections"))
        before = time.time()
        theirs = float(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())"))
        moment = (before + time.time()) / 2
    where = "embedded" if settings.database_url is None else "of GATEWAY_DATABASE_URL"
    message = f"PostgreSQL {number // 10_000}.{number % 10_000}, {where}"
    found = [ok("database", message)]
    if number // 10_000 < _OLDEST:
        found = [warning("database", message, f"Update it: {_OLDEST} is the oldest that is tested.")]
    elif settings.database_connections >= most:
        remedy = "Lower GATEWAY_DATABASE_CONNECTIONS, or raise max_connections of PostgreSQL."
        counted = f"{message}: it takes {most} connections, and the gateway may want {settings.database_connections}"
        found = [warning("database", counted, remedy)]
    return [*found, await _schema(pool, running=running), compare("clock of the database", theirs, moment)]


async def _schema(pool: Pool, *, running: bool) -> Finding:
    name = "schema"
    try:
        state, missing = await standing(pool)
    except Unavailable as error:
        return failed(name, str(error), "docs/upgrade.md says how versions follow each other.")
    if state is Standing.EMPTY:
        return ok(name, "the database is empty, and gets its schema at the first start")
    if state is Standing.OLDER:
        remedy = "Start this version's gateway, which migrates it, or run: gateway migrate"
        of = "the gateway that runs may be older than this command line" if running else "nothing has migrated it yet"
        return warning(name, f"{len(missing)} migrations are missing: {of}", remedy)
    try:
        await readiness.probe_write(pool)
    except Unavailable as error:
        return failed(name, f"it is current, but takes no writes: {error}", "See the log and the disk of PostgreSQL.")
    return ok(name, "it is current, and takes writes")
