"""The terms of the model in docs/scaling.md, each measured alone: what one of each thing costs."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from http import HTTPStatus
from statistics import median

import asyncpg

from gateway.model.reference import Digest
from gateway.store import engines, leases
from gateway.store.database import Connection
from gateway.store.engines import Seen
from tests.scale.engines import digest_of
from tests.scale.measure import used, used_by_family
from tests.scale.world import World
from tests.support.distribution_hooks import envelope

_ROUNDS = 5
_AGAIN = 0.1  # seconds
_PUSHES, _SENDERS = 2000, 32
_COMMITS, _CONNECTIONS = 200, 16


async def measure(world: World) -> dict[str, float]:
    """Return each term: milliseconds or microseconds of one, as its name says."""
    terms = await _deliveries(world)
    for queued in (100, 1000, 10_000):
        terms |= await _undone(world.database, lambda queued=queued: _claims(world.database, queued))  # type: ignore[misc]
    terms |= await _undone(world.database, lambda: _heartbeat(world.database))
    terms |= await _undone(world.database, lambda: _seen(world.database))
    return terms | await _notify(world.url)


async def _undone(database: Connection, act: Callable[[], Awaitable[dict[str, float]]]) -> dict[str, float]:
    """Run `act` in a transaction that is rolled back."""
    change = database.transaction()
    await change.start()
    try:
        return await act()
    finally:
        await change.rollback()


async def _median_ms(act: Callable[[], Awaitable[object]]) -> float:
    took = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        await act()
        took.append(1000 * (time.perf_counter() - began))
    return median(took)


async def _deliveries(world: World) -> dict[str, float]:
    """Pushes to one gateway that match nothing: what accepting costs without a rollout."""
    assert world.hook is not None
    gateway = world.gateways[0]
    before, database, began = used(gateway.pid).seconds, used_by_family(world.postgres).seconds, time.monotonic()
    bodies = iter(range(_PUSHES))

    async def send() -> None:
        assert world.hook is not None
        for number in bodies:
            digest = Digest(digest_of("none", number))
            body = envelope(f"{world.registry}/none-{number}:latest", digest)
            while (await world.hook.post(body, world.session))[0] != HTTPStatus.OK:  # noqa: ASYNC110 - it is elsewhere
                await asyncio.sleep(_AGAIN)  # as its registry does

    await asyncio.gather(*(send() for _ in range(_SENDERS)))
    took = time.monotonic() - began
    size = await world.database.fetchval(
        "SELECT (pg_total_relation_size('deliveries') + pg_total_relation_size('delivery_keys'))::float8"
        " / greatest(1, (SELECT count(*) FROM deliveries))"
    )
    return {
        "deliveries a second, one gateway": _PUSHES / took,
        "delivery, ms of a gateway": 1000 * (used(gateway.pid).seconds - before) / _PUSHES,
        "delivery, ms of PostgreSQL": 1000 * (used_by_family(world.postgres).seconds - database) / _PUSHES,
        "delivery, bytes of the inbox": size,
    }


async def _queue(database: Connection, number: int) -> list[str]:
    """Queue a deployment for each of so many applications, however many there are."""
    await database.execute("DELETE FROM deployments WHERE status IN ('queued', 'running')")
    await database.execute("INSERT INTO engines VALUES ('e', 'e', '1', 'p') ON CONFLICT DO NOTHING")
    await database.execute(
        """
        INSERT INTO applications (application_id, name, app_name, docker_image, environment_id)
        SELECT 'term-' || n, 'term', 'term-' || n, 'term', (SELECT environment_id FROM environments LIMIT 1)
          FROM generate_series(1, $1) AS n
            ON CONFLICT DO NOTHING
        """,
        number,
    )
    rows = await database.fetch(
        """
        INSERT INTO deployments (application_id, kind, forced, title, reference)
        SELECT 'term-' || n, 'deploy', false, '', 'term' FROM generate_series(1, $1) AS n
        RETURNING deployment_id
        """,
        number,
    )
    await database.execute("ANALYZE deployments")
    return [row["deployment_id"] for row in rows]


async def _claims(database: Connection, queued: int) -> dict[str, float]:
    ids = iter(await _queue(database, queued))
    look = await _median_ms(lambda: leases.select_due(database, "o", limit=500))
    batch = [next(ids) for _ in range(64)]
    began = time.perf_counter()
    await leases.claim_deployments(database, "o", dict.fromkeys(batch, "e"), timedelta(seconds=15))
    claim = 1000 * (time.perf_counter() - began)
    return {
        f"looking at {queued} due deployments, ms": look,
        f"claim in a batch of 64 of {queued}, ms": claim / 64,
    }


async def _heartbeat(database: Connection) -> dict[str, float]:
    ids = await _queue(database, 1000)
    await leases.claim_deployments(database, "o", dict.fromkeys(ids, "e"), timedelta(seconds=15))
    took = await _median_ms(lambda: leases.renew_leases(database, "o", dict.fromkeys(ids, 1)))
    return {"heartbeat of 1000 leases, ms": took}


async def _seen(database: Connection) -> dict[str, float]:
    def host(number: int) -> Seen:
        name = f"term-{number}"
        return Seen(name, None, name, "1", "linux/amd64", name, swarm_manager=False, recovered=False)

    terms = {}
    for number in (1, 100):
        hosts = [host(one) for one in range(number)]
        terms[f"recording that {number} engines answer, ms each"] = (
            await _median_ms(lambda hosts=hosts: engines.upsert_seen(database, hosts)) / number  # type: ignore[misc]
        )
    return terms


async def _notify(url: str) -> dict[str, float]:
    """Commits a second on several connections, without and with a notification: it takes a lock of the whole server."""
    connections = [await asyncpg.connect(url) for _ in range(_CONNECTIONS)]
    try:
        await connections[0].execute("CREATE UNLOGGED TABLE IF NOT EXISTS scale_notified (n integer)")
        rates: dict[str, list[float]] = {"": [], "; NOTIFY scale": []}
        for _ in range(_ROUNDS):
            for extra, seen in rates.items():

                async def commit(connection: Connection, extra: str = extra) -> None:
                    for number in range(_COMMITS):
                        await connection.execute(f"BEGIN; INSERT INTO scale_notified VALUES ({number}){extra}; COMMIT")

                began = time.perf_counter()
                await asyncio.gather(*(commit(one) for one in connections))
                seen.append(_COMMITS * _CONNECTIONS / (time.perf_counter() - began))
        await connections[0].execute("DROP TABLE scale_notified")
    finally:
        await asyncio.gather(*(one.close() for one in connections))
    return {
        f"commits a second on {_CONNECTIONS} connections": median(rates[""]),
        "the same with NOTIFY": median(rates["; NOTIFY scale"]),
    }
