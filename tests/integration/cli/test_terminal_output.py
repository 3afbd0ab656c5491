"""Foreign text has no effect on terminals, logs and chats; every error has a message and an exit code."""

import asyncio
import importlib
import pkgutil
import re
import sys
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import click
import orjson
import pytest
from aiohttp import web as aiohttp_web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner
from pydantic import BaseModel

import gateway
from gateway.api.procedures.catalog import PROCEDURES
from gateway.background import BackgroundTasks
from gateway.cli import main
from gateway.cli._errors import readable_error
from gateway.model.sanitize import safe_line, safe_text
from gateway.store import gateway_address
from gateway.worker.alerts import Alert, send_alerts
from tests.support.api_client import Web

ROOT = Path(gateway.__file__).parent
#: writes to the clipboard, clears the screen, goes up a line and poses as another, turns the writing, is markup
HOSTILE = "[/x]\x1b]52;c;aGk=\x07\x1b[2J\x1b[1A\r\nsucceeded \u202e\x9b31m [bold]b[/bold]"
ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")
MARK = "s3cret-mark"


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cli._logging.configure", lambda *_: None)


async def run(url: str, *words: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """Run the command on a database; return its exit code and both outputs."""
    environment = {"GATEWAY_DATABASE_URL": url, "GATEWAY_MASTER_KEY": b64encode(b"k" * 32).decode()}
    done = await asyncio.to_thread(CliRunner(env=environment).invoke, cast("click.Command", main), words, input=stdin)
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
async def hostile(web: Web) -> Web:
    """A gateway whose texts all contain control sequences."""
    made = await web.mutate("application.create", name=HOSTILE, dockerImage="docker.io/library/a:latest")
    application = made["applicationId"]
    await web.pool.execute(
        """
        INSERT INTO deployments (deployment_id, application_id, kind, forced, title, reference, status, finished_at,
                                 reason_code, reason_message, log)
        VALUES ('hostile', $1, 'deploy', false, $2, 'docker.io/library/a:latest', 'failed', now(), 'exited', $2, $2)
        """,
        application,
        HOSTILE,
    )
    await web.pool.execute(
        "INSERT INTO steps (deployment_id, epoch, number, step, detail, started_at, finished_at) "
        "VALUES ('hostile', 1, 0, 'pull', $1, now(), now())",
        HOSTILE,
    )
    await web.pool.execute(
        """
        INSERT INTO deliveries (delivery_id, source, body, verdict, headers, ignored)
        VALUES ('hostile', 'generic', $1, 'ignored', $2, $3)
        """,
        HOSTILE.encode(),
        {HOSTILE: HOSTILE},
        [{"reference": HOSTILE, "reason": HOSTILE}],
    )
    return web


@pytest.mark.parametrize(
    "words",
    [
        ("apps", "list"),
        ("deliveries", "list"),
        ("deliveries", "show", "hostile"),
        ("deployments", "list"),
        ("deployments", "show", "hostile"),
        ("audit",),
    ],
    ids=" ".join,
)
async def test_foreign_text_has_no_effect_on_a_terminal(hostile: Web, web_postgres: str, words: Sequence[str]) -> None:
    code, out, err = await run(web_postgres, *words)
    assert (code, err) == (0, "")
    assert "[/x]\\x1b]52;c;aGk=\\x07" in out
    assert ACTS.findall(out) == []
    assert not any(line.startswith("succeeded") for line in out.splitlines())
    code, out, err = await run(web_postgres, *words, "--json")
    assert (code, err, ACTS.findall(out)) == (0, "", [])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("webhooks", "create", "github", "--name", "n" * 300), "name: String should have at most 255 characters"),
        (("webhooks", "create", "github", "--secret-file", "-"), "secret: String should have at most 4096 characters"),
        (("webhooks", "rotate", "none", "--secret-file", "-"), "There is no webhook 'none'"),
        (("webhooks", "create", "github", "--set", f"{MARK}-a=b"), "github has no setting"),
        (("keys", "create", ""), "name"),
        (("apps", "create", "a", "a:b:c"), "dockerImage"),
        (("servers", "create", "s", f"tcp://u:{MARK}:x@h:1"), "cannot contain a password"),
        (
            ("registries", "create", "r", f"https://u:{MARK}@[r", "--username", "u", "--password-file", "-"),
            "registry's address",
        ),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, tuple) else "",
)  # fmt: skip
async def test_error_messages_do_not_repeat_the_given_values(
    web: Web, web_postgres: str, words: Sequence[str], said: str
) -> None:
    secret = (f"{MARK} " * 1000).encode()
    code, out, err = await run(web_postgres, *words, stdin=secret)
    assert (code, out) == (1, "")
    assert said in err
    code, out, json_err = await run(web_postgres, *words, "--json", stdin=secret)
    assert (code, out) == (1, "")
    assert said in orjson.loads(json_err)["error"]["message"]
    for one in (err, json_err):
        assert "Traceback" not in one
        assert MARK not in one.replace(f"{MARK}-a", "")  # a setting's name is no secret


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("keys", "create", "a", "--expires", "never"), "is neither a duration"),
        (("keys", "create", "a", "--expires", "2001-01-01"), "is not between now and ten years (3650d) from now"),
        (("keys", "create", "a", "--expires", "99999999y"), "is not between now and ten years (3650d) from now"),
        (("webhooks", "rotate", "a", "--grace", "9" * 30), "not in the range 0<=x<=2592000"),
        (("webhooks", "create", "github", "--rate", "9" * 30), "not in the range 1<=x<=1000000"),
        (("keys", "list", "--limit", "9" * 30), "not in the range 1<=x<=1000"),
        (("audit", "--before", "9" * 30), "not in the range 1<=x<=9223372036854775807"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, tuple) else "",
)
async def test_a_number_or_time_out_of_its_bounds_is_wrong_usage(
    web_postgres: str, words: Sequence[str], said: str
) -> None:
    code, out, err = await run(web_postgres, *words)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())


