"""The steps that a webhook is printed with are right as pasted."""

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.cli._setup_steps import setup_steps
from gateway.cli.demo.images import Image, push
from gateway.cli.demo.process import WITH_US, free_port, until
from gateway.sources import SOURCES, Request, Trust

AWS = """
aws() {
  case "$2" in
    create-connection) printf '%s' "$*" | grep -q file://connection.json && cp connection.json seen-connection.json ;;
  esac
  echo "$*" >> seen
  [ "$2" = put-rule ] && echo "arn:aws:events:eu-west-1:1234:rule/pushdeploy" || echo "arn:aws:$1:$2"
}
"""


def _steps(source: str, base: str = "https://gw.example.com/") -> str:
    return setup_steps(SOURCES[source], base=base, path="/p", secret="s3cret", host=None, settings={})


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_has_steps_with_all_it_needs(source: str) -> None:
    text = _steps(source)
    assert "https://gw.example.com/p" in text
    assert SOURCES[source].header is None or "s3cret" in text
    assert not any(place in text for place in ("{url}", "{secret}", "{header}", "{header_value}", "{host}", "{set:"))


def test_a_setting_stands_where_it_belongs() -> None:
    settings = {"email": "push@example.com", "audience": "https://gw.example.com"}
    text = setup_steps(SOURCES["artifactregistry"], base="", path="/p", secret="s3cret", host=None, settings=settings)
    assert "--push-auth-service-account 'push@example.com'" in text
    assert "--push-auth-token-audience 'https://gw.example.com'" in text
    assert "--push-auth-token-audience 's3cret'" in _steps("artifactregistry")


def test_the_lines_for_aws_hand_it_what_it_can_read(tmp_path: Path) -> None:
    text = _steps("ecr")
    script = AWS + text[text.index("cat > connection.json") : text.index("--- or with Terraform")]
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, check=True, capture_output=True)
    connection = json.loads((tmp_path / "seen-connection.json").read_text())
    assert connection == {"ApiKeyAuthParameters": {"ApiKeyName": "x-api-key", "ApiKeyValue": "s3cret"}}
    assert "--role-name pushdeploy-events-eu-west-1" in (tmp_path / "seen").read_text(), "a role is one in all regions"
    policy = json.loads(json.loads((tmp_path / "queue.json").read_text())["Policy"])
    assert policy["Statement"][0]["Condition"] == {
        "ArnEquals": {"aws:SourceArn": "arn:aws:events:eu-west-1:1234:rule/pushdeploy"}
    }
    assert policy["Statement"][0]["Resource"] == "arn:aws:sqs:get-queue-attributes"
    target = json.loads((tmp_path / "targets.json").read_text())[0]
    assert target["Arn"] == "arn:aws:events:create-api-destination"
    assert target["DeadLetterConfig"]["Arn"] == "arn:aws:sqs:get-queue-attributes"
    assert json.loads((tmp_path / "role.json").read_text())["Statement"][0]["Resource"] == target["Arn"]


def test_the_policy_of_harbor_and_the_notification_of_quay_are_json() -> None:
    policy, told = (json.loads(_pasted(_steps(source))) for source in ("harbor", "quay"))
    assert policy["targets"][0]["address"] == told["config"]["url"] == "https://gw.example.com/p"
    assert policy["targets"][0]["auth_header"] == "s3cret"


def _pasted(text: str) -> str:
    return text.partition("<<'END'\n")[2].partition("END\n")[0]


def test_the_hook_of_github_is_json() -> None:
    text = _steps("github")
    hook = json.loads(_pasted(text))
    assert hook["events"] == ["package", "registry_package"]
    assert hook["config"]["url"] == "https://gw.example.com/p"


