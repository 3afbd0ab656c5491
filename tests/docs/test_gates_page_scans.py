"""docs/gates.md: each command about scans and hooks does what the page says, with the real Trivy."""

import asyncio
import json
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast
from unittest.mock import patch

import click
import pytest
from click.testing import CliRunner, Result

from gateway.cli import main
from gateway.cli.demo.registry import PrivateRegistry
from gateway.model.reference import Digest
from gateway.store import scan_reports
from gateway.store.database import connect, transaction
from gateway.store.scan_reports import Scanned
from tests.integration.gates.test_vulnerabilities import PLANTED, TRIVY, UNFIXED, real_trivy
from tests.support.databases import database_settings
from tests.support.doc_blocks import blocks
from tests.support.scanned_images import alpine, push_files
from tests.support.trivy_database import Advisory, write_database

DIGEST = Digest("sha256:" + "a" * 64)
_COMMANDS = [
    line
    for block in blocks()
    if block.page == "docs/gates.md" and block.language == "sh"
    for line in block.text.splitlines()
    if line.startswith(("gateway gates set web vulnerabilities", "gateway gates set web external"))
]


@pytest.mark.long
@real_trivy
async def test_each_command_about_scans_and_hooks_works_as_printed(
    postgres_server: str, registry: PrivateRegistry, tmp_path: Path, worker_id: str
) -> None:
    environment = {
        "HOME": str(tmp_path),
        **await database_settings(postgres_server, f"scans_page_{worker_id}"),
        "GATEWAY_DATA_DIR": str(tmp_path),
        "GATEWAY_TRIVY": str(TRIVY),
    }
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    accepted = f"CVE-2026-1 openssl exp:{tomorrow:%Y-%m-%d} # not reachable"

    async def cli(line: str, expected: int = 0) -> str:
        words = [word.replace("$(cat accepted.txt)", accepted) for word in shlex.split(line)[1:]]
        with patch("gateway.cli._logging.configure"):
            done: Result = await asyncio.to_thread(
                CliRunner(env=environment).invoke, cast("click.Command", main), words, prog_name="gateway"
            )
        assert done.exit_code == expected, (line, done.stdout, done.stderr)
        return done.stdout

    await push_files(registry.address, "scans/page", alpine(openssl="3.1.4-r0", musl="1.2.4-r2"))
    await cli(f"gateway apps create web {registry.address}/scans/page:latest")
    strict, lenient, hook = _COMMANDS

    await cli(strict)
    assert "no database" in await cli("gateway gates check web", expected=3)
    write_database(tmp_path / "trivy", PLANTED, UNFIXED)
    assert "CVE-2026-1 in openssl 3.1.4-r0, fixed in 3.1.5-r0" in await cli("gateway gates check web", expected=1)
    await cli(lenient)
    assert "passed" in await cli("gateway gates check web")
    write_database(tmp_path / "trivy", Advisory("CVE-2026-1", "musl", fixed="2-r0", severity="HIGH"))
    assert "CVE-2026-1 in musl" in await cli("gateway gates check web", expected=1)
    assert "secret, shown once" in await cli(hook)


async def test_the_whole_report_is_printed_as_json_that_acts_on_no_terminal(
    postgres_server: str, tmp_path: Path, worker_id: str
) -> None:
    settings = await database_settings(postgres_server, f"report_{worker_id}")
    evil = '{"Title": "\x7f\u202e\\u001b[2J"}'

    async def cli(*words: str) -> Result:
        with patch("gateway.cli._logging.configure"):
            return await asyncio.to_thread(
                CliRunner(env={"HOME": str(tmp_path), **settings}).invoke, cast("click.Command", main), words
            )

    await cli("apps", "create", "web", "acme/web:v1")
    deployment_id = json.loads((await cli("deploy", "web", "--json")).stdout)["deploymentId"]
    assert "no scanner was asked" in (await cli("gates", "report", deployment_id)).stderr
    async with connect(settings["GATEWAY_DATABASE_URL"]) as pool:
        await pool.execute("UPDATE deployments SET digest = $1", DIGEST)
        for age, text in ((40, b"{}"), (0, evil.encode())):
            scanned = Scanned(DIGEST, f"linux/{age}", "trivy")
            async with transaction(pool) as connection:
                await scan_reports.upsert_report(connection, scanned, "", text)
            await pool.execute(
                "UPDATE scan_reports SET created_at = now() - $1::interval WHERE platform = $2",
                timedelta(days=age),
                f"linux/{age}",
            )
        printed = (await cli("gates", "report", deployment_id)).stdout
        assert json.loads(printed) == json.loads(evil)
        assert printed.replace("\n", "").isprintable()
        async with transaction(pool) as connection:
            await scan_reports.delete_expired(connection, older_than=timedelta(days=30), most=1000)
        assert await pool.fetchval("SELECT count(*) FROM scan_reports") == 1
        async with transaction(pool) as connection:
            await scan_reports.delete_expired(connection, older_than=timedelta(days=30), most=0)
        assert await pool.fetchval("SELECT count(*) FROM scan_reports") == 0
