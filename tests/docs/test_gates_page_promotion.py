"""docs/gates.md: each command about promotion does what the page says, with a real registry."""

import asyncio
import json
import shlex
from pathlib import Path
from typing import cast
from unittest.mock import patch

import click
import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.store import applications
from gateway.store.database import connect, transaction
from tests.support.api_client import VAULT
from tests.support.databases import database_settings
from tests.support.doc_blocks import blocks
from tests.support.promotion_world import MINUTE, PRODUCTION, STAGING, PromotionWorld
from tests.support.real_parts import Pushes

_COMMANDS = [
    line
    for block in blocks()
    if block.page == "docs/gates.md" and block.language == "sh"
    for line in block.text.splitlines()
    if line.startswith(("gateway gates set production promotion", "gateway promotions"))
]


@pytest.mark.long
async def test_each_command_about_promotion_works_as_printed(
    postgres_server: str, pushes: Pushes, tmp_path: Path, worker_id: str
) -> None:
    environment = {"HOME": str(tmp_path), **await database_settings(postgres_server, f"promoted_page_{worker_id}")}

    async def cli(line: str, *more: str) -> str:
        words = [*shlex.split(line)[1:], *more]
        with patch("gateway.cli._logging.configure"):
            done = await asyncio.to_thread(
                CliRunner(env=environment).invoke, cast("click.Command", main), words, prog_name="gateway"
            )
        assert done.exit_code == 0, (line, done.stdout, done.stderr)
        return done.stdout

    follow, show, promote, withdraw = _COMMANDS
    digest = await pushes("v1")
    async with connect(environment["GATEWAY_DATABASE_URL"]) as pool:
        async with transaction(pool) as connection:
            for name in (STAGING, PRODUCTION):
                await applications.insert_application(
                    connection, application_id=name, name=name, app_name=name, description=None
                )
                await applications.update_application(connection, VAULT, name, {"docker_image": pushes.name()})
        world = PromotionWorld(pool, await pool.fetchval("SELECT now()"))
        await cli(follow)
        await world.deploy_staging(digest)
        (row,) = json.loads(await cli(show, "--json"))
        assert (row["digest"], row["state"], row["dueAt"]) == (digest, "soaking", (world.now + 30 * MINUTE).isoformat())
        await world.advance(30 * MINUTE)
        await world.promote()
        assert "queued" in await cli(show)
        assert digest in await cli(withdraw)
        assert "declined" in await cli(show)
        queued = await cli(promote.replace("DIGEST", digest))
        found = await world.queued()
        assert found is not None
        assert (found.deployment_id, found.forced) == (queued.strip(), True)
