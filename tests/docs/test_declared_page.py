"""docs/declared.md: its declarations are applied by the commands of the page, and then nothing differs any more."""

import asyncio
import shlex
from base64 import b64encode
from pathlib import Path
from typing import cast
from unittest.mock import patch

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from gateway.cli import main
from gateway.model.declared import yaml_text
from gateway.model.declared.forms import DeclarationForm
from gateway.model.declared.objects import parse_form
from tests.support.databases import create_database
from tests.support.doc_blocks import blocks

_BLOCKS = [block for block in blocks() if block.page == "docs/declared.md"]
_FILES = {block.text.splitlines()[0].removeprefix("# "): block.text for block in _BLOCKS if block.language == "yaml"}
_COMPOSE = _FILES.pop("compose.yaml")
_FOR_COMPOSE = {"compose.yaml": _COMPOSE, "password.txt": "hidden-3"}
_SECRETS = {"GHCR_TOKEN": "token-of-ghcr", "DEPLOY_LOG_URL": "https://hooks.example.com/x"}


def test_each_declaration_of_the_page_has_the_form_of_one() -> None:
    assert _FILES
    for text in _FILES.values():
        document = yaml_text.parse(text).value
        assert document == yaml.safe_load(text)
        parse_form(DeclarationForm, document)


@pytest.mark.long
async def test_the_commands_of_the_page_apply_its_declarations(
    postgres_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await create_database(postgres_server, "declared_page")
    environment = {
        "HOME": str(tmp_path),
        "GATEWAY_DATABASE_URL": url,
        "GATEWAY_MASTER_KEY": b64encode(b"k" * 32).decode(),
        **_SECRETS,
    }
    monkeypatch.chdir(tmp_path)
    for name, text in {**_FILES, "database-password": "hidden-1\n", "api.conf": "hidden-2\n", **_FOR_COMPOSE}.items():
        (tmp_path / name).write_text(text)

    async def cli(*words: str) -> Result:
        with patch("gateway.cli._logging.configure"):
            return await asyncio.to_thread(
                CliRunner(env=environment).invoke, cast("click.Command", main), [*words, "--local"], prog_name="gateway"
            )

    async def settled() -> None:
        for name in _FILES:
            done = await cli("apply", "--file", name, "--plan")
            assert done.exit_code == 0, done.output

    done = await cli("apply", "--file", "platform.yaml")
    assert done.exit_code == 0, done.output
    for block in _BLOCKS:
        if block.language != "sh":
            continue
        for line in block.text.splitlines():
            _, *words = shlex.split(line)
            done = await cli(*words)
            if "--engine" in words:  # there is none here
                assert done.exit_code == 3
                assert "no Docker Engine is connected" in done.output
                continue
            assert done.exit_code == (2 if "--plan" in words else 0), done.output
            assert "hidden-" not in done.output
    await settled()

    exported = (await cli("export")).stdout
    (tmp_path / "export.yaml").write_text(exported)
    assert "token-of-ghcr" not in exported
    done = await cli("apply", "--file", "export.yaml", "--plan")
    assert done.exit_code == 0, done.output
    assert "declaration  " not in done.output

    (tmp_path / "hand.yaml").write_text("declaration: hand\napplications: {db: {}}\n")
    assert (await cli("apply", "--file", "hand.yaml")).exit_code == 0
    done = await cli("import", "compose", "compose.yaml", "--apply")
    assert done.exit_code != 0
    assert "nothing is applied: application db is there already" in done.output
    assert "created" not in done.output
    done = await cli("import", "compose", "compose.yaml", "--apply", "--take-over")
    assert "changed application db" in done.output
