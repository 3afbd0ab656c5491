"""Each schema that was released becomes today's with its rows; the former release serves beside, and none goes back."""

import asyncio
import io
import subprocess
import tarfile
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.cli.demo.process import GatewayProcess, gateway_process, until
from gateway.model.errors import Unavailable
from gateway.store import database
from gateway.store.database import Pool
from gateway.store.migrate import Migration, migrate, shipped
from tests.integration.store.test_migrate import ROWS as FORMER_ROWS
from tests.integration.store.test_migrate import all_is_there, copied, count_rows, ran, sealed
from tests.support.api_client import answering
from tests.support.databases import address, another_database
from tests.support.receivers import a_hook

_ROOT = Path(__file__).parents[3]
_OPENED = ("observations", "readiness_probes", "watches")
_ADDRESS = '{"url": "https://github.com", "token": "t"}'
DIGEST = "sha256:" + "ab" * 32

#: what is put in once a migration has been applied, as the gateway of that time did
ROWS = {
    1: f"""
        INSERT INTO projects (project_id, name) VALUES ('default', 'Default');
        INSERT INTO environments (environment_id, project_id, name) VALUES ('e', 'default', 'production');
        ALTER TABLE applications ALTER environment_id SET DEFAULT 'e';
        {";".join(FORMER_ROWS.values())};
        ALTER TABLE applications ALTER environment_id DROP DEFAULT;
    """,
    5: f"""
        INSERT INTO gates (gate_id, application_id, kind, name, rule)
        VALUES ('g', 'a', 'maturity', 'maturity', '{{"age": "1h"}}');
        INSERT INTO gate_verdicts (deployment_id, gate_id, name, kind, rule_hash, repository, digest, spec_hash,
                                   verdict, code, message)
        VALUES ('one', 'g', 'maturity', 'maturity', 'x', 'docker.io/library/a', '{DIGEST}', 'x', 'passed', 'ok', '');
        INSERT INTO gate_overrides (deployment_id, gate_id, digest, name, application_id, reason)
        VALUES ('one', 'g', '{DIGEST}', 'maturity', 'a', 'because');
        INSERT INTO first_seen (repository, digest) VALUES ('docker.io/library/a', '{DIGEST}');
        INSERT INTO groups (group_id, name) VALUES ('all', 'all');
        INSERT INTO group_members (group_id, application_id) VALUES ('all', 'a');
        INSERT INTO releases (release_id, group_id, name, state, finished_at)
        VALUES ('rel', 'all', 'all', 'succeeded', now());
        INSERT INTO release_members (release_id, application_id, wave, open) VALUES ('rel', 'a', 1, false);
        INSERT INTO soaks (application_id, digest) VALUES ('a', '{DIGEST}');
        INSERT INTO promotions (application_id, digest, follows, state) VALUES ('a', '{DIGEST}', 'b', 'promoted');
        INSERT INTO approvals (approval_id, application_id, gate_id, gate_name, deployment_id, repository, digest,
                               spec_hash, image, fingerprint, rule, deadline_at, closed_at)
        VALUES ('app', 'a', 'g', 'people', 'one', 'docker.io/library/a', '{DIGEST}', 'x', 'a', 'x', '{{}}', now(),
                now());
        INSERT INTO approval_answers (approval_id, approver, application_id, name, answer)
        VALUES ('app', 'key:k', 'a', 'k', 'approve');
        INSERT INTO approval_links (token_hash, approval_id, expires_at) VALUES ('t', 'app', now());
        INSERT INTO deployment_askers VALUES ('one', 'somebody', '');
        INSERT INTO scan_reports (digest, platform, scanner, database, report)
        VALUES ('{DIGEST}', 'linux/amd64', 'trivy', '2', 'x');
    """,
    7: """
        INSERT INTO sign_ins (token_hash, key_id, expires_at) VALUES ('t', 'k', now() + interval '1 day');
        INSERT INTO sign_in_links (token_hash, key_id, expires_at) VALUES ('t', 'k', now() + interval '1 day');
        INSERT INTO oidc_people (issuer, subject, key_id) VALUES ('https://id.example.com', 's', 'k');
    """,
    8: f"""
        INSERT INTO alerts (alert_id, name, receiver, target, address, events)
        VALUES ('al', 'al', 'github', 'https://github.com', {sealed(_ADDRESS, "alerts:al:address")}, ARRAY['failed']);
        INSERT INTO outbox_events (event_id, key, application_id, deployment_id, kinds, content)
        VALUES ('ev', 'deployment:one:failed', 'a', 'one', ARRAY['failed'],
                '{{"application": {{"applicationId": "a", "name": "a"}}, "deployment": {{"deploymentId": "one"}}}}');
        INSERT INTO outbox_deliveries (event_id, alert_id, application_id) VALUES ('ev', 'al', 'a');
    """,
    9: "INSERT INTO declared_objects (declaration, application_id) VALUES ('shop', 'a')",
    12: "INSERT INTO declared_objects (declaration, alert_id) VALUES ('shop', 'al')",
    15: """
        INSERT INTO labelled_objects (engine_id, object_id, name, labels_hash, application_id)
        SELECT engine_id, 'o', 'a', 'x', 'a' FROM engines LIMIT 1;
        INSERT INTO labelled_applications (application_id) VALUES ('a');
    """,
}
MORE_QUERIES: dict[str, dict[str, object]] = {
    "gate.all": {"applicationId": "a"},
    "group.all": {},
    "release.all": {},
    "alert.all": {},
    "alert.deliveries": {},
    "declaration.export": {},
}


