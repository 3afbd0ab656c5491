"""docs/approvals.md, and windows, maturity and approvals in docs/gates.md: each command does what it says."""

import asyncio
import json
import shlex
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast
from unittest.mock import patch

import click
import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.gates import window
from gateway.store.database import connect
from tests.support.approving import Asking
from tests.support.databases import database_settings
from tests.support.doc_blocks import blocks

Cli = Callable[..., Awaitable[str]]


@pytest.fixture(scope="module")
async def environment(
    postgres_server: str, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> dict[str, str | None]:
    home: Path = tmp_path_factory.mktemp("home")
    return {"HOME": str(home), **await database_settings(postgres_server, f"approvals_page_{worker_id}")}


@pytest.fixture(scope="module")
async def cli(environment: dict[str, str | None]) -> Cli:
    """A command line with an application whose deployment is queued."""

    async def run(*words: str) -> str:
        with patch("gateway.cli._logging.configure"):
            done = await asyncio.to_thread(
                CliRunner(env=environment).invoke, cast("click.Command", main), words, prog_name="gateway"
            )
        assert done.exit_code == 0, done.stderr
        return done.stdout

    await run("apps", "create", "web", "acme/web:v1")
    await run("deploy", "web")
    return run


async def run_lines(cli: Cli, text: str) -> dict[str, str]:
    """Run each line, and return what it printed by its second word."""
    return {words[2]: await cli(*words[1:]) for words in map(shlex.split, text.splitlines())}


def printed(page: str, word: str) -> str:
    """Return the one block of commands that has this word."""
    (found,) = [one.text for one in blocks() if one.page == page and one.language == "sh" and word in one.text]
    return found


@pytest.mark.parametrize(("word", "name"), [("22:00", "window"), ("year-end", "year-end")])
async def test_next_says_when_a_printed_window_opens(cli: Cli, word: str, name: str) -> None:
    await run_lines(cli, printed("docs/gates.md", word))
    (rule,) = [one["rule"] for one in json.loads(await cli("gates", "list", "web", "--json")) if one["name"] == name]
    (said,) = [one for one in json.loads(await cli("gates", "next", "web", "--json"))["gates"] if one["name"] == name]
    opening = window.next_opening(window.Rule.model_validate(rule), datetime.now(UTC))
    assert opening is not None
    assert abs(datetime.fromisoformat(said["opensAt"]) - opening) < timedelta(minutes=5)


async def test_the_printed_age_and_approvals_are_set(cli: Cli) -> None:
    await run_lines(cli, printed("docs/gates.md", "age=3d"))
    await run_lines(cli, printed("docs/gates.md", "approval count"))
    listed = await cli("gates", "list", "web")
    assert '{"age": "3d"}' in listed
    assert '"count": 2' in listed


async def test_each_command_of_the_page_of_approvals_works_as_printed(
    cli: Cli, environment: dict[str, str | None]
) -> None:
    async with connect(str(environment["GATEWAY_DATABASE_URL"])) as pool:
        application_id = await pool.fetchval("SELECT application_id FROM applications")
        asking = Asking(pool, {"count": 2, "askerMayApprove": True}, application_id)
        await asking.ask()
        approval_id = await asking.open_id()
        said = await run_lines(cli, printed("docs/approvals.md", "approvals show").replace("APPROVAL", approval_id))
        assert approval_id in said["list"]
        assert "image" in said["show"]
        assert "deferred until" in said["defer"]
        assert "1 of 2" in said["approve"]
        assert "not before the audit" in said["reject"]
        assert "rejected" in (await asking.ask()).message