@pytest.mark.parametrize("number", ["²", "9" * 5000])
@pytest.mark.parametrize("option", [("--publish", "{}:80"), ("--publish", "80:{}"), ("--probe", "tcp:{}")])
async def test_a_port_that_is_no_number_is_rejected_as_such(
    web_postgres: str, option: tuple[str, str], number: str
) -> None:
    code, out, err = await run(web_postgres, "apps", "create", "a", "app:1", option[0], option[1].format(number))
    assert (code, out) == (1, "")
    assert f"{option[0]} takes" in err


async def test_a_word_that_is_no_text_is_wrong_usage(web_postgres: str) -> None:
    code, _, err = await run(web_postgres, "keys", "create", "\udcff")
    assert code == 2
    assert "is not UTF-8" in err


@pytest.mark.parametrize("url", [f"postgresql://u:{MARK}:x@h:y/db", f"postgresql://u:p#{MARK}@h/db", f"{MARK}://a"])
async def test_an_invalid_database_url_is_reported_without_its_password(url: str) -> None:
    code, _, err = await run(url, "keys", "list")
    assert code == 1
    assert "GATEWAY_DATABASE_URL is not a URL of PostgreSQL" in err
    assert MARK not in err


def test_a_defect_is_reported_by_its_place_without_its_message() -> None:
    with pytest.raises(ValueError, match="unexpected") as caught:
        orjson.loads(MARK)
    told = readable_error(caught.value)
    assert told.startswith("this is a defect of the gateway: JSONDecodeError in test_terminal_output.py, line ")
    assert MARK not in told
    assert readable_error(TimeoutError()) != ""


def test_commands_print_by_one_function() -> None:
    """That function escapes control characters. The documents of the API contain no foreign text."""
    printers = {
        path.name
        for path in (ROOT / "cli").glob("*.py")
        if re.search(r"click\.s?echo\(|(?<!\w)print\(", path.read_text(encoding="utf-8"))
    }
    assert printers <= {"_runner.py", "_follow.py", "api.py", "_errors.py"}


def test_every_model_hides_input_in_its_errors() -> None:
    for module in pkgutil.walk_packages(gateway.__path__, "gateway."):
        if module.name != "gateway.__main__":
            importlib.import_module(module.name)
    found = list(models(BaseModel))
    assert len(found) > 50
    assert [one for one in found if not one.model_config.get("hide_input_in_errors")] == []


