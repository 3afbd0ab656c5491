"""docs/groups.md: ten applications go out together by the commands of the page, on a real engine."""

import asyncio
import shlex
from base64 import b64encode
from typing import cast
from unittest.mock import patch

import click
import orjson
import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.cli.demo.images import Image, push
from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine
from gateway.store.database import Pool
from gateway.worker.supervisor import Supervisor
from tests.support.doc_blocks import blocks
from tests.support.real_parts import Pushes

NAMES = ("db", "cache", "queue", "api", "jobs", "mail", "search", "web", "admin", "docs")


@pytest.mark.long
async def test_ten_applications_go_out_together_by_the_commands_of_the_page(
    pool: Pool, postgres: str, engine: Engine, supervisor: Supervisor, pushes: Pushes
) -> None:
    assert supervisor.releases is not None  # it is what advances them
    key = b64encode(b"k" * 32).decode()
    environment = {"HOME": "/", "GATEWAY_DATABASE_URL": postgres, "GATEWAY_MASTER_KEY": key}

    async def cli(*words: str) -> str:
        with patch("gateway.cli._logging.configure"):
            done = await asyncio.to_thread(
                CliRunner(env=environment).invoke, cast("click.Command", main), words, prog_name="gateway"
            )
        assert done.exit_code == 0, done.output
        return done.stdout

    for name in NAMES:
        image = f"{pushes.address}/{pushes.path}-{name}:v1"
        await push(Image(name), image)
        await cli("apps", "create", name, image)
    said = {}
    for block in blocks():
        if block.page == "docs/groups.md" and block.language == "sh":
            for line in block.text.splitlines():
                _, *words = shlex.split(line)
                said[" ".join(words[:2])] = await cli(*words)
    try:
        assert all(name in said["groups show"] for name in NAMES)
        assert "succeeded" in said["release shop"]
        assert said["release shop"].count("moved") == len(NAMES)
        assert "succeeded" in said["releases list"]
        group = orjson.loads(await cli("groups", "show", "shop", "--json"))
        assert (group["settle"], [one["wave"] for one in group["members"]]) == (20, [1] * 3 + [2] * 4 + [3] * 3)
        (newest,) = orjson.loads(await cli("releases", "list", "shop", "--json"))
        shown = await cli("releases", "show", newest["releaseId"])
        assert "state" in shown
    finally:
        await cli("groups", "remove", "shop")
        rows = await pool.fetch("SELECT application_id FROM applications WHERE name = ANY($1)", NAMES)
        for row in rows:
            for container in await containers.list_labelled(engine, row["application_id"]):
                await containers.remove(engine, container.container_id)
