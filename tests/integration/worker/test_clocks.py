"""Tests that a database clock that steps back delays nothing beyond its limit, and keeps the order."""

from datetime import timedelta

import pytest

from gateway.docker.engine import containers
from gateway.model.deployments import Deployment, Kind
from gateway.model.errors import Code, Postponed
from gateway.store import deployments, leases, poll_targets, watches
from gateway.store.rollout_journal import PostgresJournal
from gateway.worker import retry
from tests.integration.store.test_leases import claim, first
from tests.support.api_client import VAULT, Web

__all__ = ["first"]  # a fixture


async def step_back(web: Web, column: str) -> None:
    """Make a time of the deployments look as it does once the clock has stepped back by an hour."""
    async with web.pool.acquire() as connection:
        await connection.execute(f"UPDATE deployments SET {column} = {column} + interval '1 hour'")


async def test_a_lease_never_exceeds_its_length(web: Web, first: Deployment) -> None:
    await step_back(web, "lease_until")
    assert await claim(web, "second", lease=9) is None
    async with web.pool.acquire() as connection:
        assert await leases.select_overlong(connection)
        await leases.shorten_leases(connection)
        assert not await leases.select_overlong(connection)
    again = await claim(web, "second", lease=9)
    assert again is not None
    assert again.deployment_id == first.deployment_id


async def test_a_monitor_window_never_exceeds_its_length(web: Web, first: Deployment) -> None:
    async with web.pool.acquire() as connection:
        await watches.insert_watch(connection, first, "an id", 0, timedelta(seconds=60))
        assert not await leases.select_overlong(connection)
        await connection.execute("UPDATE watches SET until = until + interval '1 hour'")
        assert await leases.select_overlong(connection)
        await watches.shorten_watches(connection)
        assert not await leases.select_overlong(connection)
        left = await connection.fetchval("SELECT until - now() FROM watches")
        assert left <= timedelta(seconds=60)
        await connection.execute("UPDATE watches SET until = until - interval '30 seconds'")
        await watches.shorten_watches(connection)
        assert await connection.fetchval("SELECT until - now() FROM watches") <= timedelta(seconds=30)


async def test_a_retry_never_waits_longer_than_its_delay(web: Web, first: Deployment) -> None:
    postponed = Postponed(Code.REGISTRY_UNREACHABLE, "it does not answer", retry_after=600)
    await retry.postpone(web.pool, first, PostgresJournal(web.pool, VAULT, first), postponed, deadline=9)
    assert await claim(web, "second", lease=9) is None
    await step_back(web, "next_attempt_at")
    assert await claim(web, "second", lease=9) is not None


async def test_a_later_request_is_newer_despite_the_clock(web: Web, first: Deployment) -> None:
    await step_back(web, "created_at")
    await web.mutate("application.redeploy", applicationId="app")
    async with web.pool.acquire() as connection:
        found = await deployments.select_deployments_of(connection, ["app"])
    assert [one.kind for one in found] == [Kind.REDEPLOY, first.kind]


async def test_a_poll_is_never_delayed_beyond_its_interval(web: Web) -> None:
    async with web.pool.acquire() as connection:
        await connection.execute("DELETE FROM looks")
        await connection.execute(
            "INSERT INTO looks (repository, tag, domain, seconds, next_at)"
            " VALUES ('r.example/a', 'latest', 'r.example', 60, now() + interval '59 seconds'),"
            " ('s.example/b', 'latest', 's.example', 60, now() + interval '1 hour')"
        )
        assert [str(look.repository) for look in await poll_targets.claim_poll_targets(connection, [])] == [
            "s.example/b"
        ]
        await connection.execute("DELETE FROM looks")


async def test_an_unsigned_body_is_a_duplicate_for_ten_minutes_at_most(web: Web) -> None:
    path, bearer = await web.endpoint("generic", "s"), {"Authorization": "Bearer s"}
    receipts = [(await web.post(path, {"image": "acme/web:1"}, **bearer))[1] for _ in range(2)]
    assert receipts[1]["duplicateOf"] == receipts[0]["deliveryId"]
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE delivery_keys SET seen_at = seen_at + interval '1 hour'")
    _, again = await web.post(path, {"image": "acme/web:1"}, **bearer)
    assert again["duplicateOf"] is None


@pytest.mark.parametrize(("attempts", "asked"), [(1025, None), (2**31 - 1, None), (1, 1e300)])
async def test_a_retry_delay_is_bounded_to_hours(
    web: Web, first: Deployment, attempts: int, asked: float | None
) -> None:
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE deployments SET attempts = $1", attempts)
        tried = await deployments.select_deployment(connection, first.deployment_id)
        postponed = Postponed(Code.REGISTRY_UNREACHABLE, "it does not answer", retry_after=asked)
        await retry.postpone(web.pool, tried, PostgresJournal(web.pool, VAULT, first), postponed, deadline=9)
        found = await deployments.select_deployment(connection, first.deployment_id)
    assert found.next_attempt_at - found.requested_at < timedelta(hours=7)


def test_engine_times_are_compared_as_times() -> None:
    earlier, later = "2026-01-01T00:00:00.1Z", "2026-01-01T00:00:00.12Z"
    assert containers.parse_time(earlier) < containers.parse_time(later)
    assert earlier > later
    assert containers.parse_time("2026-01-01T01:00:00.5+01:00") == containers.parse_time(
        "2026-01-01T00:00:00.500000000Z"
    )
    assert containers.parse_time("0001-01-01T00:00:00Z").year == 1
