"""docs/approvals.md: each command of the page does what it says."""

import asyncio
import shlex
from pathlib import Path
from typing import cast
from unittest.mock import patch

import click
from click.testing import CliRunner

from gateway.cli import main
from gateway.store.database import connect
from tests.support.approving import Asking
from tests.support.databases import database_settings
from tests.support.doc_blocks import blocks


async def test_each_command_of_the_page_works_as_printed(postgres_server: str, tmp_path: Path, worker_id: str) -> None:
    environment = {"HOME": str(tmp_path), **await database_settings(postgres_server, f"approvals_page_{worker_id}")}

    async def cli(*words: str) -> str:
        with patch("gateway.cli._logging.configure"):
            done = await asyncio.to_thread(
                CliRunner(env=environment).invoke, cast("click.Command", main), words, prog_name="gateway"
            )
        assert done.exit_code == 0, done.stderr
        return done.stdout

    await cli("apps", "create", "shop", "acme/web:v1")
    await cli("deploy", "shop")
    async with connect(environment["GATEWAY_DATABASE_URL"]) as pool:
        application_id = await pool.fetchval("SELECT application_id FROM applications")
        asking = Asking(pool, {"count": 2, "askerMayApprove": True}, application_id)
        await asking.ask()
        approval_id = await asking.open_id()
        (block,) = [one for one in blocks() if one.page == "docs/approvals.md" and one.language == "sh"]
        said = {}
        for line in block.text.splitlines():
            _, *words = shlex.split(line.replace("APPROVAL", approval_id))
            said[words[1]] = await cli(*words)
        assert approval_id in said["list"]
        assert "image" in said["show"]
        assert "deferred until" in said["defer"]
        assert "1 of 2" in said["approve"]
        assert "not before the audit" in said["reject"]
        assert "rejected" in (await asking.ask()).message