async def fill(pool: Pool, number: int) -> None:
    if statements := ROWS.get(number):
        await pool.execute(statements)
    if number == 1:
        await pool.execute("UPDATE deployments SET ran = $1 WHERE deployment_id = 'one'", ran("one", base=None))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("of", [(8,), pytest.param(tuple(range(1, len(shipped()) + 1)), marks=pytest.mark.long)])
async def test_a_database_of_each_released_schema_becomes_todays_with_its_rows(
    web_pool: Pool, web_postgres: str, of: tuple[int, ...]
) -> None:
    async with another_database(web_pool, web_postgres, "former") as pool:
        await pool.close()
    for number in range(1, max(of) + 1):
        async with database.connect(address(web_postgres, "former"), size=2) as pool:
            (applied,) = await migrate(pool, shipped()[:number])
            await fill(pool, number)
            before = await count_rows(pool)
        if number not in of:
            continue
        assert {table for table, rows in before.items() if not rows} <= set(_OPENED), "fill each table"
        await web_pool.execute("DROP DATABASE IF EXISTS copy")
        await until(partial(copied, web_pool))
        async with database.connect(address(web_postgres, "copy")) as pool:
            assert await migrate(pool) == shipped()[number:]
            after = await count_rows(pool)
            assert {table: after[table] for table in before} == before, applied.name
            async with answering(pool, emptied=False) as web:
                await all_is_there(web, applied)
                for procedure, given in MORE_QUERIES.items():
                    await web.query(procedure, **given)


async def test_an_older_gateway_is_refused_with_the_way_back(web_pool: Pool, web_postgres: str) -> None:
    async with another_database(web_pool, web_postgres, "downgraded") as pool:
        await migrate(pool, [*shipped(), Migration(9999, "9999_later.sql", "SELECT 1")])
        with pytest.raises(Unavailable, match=r"migration 9999.*newer gateway.*gateway restore.*docs/upgrade\.md"):
            await migrate(pool)


# -- the former release beside this one