def models(above: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for one in above.__subclasses__():
        if one.__module__.startswith("gateway."):
            yield one
        yield from models(one)


SECRET = re.compile(r"secret|password|env$|variables|Key$|credentials|content", re.IGNORECASE)


async def test_no_answer_repeats_a_secret_that_was_wrong(web: Web) -> None:
    tried = 0
    for procedure in PROCEDURES.values():
        fields = {field.alias or name for name, field in procedure.takes.model_fields.items()}
        for field in filter(SECRET.search, fields):
            for wrong in (MARK * 500_000, [MARK], {"a": [MARK]}, MARK + "\0", f"A={MARK}\n\0="):
                status, answer = await web.post(f"/api/{procedure.name}", {field: wrong})
                assert status < 500, (procedure.name, field)
                assert MARK not in str(answer), (procedure.name, field)
                tried += 1
    assert tried > 100


async def test_a_webhook_is_shown_at_the_address_of_the_server_not_of_the_shell(
    web: Web, web_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_PUBLIC_URL", "https://shell.example.com")
    for public_url, shown in ((None, "https://shell.example.com"), ("https://a.example.com", "https://a.example.com")):
        async with web.pool.acquire() as connection:
            await gateway_address.update_serving(connection, public_url=public_url, listens="http://127.0.0.1:8080")
        code, out, err = await run(web_postgres, "webhooks", "create", "github")
        assert code == 0
        assert shown + orjson.loads(out)["path"] in err
    monkeypatch.delenv("GATEWAY_PUBLIC_URL")
    await web.empty("serving")
    assert "GATEWAY_PUBLIC_URL is not set" in (await run(web_postgres, "webhooks", "create", "github"))[2]


# -- elsewhere than at a terminal


def test_control_characters_are_written_out_and_all_else_stays() -> None:
    assert safe_line("a\tb\r\nc\x1b[0m\x9b\u202eé 語 🚀") == "a b\\nc\\x1b[0m\\x9b\\u202eé 語 🚀"
    assert safe_text("a\r\nb\n") == "a\nb\n"


LOG = """
import logging, sys, structlog
from gateway.cli import _logging
_logging.configure("info", "text")
structlog.get_logger().info(sys.argv[1], **{sys.argv[2]: sys.argv[3]})
logging.getLogger("other").warning("%s", sys.argv[3])
try:
    raise ValueError(sys.argv[3])
except ValueError:
    structlog.get_logger().exception("failed")
"""


async def test_a_line_of_the_log_stays_one_line_and_does_not_act() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LOG, HOSTILE, HOSTILE, HOSTILE, stdout=-1, stderr=-1
    )
    _, err = await process.communicate()
    plain = re.sub(r"\x1b\[\d*m", "", err.decode())  # the log's own colours
    assert ACTS.findall(plain) == []
    assert plain.count("\\x1b]52") == 5
    assert not any(one.startswith("succeeded") for one in plain.partition("Traceback")[0].splitlines())


async def test_an_alert_contains_no_markup_and_mentions_nobody() -> None:
    handlers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def hear(request: aiohttp_web.Request) -> aiohttp_web.Response:
        await handlers.put(await request.json())
        return aiohttp_web.Response()

    application = aiohttp_web.Application()
    application.router.add_post("/{path:.*}", hear)
    body = 'image <img src=x onerror="alert(1)"> @everyone [click](http://evil.example.com) \x1b[2J'
    async with TestServer(application) as server:
        at = f"127.0.0.1:{server.port}"
        async with send_alerts(
            f"json://{at}/plain, json://{at}/html?format=html, mmost://{at}/token", BackgroundTasks()
        ) as alerts:
            alerts.send(Alert("app\nFrom: you", body))
            told = [await handlers.get() for _ in range(3)]
    texts = {("chat" if "text" in one else "html" if "&lt;" in one["message"] else "plain"): one for one in told}
    assert texts.keys() == {"chat", "html", "plain"}
    assert texts["plain"]["title"] == "app\\nFrom: you"
    assert "<img" not in texts["html"]["message"]
    assert "[click](http" not in texts["chat"]["text"]
    for one in told:
        assert "@everyone" not in str(one)
        assert "\x1b" not in str(one.values())
