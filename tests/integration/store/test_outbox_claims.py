"""Claims of the outbox: each application's turn comes, in order, at a cost that does not grow with what waits."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from gateway.store import outbox_attempts, outbox_claims, outbox_retention
from gateway.store.database import Connection, connect
from gateway.store.encryption import Vault
from gateway.store.outbox_claims import Claims
from tests.support.databases import create_database

VAULT = Vault(b"k" * 32)
PER_ALERT = 16


@pytest.fixture
async def connection(web_postgres: str) -> AsyncIterator[Connection]:
    url = await create_database(web_postgres, "outbox_claims")
    async with connect(url, size=1) as pool, pool.acquire() as one:
        for alert_id in ("well", "other"):
            await one.execute(
                "INSERT INTO alerts (alert_id, name, receiver, target, events, address)"
                " VALUES ($1, $1, 'webhook', '', '{failed}', $2)",
                alert_id,
                VAULT.encrypt('{"url": "http://nowhere"}', f"alerts:{alert_id}:address"),
            )
        yield one


async def fill(connection: Connection, alert_id: str, *, applications: int, each: int = 1) -> None:
    await connection.execute(
        """
        WITH events AS (
            INSERT INTO outbox_events (key, application_id, kinds, content)
            SELECT $1::text || n, 'app-' || n % $2::int, '{failed}', '{}' FROM generate_series(1, $2::int * $3::int) n
            RETURNING event_id, application_id
        )
        INSERT INTO outbox_deliveries (event_id, alert_id, application_id)
        SELECT event_id, $1, application_id FROM events
        """,
        alert_id,
        applications,
        each,
    )


async def claim(connection: Connection, former: Claims, most: int = 64, common: int | None = None) -> Claims:
    return await outbox_claims.claim_deliveries(
        connection,
        VAULT,
        "me",
        lease=timedelta(minutes=1),
        most=most,
        common=most if common is None else common,
        per_alert=PER_ALERT,
        settings=[],
        after=former.after,
    )


async def finish(connection: Connection, claims: Claims) -> None:
    for one in claims.deliveries:
        await outbox_attempts.finish_delivery(connection, one, delivered=True, status_code=200, error=None, progress={})


async def scans(connection: Connection) -> int:
    """Return how often the index of what waits was searched so far."""
    await connection.execute("SELECT pg_stat_force_next_flush()")
    return int(
        await connection.fetchval("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'outbox_waiting'")
    )


async def test_the_turn_of_each_application_comes_and_its_events_come_in_order(connection: Connection) -> None:
    await fill(connection, "well", applications=300, each=2)
    await fill(connection, "other", applications=1)
    claims, numbers = Claims(), dict[tuple[str, str], list[str]]()
    for _ in range(100):
        claims = await claim(connection, claims, most=20)
        assert len([one for one in claims.deliveries if one.alert.alert_id == "well"]) <= PER_ALERT
        for one in claims.deliveries:
            numbers.setdefault((one.alert.alert_id, one.event.application_id), []).append(one.delivery_id)
        await finish(connection, claims)
    assert len(numbers) == 301
    wanted = await connection.fetch(
        "SELECT alert_id, application_id, array_agg(delivery_id ORDER BY number) AS all FROM outbox_deliveries"
        " GROUP BY 1, 2"
    )
    assert {(row["alert_id"], row["application_id"]): row["all"] for row in wanted} == numbers


async def test_a_claim_goes_on_where_the_former_ended_as_long_as_its_receiver_is_there(connection: Connection) -> None:
    await fill(connection, "well", applications=40)
    first = await claim(connection, Claims())
    assert first.after.keys() == {"well"}
    full = await claim(connection, first)
    assert (full.deliveries, full.after) == ([], first.after)
    await finish(connection, first)
    second = await claim(connection, full)
    named = [{one.event.application_id for one in claims.deliveries} for claims in (first, second)]
    assert (len(named[0]), len(named[1]), max(named[0]) < min(named[1])) == (PER_ALERT, PER_ALERT, True)
    await connection.execute("DELETE FROM alerts")
    assert (await claim(connection, second)).after == {}


async def test_what_is_due_behind_much_that_is_postponed_is_reached(connection: Connection) -> None:
    await fill(connection, "well", applications=600)
    await connection.execute(
        "UPDATE outbox_deliveries SET next_attempt_at = now() + interval '1 hour' WHERE application_id <> 'app-99'"
    )  # the last one, as they are ordered
    claims, looks = Claims(), 1
    while (claims := await claim(connection, claims)).more:
        assert not claims.deliveries
        looks += 1
    assert (looks, len(claims.deliveries), claims.after) == (3, 1, {})


async def test_places_are_left_for_the_first_delivery_of_a_receiver_that_is_well(connection: Connection) -> None:
    for alert_id in ("well", "other"):
        await fill(connection, alert_id, applications=6)

    async def claimed(common: int) -> list[str]:
        claims = await claim(connection, Claims(), most=20, common=common)
        return sorted(one.alert.alert_id for one in claims.deliveries)

    assert await claimed(3) == ["other", "other", "well"]
    assert await claimed(0) == []  # both have one already
    await connection.execute("UPDATE outbox_deliveries SET lease_until = NULL")
    await connection.execute("UPDATE alerts SET failures = 1 WHERE alert_id = 'other'")
    assert await claimed(-1) == ["well"]
    assert await claimed(20) == ["other", *["well"] * 5]


async def test_a_clock_that_was_set_back_delays_no_message_for_long(connection: Connection) -> None:
    await fill(connection, "well", applications=3)
    day = "interval '1 day'"
    for change in (
        f"next_attempt_at = now() + {day}, queued_at = queued_at + {day}",  # written while it was ahead
        f"next_attempt_at = now() + {day}, queued_at = queued_at - interval '1 s'",  # postponed while it was ahead
        f"lease_until = now() + {day}",
    ):
        await connection.execute(
            f"UPDATE outbox_deliveries SET {change} WHERE delivery_id ="
            " (SELECT min(delivery_id) FROM outbox_deliveries WHERE next_attempt_at < now() AND lease_until IS NULL)"
        )
    assert (await claim(connection, Claims())).deliveries == []
    await outbox_retention.shorten_waits(connection, timedelta(minutes=1), timedelta(hours=6))
    assert len((await claim(connection, Claims())).deliveries) == 1
    rows = await connection.fetch(
        "SELECT greatest(next_attempt_at, lease_until) - now() AS wait FROM outbox_deliveries ORDER BY 1"
    )
    longest = [timedelta(seconds=seconds) for seconds in (60, 60, 6 * 3600)]
    assert all(row["wait"] <= most for row, most in zip(rows, longest, strict=True)), rows
    assert await connection.fetchval("SELECT bool_and(queued_at <= clock_timestamp()) FROM outbox_deliveries")


async def test_a_claim_costs_the_same_however_much_waits(connection: Connection) -> None:
    costs = []
    for applications in (300, 1200):
        await connection.execute("DELETE FROM outbox_events")
        await fill(connection, "well", applications=applications)
        # Nothing is looked at for a receiver that is left alone.
        await connection.execute("UPDATE alerts SET paused_until = now() + interval '1 hour' WHERE alert_id = 'other'")
        await fill(connection, "other", applications=applications)
        await connection.execute("ANALYZE outbox_deliveries, outbox_events, alerts")
        before = await scans(connection)
        assert len((await claim(connection, Claims())).deliveries) == PER_ALERT
        costs.append(await scans(connection) - before)
    assert costs[0] == costs[1] <= 2 * 256 + 2, costs
