"""docs/backup.md: its commands are run one after another, from a database of its own to the embedded one and back."""

import asyncio
import shlex
from base64 import b64encode
from pathlib import Path
from typing import cast
from unittest.mock import patch

import asyncpg
import click
import pytest
from click.testing import CliRunner, Result

from gateway.cli import main
from tests.support.databases import address, create_database
from tests.support.doc_blocks import blocks

_LINES = [
    line
    for block in blocks()
    if block.page == "docs/backup.md" and block.language == "sh"
    for line in block.text.splitlines()
]


def test_the_page_has_the_commands() -> None:
    assert {shlex.split(line)[1] for line in _LINES} == {"backup", "restore", "serve"}


@pytest.mark.long
async def test_the_commands_of_the_page_back_up_and_restore(postgres_server: str, tmp_path: Path) -> None:
    url = await create_database(postgres_server, "backup_page")
    (tmp_path / "passphrase").write_text("correct horse battery\n")
    external = {"GATEWAY_DATABASE_URL": url, "GATEWAY_MASTER_KEY": b64encode(b"k" * 32).decode()}
    embedded = {"GATEWAY_DATA_DIR": str(tmp_path / "data"), "GATEWAY_DATABASE_URL": "", "GATEWAY_MASTER_KEY": ""}

    async def cli(environment: dict[str, str], *words: str) -> Result:
        with patch("gateway.cli._logging.configure"):
            return await asyncio.to_thread(
                CliRunner(env={"HOME": str(tmp_path), **environment}).invoke, cast("click.Command", main), [*words]
            )

    async def run(environment: dict[str, str], line: str) -> None:
        for of_page, here in (
            ("/backups/", f"{tmp_path}/"),
            ("/etc/gateway/backup-passphrase", f"{tmp_path}/passphrase"),
            ("$(date +%u)", "1"),
        ):
            line = line.replace(of_page, here)
        _, *words = shlex.split(line)
        if words == ["serve"]:
            return
        done = await cli(environment, *words)
        assert done.exit_code == 0, done.output
        assert "correct horse" not in done.output

    made = await cli(external, "webhooks", "create", "github", "--local", "--secret-file", str(tmp_path / "passphrase"))
    assert made.exit_code == 0, made.output
    for line in _LINES:
        await run(embedded if " restore " in line else external, line)
    listed = await cli(embedded, "webhooks", "list", "--local", "--json")
    assert '"github"' in listed.stdout

    # And back, to a database of its own with another key.
    await run(embedded, f"gateway backup {tmp_path}/again --passphrase-file {tmp_path}/passphrase")
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE DATABASE backup_page_again")
    await connection.close()
    other = {
        "GATEWAY_DATABASE_URL": address(url, "backup_page_again"),
        "GATEWAY_MASTER_KEY": b64encode(b"l" * 32).decode(),
    }
    await run(other, f"gateway restore {tmp_path}/again --passphrase-file {tmp_path}/passphrase")
    assert (await cli(other, "webhooks", "list", "--local", "--json")).stdout == listed.stdout
    refused = await cli(other, "restore", str(tmp_path / "again"), "--passphrase-file", str(tmp_path / "passphrase"))
    assert refused.exit_code == 1
    assert "not empty" in refused.output