def _former_release() -> tuple[str, int]:
    """Return the commit before the one that added the newest migration, and the number that it has."""
    newest = shipped()[-1]
    log = subprocess.run(
        ["git", "log", "--format=%H", "--diff-filter=A", "--", f"migrations/{newest.name}"],
        cwd=_ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if not log.stdout.strip():
        pytest.skip("the history of the repository is not here")
    return f"{log.stdout.split()[-1]}~1", newest.number - 1


@asynccontextmanager
async def _former_gateway(directory: Path, settings: dict[str, str]) -> AsyncIterator[GatewayProcess]:
    commit, _ = _former_release()
    process = await asyncio.create_subprocess_exec(
        "git", "archive", commit, "gateway", "migrations", cwd=_ROOT, stdout=asyncio.subprocess.PIPE
    )
    packed, _ = await process.communicate()
    code = directory / "former"
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(code, filter="data")
    prefix = ("env", "-C", str(code))
    nowhere = f"unix://{directory}/no-engine.sock"
    async with gateway_process(directory / "old", nowhere, {**settings, "PYTHONPATH": str(code)}, prefix) as one:
        yield one


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_the_former_release_and_this_one_serve_together_while_the_schema_expands(
    web_pool: Pool, web_postgres: str, tmp_path: Path
) -> None:
    async with another_database(web_pool, web_postgres, "beside") as pool:
        await pool.close()
    settings = {
        "GATEWAY_DATABASE_URL": address(web_postgres, "beside"),
        "GATEWAY_MASTER_KEY": b64encode(b"k" * 32).decode(),
    }
    refused: list[Any] = []
    ended = asyncio.Event()
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(_former_gateway(tmp_path, settings))
        pool = await stack.enter_async_context(database.connect(settings["GATEWAY_DATABASE_URL"], size=2))
        _, former_number = _former_release()
        assert await pool.fetchval("SELECT max(number) FROM schema_migrations") == former_number
        hook = await stack.enter_async_context(a_hook())
        made = await old.mutate("application.create", {"name": "web", "dockerImage": "acme/web:1"})
        await old.mutate(
            "alert.create", {"name": "h", "receiver": "webhook", "address": hook.url, "allowPrivate": True}
        )
        webhook = await old.endpoint("generic")
        gateways = [old]

        async def push(number: int) -> None:
            one = gateways[number % len(gateways)]
            body = {"image": "acme/web:1", "id": str(number)}
            headers = {"Authorization": f"Bearer {webhook['secret']}"}
            async with aiohttp.ClientSession() as session:
                url = one.url + webhook["path"]
                async with session.post(url, json=body, headers=headers) as answer:
                    if answer.status not in {200, 202}:
                        refused.append((number, answer.status, await answer.text()))

        async def keep_pushing() -> int:
            number = 0
            while not ended.is_set() or number < 20:
                await push(number)
                number += 1
            return number

        pushing = asyncio.create_task(keep_pushing())
        nowhere = f"unix://{tmp_path}/no-engine.sock"
        new = await stack.enter_async_context(gateway_process(tmp_path / "new", nowhere, settings))
        gateways.append(new)
        assert await pool.fetchval("SELECT max(number) FROM schema_migrations") == shipped()[-1].number
        application_id = made["applicationId"]
        for asked, other in ((old, new), (new, old)):
            await asked.mutate("application.redeploy", {"applicationId": application_id, "title": f"by {asked.port}"})
            titles = [one["title"] for one in await other.deployments(application_id)]
            assert f"by {asked.port}" in titles
        (queued,) = [one for one in await old.deployments(application_id) if one["state"] == "queued"]
        await old.mutate("deployment.cancel", {"deploymentId": queued["deploymentId"]})
        ended.set()
        pushed = await pushing
        assert refused == []
        assert pushed >= 20
        for one in gateways:
            async with aiohttp.ClientSession() as session, session.get(f"{one.url}/readyz") as answer:
                assert (await answer.json())["database"] == "ok"
            assert len(await one.query("delivery.all")) > 0
            assert [row["name"] for row in await one.query("alert.all")] == ["h"]
