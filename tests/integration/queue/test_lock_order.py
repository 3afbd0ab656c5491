"""Requests that want the same rows: they take them in one order, and one that had to make way is done again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest
from prometheus_client import REGISTRY

from gateway.cli.demo.process import until
from gateway.model.errors import TransactionConflict
from gateway.model.reference import Digest
from gateway.store import delivery_log, endpoints, leases
from gateway.store.database import Connection, repeat_on_conflict, transaction
from tests.support.api_client import Web
from tests.support.approving import Asking
from tests.support.distribution_hooks import envelope

_DEADLOCK = asyncpg.DeadlockDetectedError.sqlstate
_LOCK = "SELECT FROM {} WHERE {} = $1 FOR NO KEY UPDATE"


@asynccontextmanager
async def held(web: Web, table: str, column: str, value: str) -> AsyncIterator[Connection]:
    """Hold the lock of a row in a transaction, which leaves it to others to notice a deadlock."""
    async with web.pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL deadlock_timeout = '10min'")
        await connection.execute(_LOCK.format(table, column), value)
        yield connection


async def waiting(web: Web, many: int) -> None:
    """Return when so many connections wait for a lock."""

    async def all_wait() -> bool | None:
        found = await web.pool.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return True if found == many else None

    await until(all_wait)


def deadlocks() -> float:
    return REGISTRY.get_sample_value("gateway_database_refusals_total", {"sqlstate": _DEADLOCK}) or 0.0


async def delete(web: Web, application_id: str) -> int:
    status, _ = await web.post("/api/application.delete", {"applicationId": application_id})
    return status


def start(act: Awaitable[int]) -> "asyncio.Future[int]":
    return asyncio.ensure_future(act)


# -- one order


async def test_a_push_to_a_deploy_token_and_the_deletion_of_its_application_do_not_deadlock(web: Web) -> None:
    before, application = deadlocks(), await web.application("example.com/a:1")
    token = (await web.query("application.one", applicationId=application))["refreshToken"]

    async def push() -> int:
        return (await web.post(f"/api/deploy/{token}", {}))[0]

    async with held(web, "applications", "application_id", application):
        deleted = start(delete(web, application))
        await waiting(web, 1)
        pushed = start(push())
        await waiting(web, 2)
    assert (await deleted, await pushed) == (200, 404)
    assert deadlocks() == before


async def test_a_repeated_push_and_the_deletion_of_its_webhook_do_not_deadlock(web: Web) -> None:
    before = deadlocks()
    body = envelope("r.io/acme/a:1", Digest("sha256:" + "ab" * 32))
    path = await web.endpoint("distribution", "s")
    endpoint = await web.pool.fetchval("SELECT endpoint_id FROM endpoints")

    async def push() -> int:
        return (await web.post(path, body, Authorization="Bearer s"))[0]

    assert await push() == 200  # it deploys nothing, so the same push again is no duplicate
    application = await web.application("r.io/acme/a:1")

    async def remove() -> int:
        return (await web.post("/api/webhook.remove", {"endpointId": endpoint}))[0]

    async with held(web, "applications", "application_id", application):
        pushed = start(push())
        await waiting(web, 1)
        removed = start(remove())
        await waiting(web, 2)
    assert (await pushed, await removed) == (202, 200)
    assert deadlocks() == before


async def test_an_answer_and_the_removal_of_the_gate_that_asks_do_not_deadlock(web: Web) -> None:
    before = deadlocks()
    await web.mutate("application.create", name="app", applicationId="app", dockerImage="acme/web:v1")
    gate = await web.mutate("gate.create", applicationId="app", kind="approval", rule={"askerMayApprove": True})
    await web.mutate("application.deploy", applicationId="app")
    asking = Asking(web.pool, gate["rule"], gate_id=gate["gateId"])
    candidate = await asking.claim()
    await asking.decide(candidate)
    approval, deployment = await asking.open_id(), candidate.deployment.deployment_id

    async def post(procedure: str, **given: str) -> int:
        return (await web.post(f"/api/{procedure}", given))[0]

    async with held(web, "deployments", "deployment_id", deployment):
        approved = start(post("approval.approve", approvalId=approval))
        await waiting(web, 1)
        removed = start(post("gate.remove", gateId=gate["gateId"]))
        await waiting(web, 2)
    assert (await approved, await removed) == (200, 200)
    assert deadlocks() == before


async def test_deletions_of_applications_that_share_deliveries_do_not_deadlock(web: Web) -> None:
    before, one, other = deadlocks(), *[await web.application("example.com/a:1") for _ in range(2)]
    shared = ["1", "2", "3"]
    async with web.pool.acquire() as connection:
        await connection.executemany(
            "INSERT INTO deliveries (delivery_id, source, body, verdict) VALUES ($1, 'generic', '', 'queued')",
            [(delivery,) for delivery in shared],
        )
        for application, order in ((one, ["1", "3", "2"]), (other, ["2", "3", "1"])):
            for delivery in order:
                await connection.execute(
                    """
                    WITH made AS (
                        INSERT INTO deployments (application_id, kind, status, title, forced, finished_at)
                        VALUES ($1, 'stop', 'superseded', '', false, now()) RETURNING deployment_id
                    )
                    INSERT INTO deployment_deliveries SELECT deployment_id, $2 FROM made
                    """,
                    application,
                    delivery,
                )
    async with held(web, "deliveries", "delivery_id", "3"):
        deletions = [start(delete(web, application)) for application in (one, other)]
        await waiting(web, 2)
    assert await asyncio.gather(*deletions) == [200, 200]
    assert deadlocks() == before
    assert await web.pool.fetchval("SELECT array_agg(ended::text) FROM deliveries") == ["{superseded}"] * 3


async def test_counting_refused_requests_and_the_deletion_of_their_webhook_do_not_deadlock(web: Web) -> None:
    before = deadlocks()
    await web.endpoint("generic", "s")
    endpoint = await web.pool.fetchval("SELECT endpoint_id FROM endpoints")
    known, new = (delivery_log.Refusals(endpoint, "generic", reason, times=1) for reason in ("known", "new"))

    async def count() -> int:
        async with transaction(web.pool) as connection:
            await delivery_log.add_refusals(connection, [known, new])
        return 0

    async def remove() -> int:
        async with transaction(web.pool) as connection:
            await endpoints.delete_endpoint(connection, endpoint)
        return 0

    async with web.pool.acquire() as connection:
        await delivery_log.add_refusals(connection, [known])
    async with held(web, "deliveries", "refusal", "known"):
        counted = start(count())
        await waiting(web, 1)
        removed = start(remove())
        await waiting(web, 2)
    await asyncio.gather(counted, removed)
    assert deadlocks() == before


async def test_what_waits_for_a_silent_engine_is_marked_without_waiting_for_a_push(web: Web) -> None:
    application = await web.application("example.com/a:1")
    async with web.pool.acquire() as connection:
        await connection.execute(
            "INSERT INTO engines (engine_id, name, version, platform, last_seen_at)"
            " VALUES ('lost', 'lost', '', '', now() - interval '1 day') ON CONFLICT DO NOTHING"
        )
        await connection.execute("UPDATE applications SET engine_id = 'lost'")
    await web.mutate("application.deploy", applicationId=application)
    reason = "SELECT reason_code FROM deployments"
    async with held(web, "deployments", "application_id", application), web.pool.acquire() as connection:
        await leases.mark_stranded(connection, timedelta(hours=1))
        assert await connection.fetchval(reason) is None
    async with web.pool.acquire() as connection:
        await leases.mark_stranded(connection, timedelta(hours=1))
        assert await connection.fetchval(reason) == "engine_unreachable"


# -- once more


async def test_a_deletion_that_the_database_ended_for_a_deadlock_is_done_again(web: Web) -> None:
    before, application = deadlocks(), await web.application("example.com/a:1")
    await web.mutate("domain.create", applicationId=application, host="a.example.com")
    async with held(web, "subscriptions", "application_id", application) as other:
        async with held(web, "domains", "application_id", application):
            deleted = start(delete(web, application))
            await waiting(web, 1)
            wants = asyncio.ensure_future(other.execute(_LOCK.format("applications", "application_id"), application))
            await waiting(web, 2)
        await wants  # the deletion has closed the circle, and had to make way
    assert await deleted == 200
    assert deadlocks() == before + 1
    assert await web.count("applications") == 0


async def test_a_push_that_the_database_ended_for_a_deadlock_is_stored_at_the_next_try(web: Web) -> None:
    before = deadlocks()
    first, second, third = sorted([await web.application("r.io/acme/a:1") for _ in range(3)])

    async def push() -> int:
        return (await web.push("r.io/acme/a:1"))[0]

    async with held(web, "applications", "application_id", third) as other:
        async with held(web, "applications", "application_id", second):
            pushed = start(push())
            await waiting(web, 1)
            wants = asyncio.ensure_future(other.execute(_LOCK.format("applications", "application_id"), first))
            await waiting(web, 2)
        await wants
    assert await pushed == 202
    assert deadlocks() == before + 1
    assert await web.count("deployments") == 3
    assert await web.count("deliveries") == 1


async def test_nothing_is_repeated_after_a_commit(web: Web) -> None:
    async def act() -> None:
        async with transaction(web.pool) as connection:
            await connection.execute("INSERT INTO projects (name) VALUES ($1)", str(uuid4()))
        raise TransactionConflict("another one was first")

    with pytest.raises(TransactionConflict):
        await repeat_on_conflict(act)
    assert await web.count("projects") == 1


async def test_what_always_conflicts_is_told_after_a_few_tries(web: Web) -> None:
    tries = 0

    async def act() -> None:
        nonlocal tries
        tries += 1
        async with transaction(web.pool) as connection:
            await connection.execute("DO $$ BEGIN RAISE 'no' USING ERRCODE = '40001'; END $$")

    with pytest.raises(TransactionConflict, match="the database is busy with the same rows: try again"):
        await repeat_on_conflict(act)
    assert tries == 4
