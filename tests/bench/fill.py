"""A database with a history: filled by a few statements, without the gateway, and kept for the next run."""

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import asyncpg

from gateway.cli.demo.process import GatewayProcess, gateway_process
from gateway.config import Settings
from gateway.store import database, inbox_parts
from gateway.store.embedded_postgres import embedded_postgres
from gateway.worker.retention import prune_expired

# The history stays: nothing of it expires, nor is it more than is kept. No one limits how much is sent.
SETTINGS = {
    "GATEWAY_LOG_LEVEL": "error",
    "GATEWAY_WEBHOOK_RATE": "100000",
    "GATEWAY_INBOX_MEGABYTES": "1000000",
}
#: what the measured pushes are of, and the applications a0, a1 ... that follow it
REPOSITORIES = [f"acme/app{number}" for number in range(10)]

_ROW = 1500  # bytes of the disk that a delivery takes, with its part of everything else
_LOG = 3 * 1024**3  # bytes of the server's log ahead of its tables
_LINKS = ["delivery_keys", "deployment_deliveries"]


@dataclass(frozen=True)
class Size:
    """How many rows there are. Each application has as many subscriptions, and so on, whatever the size."""

    applications: int
    subscriptions: int
    deployments: int
    deliveries: int
    #: of the inbox, beside the newest one
    parts: int

    @property
    def endpoints(self) -> int:
        return max(1, self.deliveries // 1000)

    @property
    def name(self) -> str:
        """Names the size and the schema: a database of another schema is filled anew."""
        digest = hashlib.sha256(Path(__file__).read_bytes() + repr(asdict(self)).encode())
        for migration in sorted(Path("migrations").glob("*.sql")):
            digest.update(migration.read_bytes())
        return f"filled-{digest.hexdigest()[:16]}"


async def filled(size: Size, place: Path) -> Path:
    """Return the directory of a gateway with such a history; it is filled unless an earlier run has done it.

    What else was filled in this place is removed, so that one database is kept at most.
    """
    directory = place / size.name
    if directory.exists():
        return directory
    await asyncio.to_thread(_make_room, place, size)
    draft = place / "draft"
    async with gateway_process(draft, f"unix://{draft}/none", SETTINGS) as gateway:
        for number, repository in enumerate(REPOSITORIES):
            made = {"name": "a", "applicationId": f"a{number}", "dockerImage": repository}
            await gateway.mutate("application.create", made)
        await gateway.stop()
        await _fill(gateway, size)
    draft.rename(directory)
    return directory


def _make_room(place: Path, size: Size) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    if shutil.disk_usage(place).free < (need := size.deliveries * _ROW + _LOG):
        raise RuntimeError(f"{size.deliveries} deliveries need {need / 1024**3:.0f} GB of disk: set DELIVERIES=1000000")


async def _fill(gateway: GatewayProcess, size: Size) -> None:
    directory = Path(gateway.environment["GATEWAY_DATA_DIR"])
    async with embedded_postgres(directory) as url:
        connection = await asyncpg.connect(url, command_timeout=3600)
        async with _in_haste(connection):
            await _fill_applications(connection, size)
            async with _without_indexes(connection, ["deployments", "steps"], constraints=False):
                await _fill_deployments(connection, size)
            await _fill_gates(connection, size)
            at_once = size.deliveries // max(1, size.parts)
            async with _without_indexes(connection, _LINKS, constraints=True):
                for first in range(0, size.deliveries, at_once):
                    async with _without_indexes(connection, ["deliveries"], constraints=True):
                        await _fill_deliveries(connection, size, first, min(first + at_once, size.deliveries))
                    if size.parts:
                        await inbox_parts.begin_part(connection)
            await connection.execute("VACUUM (FREEZE, ANALYZE)")
        await connection.close()
        settings = Settings(docker_host="unix:///none", data_dir=directory, inbox_megabytes=1_000_000)
        async with database.connect(url) as pool:
            await prune_expired(pool, settings)  # deletes nothing, and takes the measure of the inbox


@asynccontextmanager
async def _in_haste(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Let the server write as fast as it can, and let nothing check or follow what is written; then as before."""
    hurry = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off", "max_wal_size": "'2GB'"}
    for name, value in hurry.items():
        await connection.execute(f"ALTER SYSTEM SET {name} = {value}")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.execute(
        "SET session_replication_role = replica; SET maintenance_work_mem = '512MB'; SET work_mem = '128MB'"
    )
    yield
    for name in hurry:
        await connection.execute(f"ALTER SYSTEM RESET {name}")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.execute("CHECKPOINT")


@asynccontextmanager
async def _without_indexes(
    connection: asyncpg.Connection, tables: list[str], *, constraints: bool
) -> AsyncIterator[None]:
    """Drop the indexes of the tables, with `constraints` also their keys, and make them again."""
    keys = await connection.fetch(
        """
        SELECT conrelid::regclass::text AS of, conname, pg_get_constraintdef(oid) AS means, contype = 'f' AS refers
          FROM pg_constraint
         WHERE (conrelid = ANY($1::text[]::regclass[]) OR confrelid = ANY($1::text[]::regclass[]))
           AND contype IN ('p', 'u', 'f') AND $2
         ORDER BY contype = 'f' DESC
        """,
        tables,
        constraints,
    )
    for key in keys:
        await connection.execute(f"ALTER TABLE {key['of']} DROP CONSTRAINT {key['conname']}")
    indexes = await connection.fetch(
        """
        SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS means
          FROM pg_index i
         WHERE indrelid = ANY($1::text[]::regclass[])
           AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid)
        """,
        tables,
    )
    for index in indexes:
        await connection.execute(f"DROP INDEX {index['name']}")
    yield
    for index in indexes:
        await connection.execute(index["means"])
    for key in reversed(keys):
        unchecked = " NOT VALID" if key["refers"] else ""
        await connection.execute(f"ALTER TABLE {key['of']} ADD CONSTRAINT {key['conname']} {key['means']}{unchecked}")


async def _fill_applications(connection: asyncpg.Connection, size: Size) -> None:
    """A hundred applications an environment; nine of ten subscriptions are of one tag."""
    await connection.execute(
        f"""
        INSERT INTO engines (engine_id, name, version, platform) VALUES ('bench', 'bench', '28', 'linux/amd64');
        INSERT INTO projects (project_id, name)
        SELECT 'p' || number, 'p' FROM generate_series(0, {size.applications // 100 - 1}) AS number;
        INSERT INTO environments (environment_id, project_id, name)
        SELECT 'v' || number, 'p' || number, 'v' FROM generate_series(0, {size.applications // 100 - 1}) AS number;
        INSERT INTO applications (application_id, name, app_name, environment_id, docker_image, created_at)
        SELECT 'b' || number, 'b', 'b' || number, 'v' || (number - 1) / 100, 'ghcr.io/acme/app' || number,
               now() - interval '30 days' + number * interval '1 second'
          FROM generate_series(1, {size.applications}) AS number;
        INSERT INTO observations (application_id, state)
        SELECT application_id, 'running' FROM applications;
        INSERT INTO subscriptions (application_id, repository, tag, rule, pattern)
        SELECT 'b' || 1 + number % {size.applications}, 'ghcr.io/org' || number / 100 || '/app' || number,
               CASE WHEN number % 10 > 0 THEN 'latest' ELSE '' END,
               CASE WHEN number % 10 > 0 THEN 'exact' ELSE 'semver' END::rule,
               CASE WHEN number % 10 > 0 THEN 'latest' ELSE '^1' END
          FROM generate_series(1, {size.subscriptions}) AS number;
        INSERT INTO endpoints (endpoint_id, source, name, token_hash, secret)
        SELECT 'e' || number, 'dockerhub', 'e' || number, sha256(number::text::bytea), ''
          FROM generate_series(0, {size.endpoints - 1}) AS number
        """
    )


async def _fill_deployments(connection: asyncpg.Connection, size: Size) -> None:
    """As many for each application, in the last 25 days, each with three steps."""
    await connection.execute(
        f"""
        INSERT INTO deployments
               (deployment_id, application_id, kind, status, title, forced, reference, created_at, requested_at,
                next_attempt_at, started_at, finished_at, digest, replaced, epoch, attempts, superseded_by)
        SELECT md5('deployment ' || number)::uuid::text, ids[1 + number % cardinality(ids)], 'deploy', status,
               'latest pushed', false, 'ghcr.io/acme/app:latest', at, at, at, at, at + interval '2 seconds',
               CASE WHEN status IN ('succeeded', 'unchanged') THEN 'sha256:' || repeat(md5(number::text), 2) END,
               status = 'succeeded', 1, 1, NULL
          FROM (SELECT array_agg(application_id ORDER BY application_id) AS ids FROM applications) AS known
         CROSS JOIN LATERAL (
               SELECT number, now() - interval '25 days' * (1 - number::float8 / {size.deployments}) AS at,
                      CASE WHEN number / 100 % 20 < 14 THEN 'succeeded' WHEN number / 100 % 20 < 16 THEN 'unchanged'
                           WHEN number / 100 % 20 < 17 THEN 'failed' ELSE 'superseded' END::status AS status
                 FROM generate_series(1, {size.deployments}) AS number
               ) AS one;
        INSERT INTO steps (deployment_id, epoch, number, step, started_at, finished_at)
        SELECT deployment_id, 1, number, (ARRAY['pull', 'create', 'swap'])[number], started_at, finished_at
          FROM deployments
         CROSS JOIN generate_series(1, 3) AS number
         WHERE started_at IS NOT NULL
        """
    )


async def _fill_gates(connection: asyncpg.Connection, size: Size) -> None:
    """A gate for each application, what they and people answered, releases of ten members, and an audit of all."""
    some = size.deployments // 10
    await connection.execute(
        f"""
        CREATE TEMPORARY TABLE asked AS
        SELECT deployment_id, application_id, finished_at AS at, row_number() OVER () AS number,
               row_number() OVER (PARTITION BY application_id ORDER BY created_at DESC) = 1 AS is_last
          FROM deployments
         WHERE application_id LIKE 'b%' AND status = 'succeeded'
         LIMIT {some};
        INSERT INTO gates (gate_id, application_id, kind, name, rule)
        SELECT 'g' || application_id, application_id, 'approval', 'approval', '{{"count": 1}}' FROM applications
         WHERE application_id LIKE 'b%';
        INSERT INTO gate_verdicts (deployment_id, gate_id, name, kind, rule_hash, repository, digest, spec_hash,
                                   verdict, code, message, first_asked_at, asked_at)
        SELECT deployment_id, 'g' || application_id, 'approval', 'approval', 'r', 'ghcr.io/acme/app',
               'sha256:' || repeat(md5(number::text), 2), 's', 'passed', 'approved', 'approved by one', at, at
          FROM asked;
        INSERT INTO approvals (approval_id, application_id, gate_id, gate_name, deployment_id, repository, digest,
                               spec_hash, image, fingerprint, rule, created_at, deadline_at, passed_at, closed_at)
        SELECT md5('approval ' || number)::uuid::text, application_id, 'g' || application_id, 'approval', deployment_id,
               'ghcr.io/acme/app', 'sha256:' || repeat(md5(number::text), 2), 's', 'ghcr.io/acme/app:latest', 'f',
               '{{"count": 1}}', at, at + interval '3 days', at, CASE WHEN NOT is_last THEN at END
          FROM asked;
        INSERT INTO approval_answers (approval_id, approver, application_id, name, answer, answered_at)
        SELECT approval_id, 'key:k', application_id, 'k', 'approve', created_at FROM approvals;
        INSERT INTO groups (group_id, name)
        SELECT 'g' || number, 'g' || number FROM generate_series(0, {size.applications // 10 - 1}) AS number;
        INSERT INTO group_members (group_id, application_id)
        SELECT 'g' || (number - 1) / 10, 'b' || number FROM generate_series(1, {size.applications}) AS number;
        INSERT INTO releases (release_id, group_id, name, state, created_at, finished_at)
        SELECT 'r' || number, 'g' || number % {size.applications // 10}, 'g', 'succeeded', at, at
          FROM generate_series(0, {some // 10 - 1}) AS number
         CROSS JOIN LATERAL (SELECT now() - interval '25 days' * (1 - number::float8 / {some // 10}) AS at) AS a;
        INSERT INTO release_members (release_id, application_id, wave, open)
        SELECT 'r' || number / 10, 'b' || 1 + number % {size.applications}, 1, false
          FROM generate_series(0, {some - 1}) AS number;
        INSERT INTO audit (call_id, via, who, action, outcome, application_id, at)
        SELECT 'c' || number, 'api', 'me', 'application.update', 'done', 'b' || 1 + number % {size.applications},
               now() - interval '25 days' * (1 - number::float8 / {some})
          FROM generate_series(1, {some}) AS number
        """
    )


async def _fill_deliveries(connection: asyncpg.Connection, size: Size, first: int, end: int) -> None:
    """As many for each endpoint, in the last 25 days: six of ten were queued, three ignored, one a duplicate."""
    await connection.execute(
        f"""
        INSERT INTO deliveries (delivery_id, endpoint_id, source, received_at, headers, body, verdict, ignored)
        SELECT md5('delivery ' || number)::uuid::text, 'e' || number % {size.endpoints}, 'dockerhub',
               now() - interval '25 days' * (1 - number::float8 / {size.deliveries}),
               '{{"content-type": "application/json", "user-agent": "Go-http-client/1.1"}}',
               convert_to('{{"push_data":{{"pushed_at":' || 1000000000 + number || ',"pusher":"me","tag":"latest"}},'
                          '"repository":{{"repo_name":"acme/app"}}}}', 'UTF8'),
               CASE WHEN number % 10 < 6 THEN 'queued' WHEN number % 10 < 9 THEN 'ignored' ELSE 'duplicate' END
               ::verdict,
               CASE WHEN number % 10 BETWEEN 6 AND 8
                    THEN '[{{"reference": "docker.io/acme/app:latest", "reason": "no application subscribes to it"}}]'
                    ELSE '[]' END::jsonb
          FROM generate_series({first}, {end - 1}) AS number;
        INSERT INTO deployment_deliveries (deployment_id, delivery_id)
        SELECT md5('deployment ' || 1 + number * {size.deployments} / {size.deliveries})::uuid::text,
               md5('delivery ' || number)::uuid::text
          FROM generate_series({first}::bigint, {end - 1}) AS number
         WHERE number % 10 < 6;
        INSERT INTO delivery_keys (endpoint_id, key, delivery_id, seen_at)
        SELECT 'e' || number % {size.endpoints}, 'sha256:' || repeat(md5(number::text), 2),
               md5('delivery ' || number)::uuid::text,
               now() - interval '25 days' * (1 - number::float8 / {size.deliveries})
          FROM generate_series({first}, {end - 1}) AS number
         WHERE number % 10 < 9
        """
    )
