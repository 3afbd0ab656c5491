"""docs/gates.md: each command about signatures does what the page says, on a signed image of a real registry."""

import asyncio
import json
import shlex
from pathlib import Path
from typing import cast
from unittest.mock import patch

import aiohttp
import click
from click.testing import CliRunner, Result

from gateway.cli import main
from gateway.model.reference import Reference
from tests.support.attaching import Signable
from tests.support.databases import database_settings
from tests.support.doc_blocks import blocks
from tests.support.real_parts import Pushes
from tests.support.signing import SigningKey, envelope, pae, simple_payload, statement

_COMMANDS = [
    line
    for block in blocks()
    if block.page == "docs/gates.md" and block.language == "sh"
    for line in block.text.splitlines()
    if line.startswith(("gateway gates set web signature", "gateway gates set web provenance"))
]


async def test_each_command_about_signatures_works_as_printed(
    postgres_server: str, pushes: Pushes, tmp_path: Path, worker_id: str
) -> None:
    environment = {"HOME": str(tmp_path), **await database_settings(postgres_server, f"signed_page_{worker_id}")}
    key = SigningKey.generate(tmp_path)

    async def cli(line: str, expected: int = 0) -> str:
        words = [word.replace("$(cat cosign.pub)", key.public) for word in shlex.split(line)[1:]]
        with patch("gateway.cli._logging.configure"):
            done: Result = await asyncio.to_thread(
                CliRunner(env=environment).invoke, cast("click.Command", main), words, prog_name="gateway"
            )
        assert done.exit_code == expected, (line, done.stdout, done.stderr)
        return done.stdout

    digest = await pushes("v1")
    image = Reference.parse(pushes.name()).with_digest(digest)
    await cli(f"gateway apps create web {pushes.name()}")
    by_key, by_identity, provenance = _COMMANDS
    check = "gateway gates check web"

    await cli(by_key)
    assert "unknown" in await cli(check, expected=3)
    async with aiohttp.ClientSession() as session:
        signed = Signable(session, image)
        content = simple_payload(digest)
        await signed.sign(content, key.sign(content))
        workflow = {"repository": "https://github.com/acme/web", "ref": "refs/heads/main"}
        said = {"buildDefinition": {"externalParameters": {"workflow": workflow}}}
        attested = statement(digest, "https://slsa.dev/provenance/v1", said)
        await signed.attest(json.dumps(envelope(attested, key.sign(pae(attested)))).encode())
    assert "is signed by key sha256:" in await cli(check)
    await cli(provenance)
    assert "was built from https://github.com/acme/web@refs/heads/main" in await cli(check)
    await cli(by_identity)
    assert "GATEWAY_TRUSTED_ROOT" in await cli(check, expected=3)
