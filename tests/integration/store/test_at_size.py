"""What is asked often reads no whole table, however many rows there are: the planner says so, not a clock."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.model.deliveries import Verdict
from gateway.model.errors import Code
from gateway.model.observations import ObservedState, State
from gateway.store import (
    application_summaries,
    applications,
    approvals,
    delivery_log,
    delivery_log_size,
    deployment_retention,
    deployments,
    inbox_parts,
    leases,
    observations,
    queue,
    versions,
    watches,
)
from gateway.store.database import Pool, connect, transaction
from gateway.store.engines import Place
from gateway.store.pagination import Cursor, Page
from tests.support.databases import create_database

ROWS = 20_000
APPLICATIONS = 100
LARGE = re.compile(r"(deployments|approvals|deliveries|deliveries_[0-9_]+|deployment_deliveries|steps)$")

DELIVERIES = f"""
    INSERT INTO deliveries (endpoint_id, source, body, verdict, received_at)
    SELECT 'h' || (1 + n % 50), CASE WHEN n % 500 = 0 THEN 'quay' ELSE 'harbor' END, repeat('x', 100)::bytea,
           (CASE WHEN n % 700 = 0 THEN 'duplicate' WHEN n % 2 = 0 THEN 'queued' ELSE 'ignored' END)::verdict,
           now() - make_interval(secs => n)
      FROM generate_series(1, {ROWS}) n
"""
FILL = f"""
    INSERT INTO projects (project_id, name) VALUES ('p', 'p');
    INSERT INTO environments (environment_id, project_id, name) VALUES ('e', 'p', 'e');
    INSERT INTO engines (engine_id, name, version, platform) VALUES ('n', 'n', '1', 'linux/amd64');
    INSERT INTO endpoints (endpoint_id, source, name, token_hash, secret)
    SELECT 'h' || n, 'harbor', '', n::text::bytea, '' FROM generate_series(1, 50) n;
    INSERT INTO applications (application_id, name, app_name, environment_id, engine_id)
    SELECT 'a' || n, 'a' || n, 'a' || n, 'e', 'n' FROM generate_series(1, {APPLICATIONS}) n;
    INSERT INTO deployments (application_id, kind, forced, title, reference, status, replaced, digest, created_at,
                             finished_at)
    SELECT 'a' || (1 + n % {APPLICATIONS}), 'deploy', false, '', 'docker.io/acme/web:latest',
           (ARRAY['superseded', 'succeeded', 'failed', 'cancelled'])[1 + n / {APPLICATIONS} % 4]::status,
           n / {APPLICATIONS} % 4 = 1, 'd', now() - make_interval(secs => n), now() - make_interval(secs => n)
      FROM generate_series(1, {ROWS}) n;
    INSERT INTO deployments (application_id, kind, forced, title, reference)
    SELECT 'a' || n, 'deploy', false, '', 'docker.io/acme/web:latest' FROM generate_series(1, 5) n;
    INSERT INTO deployments (application_id, kind, forced, title, reference, status, lease_until)
    VALUES ('a1', 'deploy', false, '', 'docker.io/acme/web:latest', 'running', now());
    INSERT INTO approvals (application_id, gate_id, gate_name, deployment_id, repository, digest, spec_hash, image,
                           fingerprint, rule, deadline_at, created_at, closed_at)
    SELECT application_id, 'g', 'approval', deployment_id, 'r', 'd', 's', 'i', '', '{{}}', now(), created_at,
           CASE WHEN finished_at IS NOT NULL THEN now() END
      FROM deployments
     WHERE status <> 'queued';
    INSERT INTO steps (deployment_id, epoch, number, step, started_at)
    SELECT deployment_id, 1, 0, 'pull', now() FROM deployments;
    {DELIVERIES};
    INSERT INTO deployment_deliveries (deployment_id, delivery_id)
    SELECT d.deployment_id, e.delivery_id
      FROM (SELECT deployment_id, row_number() OVER () AS n FROM deployments) d
      JOIN (SELECT delivery_id, row_number() OVER () AS n FROM deliveries) e USING (n);
    ANALYZE
"""


class Explained:
    """A connection that has each statement explained before it runs it, with the parameters and without."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.scanned: list[str] = []
        self.explained = 0

    def __getattr__(self, name: str) -> Any:
        act = getattr(self._connection, name)
        if name not in {"execute", "fetch", "fetchrow", "fetchval"}:
            return act

        async def explain(statement: str, *given: Any) -> Any:
            for how in ("FORMAT JSON", "GENERIC_PLAN, FORMAT JSON"):
                plan = await self._connection.fetchval(f"EXPLAIN ({how}) {statement}", *given)
                self.scanned += [f"{how}: {table} in {statement}" for table in _scans(json.loads(plan)[0]["Plan"])]
            self.explained += 1
            return await act(statement, *given)

        return explain


