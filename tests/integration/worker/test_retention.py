"""Tests that pruning bounds what grows, and keeps what serves, is queued, or is a rollback target."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from gateway.config import Settings
from gateway.store import alerts, delivery_log, delivery_log_size, deployment_retention, inbox_parts, outbox_retention
from gateway.store.database import connect, transaction
from gateway.worker.outbox import LONGEST_WAIT, MOST_WAITING
from gateway.worker.retention import prune_deployments, prune_expired, prune_inbox
from tests.integration.api.test_webhooks import dockerhub
from tests.integration.queue.test_deliveries import _list
from tests.integration.queue.test_rollback import created, served
from tests.support.api_client import Web, answering
from tests.support.databases import create_database

OLD = timedelta(days=90)


async def _bound(web: Web, most: int = 1, older_than: timedelta = OLD) -> set[str]:
    """Return what is left."""
    await prune_deployments(web.pool, "app", limit=most, older_than=older_than, details=timedelta(days=30))
    return {row["deployment_id"] for row in await web.pool.fetch("SELECT deployment_id FROM deployments")}


async def _ended(web: Web, count: int, status: str = "failed", **columns: Any) -> list[str]:
    """Add deployments that have ended, each later than the one before; return them."""
    names = "".join(f", {name}" for name in columns)
    values = "".join(f", ${number}" for number in range(3, 3 + len(columns)))
    rows = await web.pool.fetch(
        f"""
        INSERT INTO deployments (application_id, kind, forced, title, reference, status, finished_at{names})
        SELECT 'app', 'deploy', false, '', 'docker.io/acme/web', $2::status, clock_timestamp(){values}
          FROM generate_series(1, $1)
        RETURNING deployment_id
        """,
        count,
        status,
        *columns.values(),
    )
    return [row["deployment_id"] for row in rows]


async def test_the_newest_deployments_are_kept_and_the_others_deleted_with_their_details(web: Web) -> None:
    await created(web)
    ended = await _ended(web, 1200)
    await web.pool.execute(
        "INSERT INTO steps (deployment_id, epoch, number, step, started_at)"
        " SELECT deployment_id, 1, 0, 'pull', now() FROM deployments"
    )
    assert await _bound(web, most=3) == set(ended[-3:])
    assert await web.count("steps") == 3


async def test_the_latest_old_deployment_is_kept(web: Web) -> None:
    await created(web)
    _, telling = await _ended(web, 2)
    await _ended(web, 2, "superseded")
    await web.pool.execute("UPDATE deployments SET created_at = created_at - interval '91 days'")
    assert await _bound(web, most=100) == {telling}


async def test_the_serving_deployment_and_its_rollback_target_are_kept(web: Web) -> None:
    await created(web)
    gone, before, serving = [await served(web, number) for number in range(3)]
    await web.pool.execute("UPDATE applications SET configuration = '{\"kept\": 0}'")
    await web.pool.execute("UPDATE deployments SET spec_hash = 's'")
    ended = await _ended(web, 5)
    left = await _bound(web)
    assert {before, serving, ended[-1]} <= left
    assert left <= {gone, before, serving, ended[-1]}
    await web.mutate("application.rollback", applicationId="app")


async def test_a_rollback_target_before_many_redeploys_is_kept(web: Web) -> None:
    await created(web)
    before = await served(web, 0)
    await web.pool.execute("UPDATE deployments SET spec_hash = 's'")
    again = [await served(web, 1) for _ in range(10)]
    await web.pool.execute("UPDATE deployments SET spec_hash = 's'")
    left = await _bound(web)
    assert before in left
    assert again[-1] in left
    assert len(left) <= 4


async def test_a_serving_rollback_is_kept_with_its_target(web: Web) -> None:
    await created(web)
    versions = [await served(web, number) for number in range(8)]
    (back,) = await _ended(web, 1, "succeeded", replaced=True)
    await web.pool.execute(
        "UPDATE deployments SET kind = 'rollback', rolls_back_to = $2 WHERE deployment_id = $1", back, versions[2]
    )
    await _ended(web, 4)
    left = await _bound(web)
    # What serves, what it went back to, and what was before that.
    assert {back, versions[2], versions[1]} <= left


async def test_queued_running_monitored_and_swapping_deployments_are_kept_with_successors(web: Web) -> None:
    await created(web)
    watched, swapping, successor = await _ended(web, 3)
    await web.pool.execute(
        "UPDATE deployments SET status = 'superseded', superseded_by = $2 WHERE deployment_id = $1", swapping, successor
    )
    await web.pool.execute(
        "INSERT INTO watches (application_id, deployment_id, object_id, restarts, until)"
        " VALUES ('app', $1, 'c', 0, now() + interval '1 hour')",
        watched,
    )
    await web.pool.execute(
        "INSERT INTO swaps (application_id, deployment_id, serving_name, new) VALUES ('app', $1, 'web', 'c')", swapping
    )
    await web.mutate("application.deploy", applicationId="app")
    (waits,) = [row["id"] for row in await web.query("deployment.queueList")]
    ended = await _ended(web, 5)
    assert await _bound(web) == {watched, swapping, successor, waits, ended[-1]}


async def test_a_chain_of_superseded_deployments_is_deleted_as_a_whole(web: Web) -> None:
    await created(web)
    chain = await _ended(web, 700, "superseded")
    await web.pool.execute(
        """
        UPDATE deployments d SET superseded_by = next.deployment_id
          FROM unnest($1::text[], $2::text[]) AS next (former, deployment_id) WHERE d.deployment_id = next.former
        """,
        chain[:-1],
        chain[1:],
    )
    (last,) = await _ended(web, 1)
    assert await _bound(web) == {last}


async def test_steps_and_logs_are_deleted_before_their_deployments(web: Web) -> None:
    await created(web)
    old, young = await _ended(web, 2, log="boom")
    await web.pool.execute(
        "INSERT INTO steps (deployment_id, epoch, number, step, started_at)"
        " SELECT deployment_id, 1, 0, 'pull', now() FROM deployments"
    )
    await web.pool.execute(
        "UPDATE deployments SET finished_at = now() - interval '31 days' WHERE deployment_id = $1", old
    )
    assert await _bound(web, most=10) == {old, young}
    found = {row["deploymentId"]: row for row in await web.query("deployment.all", applicationId="app")}
    assert (found[old]["log"], found[old]["steps"]) == ("", [])
    assert (found[young]["log"], len(found[young]["steps"])) == ("boom", 1)


async def test_the_list_of_many_deployments_stays_small(web: Web) -> None:
    await created(web)
    for _ in range(20):
        await web.mutate("application.deploy", applicationId="app", title="t" * 100_000, description="d" * 100_000)
        await web.pool.execute("UPDATE deployments SET status = 'failed', finished_at = now(), log = $1", "l" * 16_000)
    rows = await web.query("deployment.all", applicationId="app")
    assert len(str(rows)) < 20 * 8_000
    assert len((await web.query("deployment.one", deploymentId=rows[0]["deploymentId"]))["log"]) == 16_000


@pytest.mark.parametrize(
    ("status", "verdict"), [("succeeded", "deployed"), ("failed", "failed"), ("superseded", "superseded")]
)
async def test_a_delivery_keeps_its_verdict_without_its_deployment(web: Web, status: str, verdict: str) -> None:
    await web.mutate("application.create", name="web", applicationId="app", dockerImage="acme/web")
    path = await web.endpoint("dockerhub", "s")
    await web.post(path, dockerhub())
    await web.pool.execute("UPDATE deployments SET status = $1, finished_at = now()", status)
    (last,) = await _ended(web, 1)
    assert await _bound(web) == {last}
    assert [one["verdict"] for one in await _list(web)] == [verdict]
    _, again = await web.post(path, dockerhub())
    assert bool(again["deployments"]) is (status == "failed"), "a repetition starts nothing, unless all had failed"


async def test_one_gateway_at_a_time_prunes(web: Web) -> None:
    await created(web)
    await _ended(web, 5)
    settings = Settings.from_environ({"HOME": "/", "GATEWAY_DEPLOYMENTS_KEPT": "1"})
    async with transaction(web.pool) as other:
        assert await deployment_retention.try_retention_lock(other)
        await prune_expired(web.pool, settings)
        assert await web.count("deployments") == 5
    await prune_expired(web.pool, settings)
    assert await web.count("deployments") == 1


# -- the inbox


async def _fill(web: Web, count: int, *, hours: float) -> None:
    await web.pool.execute(
        "INSERT INTO deliveries (source, body, verdict, received_at)"
        " SELECT 'dockerhub', repeat('x', 1000)::bytea, 'ignored', now() - make_interval(secs => $2 * n / $1)"
        " FROM generate_series(1, $1::integer) n",
        count,
        hours * 3600,
    )


async def test_an_application_without_anything_to_delete_is_not_locked(web: Web) -> None:
    await created(web)
    await _ended(web, 3)
    await web.pool.execute(
        "INSERT INTO steps (deployment_id, epoch, number, step, started_at)"
        " SELECT deployment_id, 1, 0, 'pull', now() FROM deployments"
    )
    settings = Settings.from_environ({"HOME": "/", "GATEWAY_DEPLOYMENTS_KEPT": "3"})
    async with transaction(web.pool) as connection, asyncio.timeout(10):
        await connection.execute("SELECT FROM applications FOR UPDATE")
        await prune_expired(web.pool, settings)
    await prune_expired(web.pool, settings.model_copy(update={"deployments_kept": 2}))
    assert await web.count("deployments") == 2


@pytest.mark.parametrize("left", ["log = 'the end'", "title = 'with steps'"])
async def test_steps_and_logs_that_expire_are_deleted_alone(web: Web, left: str) -> None:
    await created(web)
    (ended,) = await _ended(web, 1)
    await web.pool.execute(f"UPDATE deployments SET finished_at = now() - interval '31 days', {left}")
    if "log" not in left:
        await web.pool.execute(
            "INSERT INTO steps (deployment_id, epoch, number, step, started_at) VALUES ($1, 1, 0, 'pull', now())", ended
        )
    await prune_expired(web.pool, Settings.from_environ({"HOME": "/"}))
    assert (await web.count("deployments"), await web.count("steps")) == (1, 0)
    assert await web.pool.fetchval("SELECT log FROM deployments") == ""


async def _size(web: Web) -> int:
    async with transaction(web.pool) as connection:
        return await delivery_log_size.select_size(connection)


async def test_only_as_many_old_deliveries_as_needed_are_deleted(web: Web) -> None:
    await web.pool.execute("TRUNCATE inbox_spans")
    await _fill(web, 3000, hours=50)
    await prune_inbox(web.pool, 10_000_000)
    assert await _size(web) == 6_000_000
    oldest = await web.pool.fetchval("SELECT received_at FROM deliveries ORDER BY received_at DESC OFFSET 999 LIMIT 1")
    await prune_inbox(web.pool, 2_000_000)
    assert await web.count("deliveries") == 1000
    assert await web.pool.fetchval("SELECT min(received_at) FROM deliveries") == oldest
    assert await _size(web) == 2_000_000


async def test_deliveries_deleted_otherwise_do_not_count(web: Web) -> None:
    await web.pool.execute("TRUNCATE inbox_spans")
    await _fill(web, 1000, hours=20)
    await prune_inbox(web.pool, 10_000_000)
    await web.pool.execute("DELETE FROM deliveries WHERE received_at < now() - interval '10 hours'")
    for _ in range(4):  # some spans are measured again each time
        await prune_inbox(web.pool, 10_000_000)
    left = await web.count("deliveries")
    assert await _size(web) == left * 2000
    await prune_inbox(web.pool, left * 2000)
    assert await web.count("deliveries") == left


async def test_a_long_pause_without_deliveries_is_skipped(web: Web) -> None:
    await web.pool.execute("TRUNCATE inbox_spans")
    await _fill(web, 10, hours=1)
    await web.pool.execute("UPDATE deliveries SET received_at = received_at - interval '20 days'")
    await _fill(web, 10, hours=1)
    await prune_inbox(web.pool, 30_000)
    assert await web.count("deliveries") == 15


# -- the inbox in parts


@pytest.fixture
async def parted(web_postgres: str) -> AsyncIterator[Web]:
    """A gateway on a database of its own, whose inbox is divided."""
    async with connect(await create_database(web_postgres, "parted")) as pool, answering(pool) as web:
        yield web


async def _begin_part(web: Web) -> None:
    async with transaction(web.pool) as connection:
        assert await inbox_parts.begin_part(connection)


async def _parts(web: Web) -> list[int]:
    """Return how many deliveries each part has, the newest part first."""
    rows = await web.pool.fetch(
        "SELECT c.oid::regclass::text AS name FROM pg_class c WHERE relname ~ '^deliveries(_[0-9]|$)' AND relkind = 'r'"
        " ORDER BY relname = 'deliveries' DESC, relname DESC"
    )
    return [await web.pool.fetchval(f"SELECT count(*) FROM ONLY {row['name']}") for row in rows]


async def test_the_inbox_in_parts_is_one_inbox_for_every_statement(parted: Web) -> None:
    """Also for those that another gateway has prepared, and for what a former version counts and deletes."""
    web = parted
    await web.application("docker.io/acme/web:latest")
    path = await web.endpoint("dockerhub", "s")
    columns = await web.pool.fetch("SELECT * FROM pg_indexes WHERE tablename = 'deliveries' ORDER BY indexname")
    async with web.pool.acquire() as former:
        count = await former.prepare("SELECT count(*) FROM deliveries WHERE source = $1")
        for number in range(3):
            refusal = delivery_log.Refusals((await _endpoint(web)), "dockerhub", "why", times=2)
            await delivery_log.add_refusals(former, [refusal])
            await delivery_log.add_refusals(former, [refusal])
            _, first = await web.post(path, dockerhub())
            assert (first["duplicateOf"] is None) is (number == 0), "a key is one for all parts"
            await _begin_part(web)
            assert await count.fetchval("dockerhub") == 2 * (number + 1)
        assert await _parts(web) == [0, 2, 2, 2]
        assert await web.pool.fetch("SELECT * FROM pg_indexes WHERE tablename = 'deliveries' ORDER BY indexname") == (
            columns
        )
        found = await _list(web)
        assert [one["verdict"] for one in found] == [
            "duplicate",
            "rejected",
            "duplicate",
            "rejected",
            "queued",
            "rejected",
        ]
        await former.execute("DELETE FROM deliveries WHERE verdict = 'queued'")
    assert (await web.count("delivery_keys"), await web.count("deployment_deliveries")) == (0, 0)
    assert {one["duplicateOf"] for one in await _list(web)} == {None}
    _, again = await web.post(path, dockerhub())
    assert again["duplicateOf"] is None


async def _endpoint(web: Web) -> str:
    return str(await web.pool.fetchval("SELECT endpoint_id FROM endpoints"))


async def test_a_part_is_dropped_with_what_refers_to_it_once_all_of_it_has_expired(parted: Web) -> None:
    web = parted
    await web.application("docker.io/acme/web:latest")
    path = await web.endpoint("dockerhub", "s")
    await web.post(path, dockerhub())
    await _begin_part(web)
    await web.post(path, dockerhub())
    await web.pool.execute("UPDATE deliveries SET received_at = now() - interval '29 days' WHERE verdict = 'queued'")
    settings = Settings.from_environ({"HOME": "/"})
    await prune_expired(web.pool, settings)
    assert await _parts(web) == [1, 1]
    await web.pool.execute("UPDATE deliveries SET received_at = now() - interval '31 days' WHERE verdict = 'queued'")
    # Killed after the part has left the inbox, another gateway drops it.
    async with transaction(web.pool) as connection:
        part = await inbox_parts.select_oldest(connection)
        assert part is not None
        assert await inbox_parts.detach(connection, part)
    assert (await web.count("deliveries"), await web.count("delivery_keys")) == (1, 1)
    await prune_expired(web.pool, settings)
    assert await _parts(web) == [1]
    assert (await web.count("delivery_keys"), await web.count("deployment_deliveries")) == (0, 0)
    assert [one["duplicateOf"] for one in await _list(web)] == [None]


async def test_whole_parts_beyond_the_size_are_dropped_and_no_delivery_more_than_needed(parted: Web) -> None:
    for hours in (40, 30, 20):
        await _fill(parted, 1000, hours=1)
        await parted.pool.execute(f"UPDATE ONLY deliveries SET received_at = received_at - interval '{hours} hours'")
        await _begin_part(parted)
    await prune_inbox(parted.pool, 10_000_000)
    assert await _parts(parted) == [0, 1000, 1000, 1000]
    await prune_inbox(parted.pool, 3_000_000)
    assert await _parts(parted) == [0, 1000, 500]
    assert await _size(parted) == 3_000_000


async def test_a_part_begins_when_the_newest_is_old_enough_and_not_while_it_is_in_use(parted: Web) -> None:
    settings = Settings.from_environ({"HOME": "/"})
    await _fill(parted, 10, hours=50)
    await prune_expired(parted.pool, settings)
    assert await _parts(parted) == [10]
    await _fill(parted, 10, hours=80)
    async with parted.pool.acquire() as other, other.transaction():
        await other.execute("SELECT FROM deliveries")
        await prune_expired(parted.pool, settings)
    assert await _parts(parted) == [20]
    await prune_expired(parted.pool, settings)
    assert await _parts(parted) == [0, 20]


_AGED = f"""
    INSERT INTO api_keys (key_id, name, prefix, key_hash) VALUES ('aged', 'aged', 'gw_1', 'aged');
    INSERT INTO api_keys (key_id, name, prefix, key_hash, held_by, expires_at)
    SELECT 'opened' || n, 'root (gateway open)', 'gw_2', convert_to('opened' || n, 'UTF8'), 'cli:root',
           now() - n * interval '1 day'
      FROM unnest(ARRAY[1, 2000]) AS n;
    INSERT INTO sign_ins (token_hash, key_id, expires_at) VALUES ('t', 'aged', now() - interval '1 day');
    INSERT INTO sign_in_links (token_hash, key_id, expires_at) VALUES ('t', 'aged', now() - interval '1 day');
    INSERT INTO alerts (alert_id, name, receiver, target, events, set_at)
    VALUES ('unset', 'unset', 'apprise', '', ARRAY['failed'], now() - interval '{OLD.days} days');
    INSERT INTO alerts (alert_id, name, receiver, target, events) VALUES ('al', 'al', 'webhook', '', ARRAY['failed']);
    INSERT INTO outbox_events (event_id, key, application_id, kinds, content, created_at)
    SELECT 'e' || n, 'k' || n, 'app', ARRAY['failed'], '{{}}', now() - n * interval '10 days'
      FROM generate_series(0, 9) AS n;
    INSERT INTO outbox_deliveries (delivery_id, event_id, alert_id, application_id, state, finished_at)
    SELECT 'd' || n, 'e' || n, 'al', 'app', 'delivered', now() - n * interval '10 days'
      FROM generate_series(0, 9) AS n;
    INSERT INTO outbox_deliveries (delivery_id, event_id, alert_id, application_id, queued_at)
    VALUES ('waits', 'e9', 'unset', 'app', now() - interval '4 days');
    INSERT INTO first_seen (repository, digest, seen_at, asked_at) VALUES ('r', 'd', '2000-01-01', '2000-01-01');
    INSERT INTO scan_reports (digest, platform, scanner, database, report, created_at)
    VALUES ('d', 'p', 's', '1', '', '2000-01-01');
    INSERT INTO audit (call_id, via, who, action, outcome, at)
    SELECT 'aged', 'cli', 'root', 'keys create', outcome, '2000-01-01'
      FROM unnest(ARRAY['done', 'refused']::audit_outcome[]) AS outcome;
"""


async def test_what_grows_by_itself_is_deleted_by_age_and_by_number(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    await created(web)
    await web.pool.execute(_AGED)
    async with web.pool.acquire() as connection:
        assert await outbox_retention.give_up_old(connection, older_than=LONGEST_WAIT, most=MOST_WAITING) == 1
        await alerts.delete_unset(connection)
    monkeypatch.setattr("gateway.worker.retention._MESSAGES_KEPT", 3)
    await prune_expired(web.pool, Settings.from_environ({"HOME": "/", "GATEWAY_INBOX_DAYS": "45"}))
    left = {row["delivery_id"] for row in await web.pool.fetch("SELECT delivery_id FROM outbox_deliveries")}
    assert left == {"d0", "d1", "d2"}  # of five that are young enough
    assert await web.count("outbox_events") == 3
    assert await web.count("audit WHERE call_id = 'aged'") == 0
    opened = await web.pool.fetch("SELECT key_id FROM api_keys WHERE held_by IS NOT NULL")
    assert [row["key_id"] for row in opened] == ["opened1"]
    for table in ("sign_ins", "sign_in_links", "first_seen", "scan_reports", "alerts WHERE alert_id = 'unset'"):
        assert await web.count(table) == 0, table