def test_the_hooks_of_gitlab_gitea_jfrog_and_zot_are_json() -> None:
    url = "https://gw.example.com/p"
    gitlab, gitea, jfrog = (json.loads(_pasted(_steps(source))) for source in ("gitlab", "gitea", "jfrog"))
    assert (gitlab["url"], gitlab["token"], gitlab["pipeline_events"]) == (url, "s3cret", True)
    assert (gitea["config"]["url"], gitea["config"]["secret"], gitea["events"]) == (url, "s3cret", ["package"])
    assert (jfrog["handlers"][0]["url"], jfrog["handlers"][0]["secret"]) == (url, "s3cret")
    text = _steps("zot")
    zot = json.loads(text[text.index("{\n") : text.index("\n}\n") + 2])
    assert zot["extensions"]["events"]["sinks"][0]["credentials"] == {"token": "s3cret"}


CURL = """
curl() {
  while [ $# -gt 0 ]; do
    case "$1" in -H) echo "$2" >> headers; shift ;; -d) printf '%s' "$2" > body; shift ;; esac
    shift
  done
}
"""
ACTIONS = {"GITHUB_REPOSITORY": "Acme/Web", "GITHUB_SHA": "4f1c0a9b", "GITHUB_RUN_ID": "7", "GITHUB_RUN_ATTEMPT": "1"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (0, "registry.example.com/team/app:1.2"),
        (1, "ghcr.io/acme/web:4f1c0a9b"),
        (2, "registry.example.com/team/app:1.2"),
    ],
    ids=["by hand", "in GitHub Actions", "signed"],
)
def test_what_the_lines_for_ci_send_is_understood(line: int, expected: str, tmp_path: Path) -> None:
    _, *lines = _steps("generic").split("curl ")
    command = "curl " + lines[line].partition("\n\n")[0].partition("\n  env:")[0]
    if "$signature" in command:
        command = "body=" + "".join(lines[:line]).rpartition("body=")[2] + command
    environment = {
        "PATH": "/usr/bin:/bin",
        "PUSHDEPLOY_SECRET": "s3cret",
        "PUSHDEPLOY_WEBHOOK": "https://gw",
        **ACTIONS,
    }
    subprocess.run(["bash", "-euc", CURL + command], cwd=tmp_path, check=True, capture_output=True, env=environment)
    sent = (row.partition(": ") for row in (tmp_path / "headers").read_text().splitlines())
    request = Request({name.lower(): value for name, _, value in sent}, (tmp_path / "body").read_bytes())

    SOURCES["generic"].verify(request, Trust("s3cret"))
    assert [str(one.reference) for one in SOURCES["generic"].parse(request, Trust("s3cret")).events] == [expected]


async def test_a_registry_with_the_lines_pasted_tells_of_its_pushes(tmp_path: Path) -> None:
    heard: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()

    async def hear(request: web.Request) -> web.Response:
        await heard.put((request.headers["Authorization"], orjson.loads(await request.read())))
        return web.Response()

    application, port = web.Application(), free_port()
    application.router.add_post("/p", hear)
    async with TestServer(application) as server:
        text = _steps("distribution", f"http://127.0.0.1:{server.port}")
        notifications = text[text.index("notifications:") : text.index("\n\nIf clients")]
        lines = f"storage: {{filesystem: {{rootdirectory: {tmp_path}/images}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}"
        config = tmp_path / "config.yml"
        config.write_text(f"version: 0.1\n{lines}\n{notifications}\n")
        process = await asyncio.create_subprocess_exec(*WITH_US, "docker-registry", "serve", str(config), stderr=-3)
        try:
            await until(lambda: _listens(port))
            digest = await push(Image("pasted"), f"127.0.0.1:{port}/acme/web:v1")
            authorization, told = await asyncio.wait_for(heard.get(), 20)
        finally:
            process.terminate()
            await process.wait()
    assert authorization == "Bearer s3cret"
    assert [(event["action"], event["target"]["digest"]) for event in told["events"]] == [("push", digest)]


async def _listens(port: int) -> bool | None:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return None
    writer.close()
    return True
