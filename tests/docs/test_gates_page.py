"""docs/gates.md: the commands that are for gates of every kind do what the page says."""

import asyncio
import shlex
from pathlib import Path
from typing import cast
from unittest.mock import patch

import click
from click.testing import CliRunner

from gateway.cli import main
from gateway.gates.catalog import GATES
from gateway.store.database import connect
from tests.support.databases import database_settings
from tests.support.doc_blocks import Block, blocks
from tests.support.gatekeeping import Attempts, digest
from tests.support.real_parts import Pushes
from tests.support.rollout_env import RecordedAlerts

PAGE = [one for one in blocks() if one.page == "docs/gates.md" and one.language == "sh"]


def _first(words: str) -> Block:
    """Return the first block of the page with these words: what is for every gate comes first."""
    return next(one for one in PAGE if words in one.text)


async def test_the_commands_for_every_gate_work_as_printed(
    postgres_server: str, tmp_path: Path, worker_id: str, pushes: Pushes
) -> None:
    environment = {"HOME": str(tmp_path), **await database_settings(postgres_server, f"gates_page_{worker_id}")}

    async def cli(*words: str, code: int = 0) -> str:
        with patch("gateway.cli._logging.configure"):
            done = await asyncio.to_thread(
                CliRunner(env=environment).invoke, cast("click.Command", main), words, prog_name="gateway"
            )
        assert done.exit_code == code, done.stderr
        return done.stdout

    async def run(block: Block, *, code: int = 0, deployment: str = "") -> list[str]:
        lines = [shlex.split(line.replace("DEPLOYMENT", deployment)) for line in block.text.splitlines()]
        return [await cli(*words, code=code) for _, *words in lines]

    await pushes("v1")
    await cli("apps", "create", "web", pushes.name())
    _, listed, opens = await run(_first("gateway gates set web maturity age=24h"))
    assert "maturity" in listed
    assert "no gate of this application is about time" in opens
    (checked,) = await run(_first("gateway gates check web"), code=3)
    assert "maturity: unknown, " in checked
    async with connect(environment["GATEWAY_DATABASE_URL"]) as pool:
        await pool.execute("INSERT INTO projects (project_id, name) VALUES ('shop', 'Shop')")
        await run(_first("--project Shop"))
        (gate,) = await pool.fetch("SELECT required, rule FROM gates WHERE project_id = 'shop'")
        assert (gate["required"], gate["rule"]) == (True, {"age": "1d"})
        await cli("deploy", "web")
        attempts = Attempts(pool, GATES, RecordedAlerts())
        assert await attempts.run(digest(1)) is None
        deployment = await pool.fetchval("SELECT deployment_id FROM deployments")
        assert "gate maturity: unknown at " in await cli("deployments", "show", deployment)
        (passes,) = await run(_first("gateway gates override"), deployment=deployment)
        assert passes.strip() == deployment
        assert await attempts.run(digest(1)) is not None
        assert "let it pass: the fix of the outage" in await cli("deployments", "show", deployment)
    await cli("gates", "set", "web", "maturity", "--off")
    assert '"enabled": false' in await cli("gates", "list", "web", "--json")
    _, removed = await run(_first("gateway gates remove web maturity"))
    assert removed == "removed maturity\n"
    assert '"enabled": false' not in await cli("gates", "list", "web", "--json")
