"""Commands from a laptop: with an address and a key, with a saved context, and what is made from the commands."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import aiohttp
import click
import orjson
import pytest
from aiohttp import web as http
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result

from gateway.cli import main
from gateway.cli._application_options import with_variables
from gateway.cli._table import Id, format_table, wrap
from gateway.model.errors import InvalidInput
from tests.support.api_client import Web

DOCS = Path(__file__).parents[3] / "docs"


class Laptop:
    """A user without an installation, whose commands reach the gateway over HTTP."""

    def __init__(self, web: Web, home: Path) -> None:
        self.url, self.key, self.home = str(web.client.make_url("/")).rstrip("/"), web.key, home
        self.environment = {"HOME": str(home), "XDG_CONFIG_HOME": "", "XDG_DATA_HOME": "", "GATEWAY_DATABASE_URL": ""}

    async def run(self, *words: str, given: str = "", **more: str) -> Result:
        runner = CliRunner(env={**self.environment, **more})
        return await asyncio.to_thread(runner.invoke, cast("click.Command", main), words, input=given)

    async def json(self, *words: str) -> object:
        done = await self.run(*words, "--json", GATEWAY_URL=self.url, GATEWAY_API_KEY=self.key)
        assert (done.exit_code, done.stderr) == (0, "")
        return orjson.loads(done.stdout)


@pytest.fixture
def laptop(shared_web: Web, tmp_path: Path) -> Laptop:
    return Laptop(shared_web, tmp_path)


async def test_a_login_is_used_until_logout_and_makes_nothing_else(laptop: Laptop) -> None:
    assert "No gateway was found" in (await laptop.run("apps", "list")).stderr
    refused = await laptop.run("login", laptop.url, given="gw_wrong\n")
    assert (refused.exit_code, "does not accept the key" in refused.stderr) == (1, True)
    done = await laptop.run("login", laptop.url, "--name", "test", given=laptop.key + "\n")
    assert (done.exit_code, laptop.key in done.output) == (0, False)
    assert (await laptop.run("apps", "list")).exit_code == 0
    listed = orjson.loads((await laptop.run("contexts", "list", "--json")).stdout)
    assert listed == [{"name": "test", "url": laptop.url, "current": True}]
    assert (await laptop.run("contexts", "leave")).exit_code == 0
    assert (await laptop.run("apps", "list")).exit_code == 3
    assert (await laptop.run("apps", "list", "--context", "test")).exit_code == 0
    assert "no context 'prod'; there are: test" in (await laptop.run("apps", "list", GATEWAY_CONTEXT="prod")).stderr
    assert (await laptop.run("logout", "test")).exit_code == 0
    assert sorted(path.name for path in laptop.home.rglob("*")) == [".config", "contexts.json", "pushdeploy"]


async def test_the_address_of_a_page_logs_in_to_its_gateway(laptop: Laptop) -> None:
    done = await laptop.run("login", f"{laptop.url}/dashboard/apps?state=running", given=laptop.key)
    assert (done.exit_code, f"logged in to {laptop.url} as context" in done.stdout) == (0, True), done.stderr
    done = await laptop.run("login", f"{laptop.url}/elsewhere", given=laptop.key)
    assert f"There is no gateway at {laptop.url}/elsewhere. Give the address without a path" in done.stderr


async def test_a_context_is_named_after_host_and_port_and_says_which_other_address_it_replaces(laptop: Laptop) -> None:
    done = await laptop.run("login", laptop.url, "--json", given=laptop.key)
    assert orjson.loads(done.stdout)["context"] == laptop.url.removeprefix("http://")
    again = await laptop.run("login", laptop.url, given=laptop.key)
    assert (again.exit_code, again.stderr) == (0, "")
    other = laptop.url.replace("127.0.0.1", "localhost")
    name = laptop.url.removeprefix("http://")
    replacing = await laptop.run("login", other, "--name", name, given=laptop.key)
    assert f"the context {name} was {laptop.url} until now, and its key is forgotten" in replacing.stderr
    listed = orjson.loads((await laptop.run("contexts", "list", "--json")).stdout)
    assert listed == [{"name": name, "url": other, "current": True}]


async def test_a_key_of_another_address_is_not_sent(laptop: Laptop) -> None:
    await laptop.run("login", laptop.url, given=laptop.key)
    other = laptop.url.replace("127.0.0.1", "localhost")
    done = await laptop.run("apps", "list", GATEWAY_URL=other)
    assert f"GATEWAY_URL is {other}, and there is no key for it" in done.stderr
    assert (await laptop.run("apps", "list", GATEWAY_URL=laptop.url)).exit_code == 0


async def test_an_application_is_changed_stopped_started_and_deleted_from_afar(laptop: Laptop, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("A=1\nB='two words'\n")
    made = await laptop.json(
        "apps", "create", "Far Away", "acme/far:1", "--env-file", str(tmp_path / "env"), "-e", "C=3"
    )
    named = cast("dict[str, str]", made)["applicationId"]
    await laptop.json("apps", "update", "far-away", "-e", "A=it's 2")
    shown = cast("dict[str, str | None]", await laptop.json("apps", "show", named[:8]))
    assert shown["env"] == "B='two words'\nC=3\nA=it's 2"
    assert (shown["deploymentState"], shown["desired"]) == (None, "running")
    await laptop.json("apps", "rename", "far-away", "Near")
    for words in (("deploy", "Near"), ("apps", "restart", "Near"), ("apps", "stop", "Near"), ("apps", "start", "Near")):
        assert list(cast("dict[str, str]", await laptop.json(*words))) in (["deploymentId"], ["applicationId"])
    (newest, *_) = cast("list[dict[str, str]]", await laptop.json("deployments", "list", "Near"))
    assert "log" in cast("dict[str, str]", await laptop.json("deployments", "logs", newest["deploymentId"][:8]))
    asked = await laptop.run("apps", "delete", "Near", GATEWAY_URL=laptop.url, GATEWAY_API_KEY=laptop.key)
    assert (asked.exit_code, "say --yes" in asked.stderr) == (1, True)
    await laptop.json("apps", "delete", "Near", "--yes")
    assert "Near" not in str(await laptop.json("apps", "list"))


async def test_the_status_says_that_nothing_rolls_out(laptop: Laptop) -> None:
    done = await laptop.run("status", "--json", GATEWAY_URL=laptop.url, GATEWAY_API_KEY=laptop.key)
    told = orjson.loads(done.stdout)
    assert (done.exit_code, told["engines"][0]["error"]) == (1, "nobody answers")
    gone = await laptop.run("status", GATEWAY_URL="http://127.0.0.1:1", GATEWAY_API_KEY=laptop.key)
    assert (gone.exit_code, "http://127.0.0.1:1 cannot be reached" in gone.stderr) == (3, True)


async def test_an_answer_of_another_version_that_lacks_something_is_told_so(laptop: Laptop) -> None:
    async def answer(_: http.Request) -> http.Response:
        return http.json_response([{}], headers={"X-Gateway-Version": "9.9"})

    application = http.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(application) as server:
        url = f"http://127.0.0.1:{server.port}"
        done = await laptop.run("apps", "list", GATEWAY_URL=url, GATEWAY_API_KEY="gw_1")
    assert done.exit_code == 3
    assert f"the gateway at {url} is of version 9.9, this command line of" in done.stderr
    assert "update the older one" in done.stderr


async def test_what_answers_everything_is_no_gateway_to_log_in_to(laptop: Laptop) -> None:
    async def answer(_: http.Request) -> http.Response:
        return http.json_response({})

    application = http.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(application) as server:
        done = await laptop.run("login", f"http://127.0.0.1:{server.port}", given="gw_1\n")
    assert (done.exit_code, "is it one?" in done.stderr) == (3, True)
    assert "No gateway was found" in (await laptop.run("apps", "list")).stderr


async def test_another_socket_than_the_one_for_commands_needs_a_key(shared_web: Web, tmp_path: Path) -> None:
    """As the one between the processes of a gateway: who relays there says whose request it is."""
    path = str(tmp_path / "other")
    await http.UnixSite(shared_web.client.server.runner, path).start()
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
        claimed = {"X-Gateway-Relayed-From": "127.0.0.1", "X-Gateway-Client": "1", "X-Gateway-Sudo-User": "root"}
        for headers in ({}, claimed):
            async with session.get("http://gateway/api/application.all", headers=headers) as answer:
                assert answer.status == 401


async def test_projects_and_webhooks_are_shown_by_name(laptop: Laptop) -> None:
    await laptop.json("projects", "create", "Shop")
    await laptop.json("apps", "create", "in-shop", "acme/shop:1")
    assert "production" in str(await laptop.json("projects", "show", "Shop"))
    made = cast("dict[str, str]", await laptop.json("webhooks", "create", "github", "--name", "hook"))
    assert made["url"].startswith(laptop.url)
    shown = str(await laptop.json("webhooks", "show", "hook"))
    assert made["secret"] not in shown
    await laptop.json("projects", "rename", "Shop", "Store")
    await laptop.json("projects", "remove", "Store")


async def test_a_shell_completes_names_of_applications(laptop: Laptop) -> None:
    await laptop.json("apps", "create", "completed", "acme/shop:1")
    words = {"COMP_WORDS": "gateway apps show compl", "COMP_CWORD": "3", "_GATEWAY_COMPLETE": "bash_complete"}
    remote = {"GATEWAY_URL": laptop.url, "GATEWAY_API_KEY": laptop.key}
    done = await asyncio.to_thread(
        subprocess.run,
        ["python", "-c", "from gateway.cli import main; main(prog_name='gateway')"],
        env={**laptop.environment, **words, **remote, "PATH": str(Path(sys.executable).parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("plain,completed\n", "")
    for shell in ("bash", "zsh", "fish"):
        assert "_GATEWAY_COMPLETE" in (await laptop.run("completion", shell)).stdout


async def test_the_reference_is_made_from_the_help(laptop: Laptop) -> None:
    made = (await laptop.run("man", "--format", "markdown")).stdout
    assert made == await asyncio.to_thread((DOCS / "cli.md").read_text, encoding="utf-8"), "run: make cli"
    page = (await laptop.run("man")).stdout
    assert page.startswith(".TH GATEWAY 1")
    assert [line for line in page.splitlines() if line.startswith("'")] == []


@pytest.mark.parametrize(
    ("text", "given", "made"),
    [
        (None, ["A=1"], "A=1"),
        ("A=1\nB=2", ["A=3"], "B=2\nA=3"),
        ("A='x\nB=2'\n", ["B=3"], "A='x\nB=2'\nB=3"),
        (None, ["A=a # b"], "A='a # b'"),
        (None, ["A= it's #1"], "A=` it's #1`"),
        (None, ["A="], "A="),
    ],
)
def test_a_variable_takes_the_place_of_the_one_of_its_name(text: str | None, given: Sequence[str], made: str) -> None:
    assert with_variables(text, given) == made


@pytest.mark.parametrize("given", ["A", "=1", "A B=1", "A=\n'`\" #"])
def test_what_is_no_variable_is_refused_without_its_value(given: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        with_variables(None, [given])
    assert given.partition("=")[2] not in str(refused.value) or not given.partition("=")[2]


def test_a_table_fits_its_terminal() -> None:
    row = (
        Id("6b1f2c3d-aaaa-bbbb-cccc-1234567890ab"),
        "shop 語語",
        "ghcr.io/acme/a-very-long-repository-name:1.2.3",
        "running",
    )
    lines = format_table(("ID", "NAME", "IMAGE", "STATE"), [row], None)
    assert len(lines) == 2
    assert row[0] in lines[1]
    lines = format_table(("ID", "NAME", "IMAGE", "STATE"), [row], 60)
    assert max(len(line) for line in lines) <= 60
    assert "6b1f2c3d " in lines[1]
    assert "aaaa" not in "".join(lines)


def test_ids_in_a_narrow_table_are_as_long_as_they_differ() -> None:
    rows = [(Id(f"01a22c43-1b2c-7{number}00-bbbb-1234567890ab"), "x" * 60) for number in range(3)]
    lines = format_table(("ID", "NAME"), rows, 60)
    assert max(len(line) for line in lines) <= 60
    assert [line.split()[0] for line in lines[1::2]] == [f"01a22c43-1b2c-7{number}" for number in range(3)]


def test_a_long_text_at_the_end_of_a_narrow_row_stands_below_it() -> None:
    row = (Id("6b1f2c3d-aaaa-bbbb-cccc-1234567890ab"), "done", "2026-11-30 11:42:19 UTC", "word " * 30)
    lines = format_table(("ID", "STATE", "AT", "WHAT"), [row, row], 60)
    assert lines[0] == "ID        STATE  AT"
    assert lines[1] == "6b1f2c3d  done   2026-11-30 11:42:19 UTC"
    assert {line[:4] for line in lines[2:5]} == {"    "}
    assert max(len(line) for line in lines) <= 60


def test_words_and_times_in_a_narrow_table_are_broken_last() -> None:
    row = ("web", "registry.example.com:5000/acme/shop:1.2.3", "2026-11-30 11:42:19 UTC", "engine_refused")
    lines = format_table(("NAME", "IMAGE", "CREATED", "REASON"), [row], 48)
    assert [line.split() for line in lines] == [
        ["NAME", "IMAGE", "CREATED", "REASON"],
        ["web", "registry.", "2026-11-30", "engine_"],
        ["example.com:", "11:42:19", "UTC", "refused"],
        ["5000/acme/"],
        ["shop:1.2.3"],
    ]
    assert max(map(len, lines)) <= 48


def test_a_text_on_a_terminal_is_broken_between_words_and_what_is_copied_is_whole() -> None:
    digest = "sha256:" + "ab" * 32
    assert wrap(f"  resolve   53 ms  {digest}", 80, "    ") == ["  resolve   53 ms", f"    {digest}"]
    assert wrap(digest, 40) == [digest]
    assert wrap("word " * 20, None) == ["word " * 20]
    assert wrap("", 80) == [""]