def _scans(plan: dict[str, Any]) -> list[str]:
    """Return the large tables that are read as a whole."""
    found = [plan["Relation Name"]] if plan["Node Type"] == "Seq Scan" and LARGE.match(plan["Relation Name"]) else []
    for inner in plan.get("Plans", ()):
        found += _scans(inner)
    return found


@pytest.fixture(scope="module")
async def sized(web_postgres: str) -> AsyncIterator[Pool]:
    """A database of its own with many rows; its inbox has two parts."""
    async with connect(await create_database(web_postgres, "sized")) as pool:
        await pool.execute(FILL)
        async with transaction(pool) as connection:
            assert await inbox_parts.begin_part(connection)
            await connection.execute(f"{DELIVERIES}; ANALYZE deliveries")
        yield pool


SECOND = Page(20, Cursor.parse("2999-01-01T00:00:00Z,x"))
ASKED: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "the inbox": lambda c: delivery_log.select_inbox(c, page=SECOND),
    "of a source": lambda c: delivery_log.select_inbox(c, source="quay", page=SECOND),
    "of an endpoint": lambda c: delivery_log.select_inbox(c, endpoint_id="h7", page=SECOND),
    "of a rare verdict": lambda c: delivery_log.select_inbox(c, verdict=Verdict.DUPLICATE, page=SECOND),
    "of a verdict that follows": lambda c: delivery_log.select_inbox(c, verdict=Verdict.FAILED, page=SECOND),
    "of a source and a verdict": lambda c: delivery_log.select_inbox(
        c, source="quay", verdict=Verdict.IGNORED, page=SECOND
    ),
    "of an endpoint, its source and a verdict": lambda c: delivery_log.select_inbox(
        c, endpoint_id="h7", source="harbor", verdict=Verdict.IGNORED, page=SECOND
    ),
    "what expires": lambda c: delivery_log.delete_expired(c, timedelta(days=30)),
    "what was rejected": lambda c: delivery_log.delete_rejected_beyond(c, "h7", 100),
    "deployments of all": lambda c: deployments.select_deployments(c, SECOND),
    "deployments of one": lambda c: deployments.select_deployments_of(c, ["a3"], SECOND),
    "deployments of many": lambda c: deployments.select_deployments_of(c, [f"a{n}" for n in range(50)], SECOND),
    "what waits and runs": queue.select_pending,
    "how many wait": queue.select_queue_depth,
    "whether one rests": lambda c: applications.is_idle(c, "a3"),
    "how applications are": lambda c: applications.select_states(c, [f"a{n}" for n in range(APPLICATIONS)]),
    "members in short": lambda c: application_summaries.select_named(c, ["a3", "a4"]),
    "what is watched": watches.count_open,
    "what waits for an approval": lambda c: approvals.select_waiting(c, SECOND),
    "what of one waits for an approval": lambda c: approvals.select_waiting(c, SECOND, "a1"),
    "the version before": lambda c: versions.select_previous(c, "a3"),
    "what is expected on an engine": lambda c: observations.select_expected(c, "n", [None]),
    "what was seen": lambda c: observations.upsert_observations(
        c, {"a3": ObservedState(State.RUNNING)}, datetime.now(UTC)
    ),
    "where something is surplus": lambda c: deployment_retention.select_after(
        c, "", 100, most=200, older_than=timedelta(days=90), details=timedelta(days=30)
    ),
    "what is surplus": lambda c: deployment_retention.delete_surplus(
        c, "a3", previous=None, most=10, older_than=timedelta(days=90)
    ),
    "old steps and logs": lambda c: deployment_retention.delete_details(c, "a3", timedelta(days=30)),
    "what came since": delivery_log_size.select_gap,
    "a span of the inbox": lambda c: delivery_log_size.measure(
        c, datetime.now(UTC), datetime.now(UTC) + delivery_log_size.SPAN
    ),
    "the oldest of the inbox": lambda c: delivery_log_size.delete_oldest(c, 1000, datetime.now(UTC)),
    "what an engine wakes": lambda c: leases.wake_waiting(c, [Place("n", None)], [Code.ENGINE_REFUSED]),
    "the oldest part": inbox_parts.select_oldest,
    "what is due": lambda c: leases.select_due(c, "o", limit=500),
    "the next to claim": lambda c: leases.claim_deployments(c, "o", {"d3": "n"}, timedelta(seconds=15)),
}


@pytest.mark.parametrize("asked", ASKED)
async def test_what_is_asked_often_reads_no_whole_table(sized: Pool, asked: str) -> None:
    async with sized.acquire() as connection:
        explained, change = Explained(connection), connection.transaction()
        await change.start()
        try:
            await ASKED[asked](explained)
        finally:
            await change.rollback()
    assert explained.explained
    assert explained.scanned == []


async def test_a_scan_of_a_whole_table_is_seen(sized: Pool) -> None:
    async with sized.acquire() as connection:
        explained = Explained(connection)
        await explained.fetchval("SELECT count(*) FROM deployments WHERE title = $1", "x")
    assert len(explained.scanned) == 2
