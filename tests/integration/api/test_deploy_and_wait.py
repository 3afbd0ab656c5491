"""The script that CI runs: it starts, follows, and fails with the reason and the remedy."""

import asyncio
import os
from pathlib import Path

import pytest
import yaml

from gateway.model.deployments import Status
from gateway.model.errors import Code, Reason
from tests.integration.api.test_api_keys import a_key
from tests.scripts.ci_template import ROOT, TEMPLATE, filled
from tests.support.api_client import Web
from tests.support.concluding import conclude

SCRIPT = ROOT / "ci" / "deploy-and-wait.sh"


@pytest.fixture
async def web(shared_web: Web) -> Web:
    return shared_web


async def run(web: Web, key: str, shell: str = "sh", **settings: str) -> asyncio.subprocess.Process:
    environment = {
        "PATH": os.environ["PATH"],
        "PUSHDEPLOY_URL": str(web.client.make_url("/")),
        "PUSHDEPLOY_API_KEY": key,
        "PUSHDEPLOY_TIMEOUT": "60",
        **settings,
    }
    return await asyncio.create_subprocess_exec(
        *shell.split(), str(SCRIPT), env=environment, stdout=-1, stderr=-1, start_new_session=True
    )


async def ended(web: Web, process: asyncio.subprocess.Process, status: Status, code: Code | None = None) -> str:
    """Let the deployment end so, and return what the script said."""
    assert process.stdout is not None
    started = await process.stdout.readline()
    await conclude(web, status, code)
    out, err = await process.communicate()
    return (started + out + err).decode()


@pytest.mark.parametrize("shell", ["sh", pytest.param("busybox sh", marks=pytest.mark.long)])
async def test_a_job_follows_its_deployment_and_fails_with_reason_and_remedy(web: Web, shell: str) -> None:
    application_id = await web.application("acme/web")
    key, _ = await a_key(web, application_id)
    settings = {"PUSHDEPLOY_APPLICATION": application_id, "PUSHDEPLOY_TITLE": 'Say "\\ state":"succeeded"\n$(id)'}
    process = await run(web, key, shell, **settings)
    said = await ended(web, process, Status.FAILED, Code.UNHEALTHY)
    assert process.returncode == 1
    assert "unhealthy: so it was\n" in said
    assert Reason(Code.UNHEALTHY, "").remedy in said
    process = await run(web, key, shell, **settings)
    said = await ended(web, process, Status.SUCCEEDED)
    assert (process.returncode, said.splitlines()[-1]) == (0, "succeeded")


async def test_a_job_that_starts_nothing_says_why(web: Web) -> None:
    application_id = await web.application("acme/web")
    for key, settings, why in (
        ("wrong", {}, "Nothing was started (401)"),
        (web.key, {"PUSHDEPLOY_APPLICATION": "unknown"}, "Application not found"),
        (web.key, {"PUSHDEPLOY_URL": "http://127.0.0.1:1"}, "cannot be reached"),
        (web.key, {"PUSHDEPLOY_TIMEOUT": "soon"}, "a number of seconds"),
        ("a b", {}, "characters that no key has"),
    ):
        process = await run(web, key, **{"PUSHDEPLOY_APPLICATION": application_id, **settings})
        _, err = await process.communicate()
        assert (process.returncode, why in err.decode()) == (2, True), err


async def test_the_key_is_no_argument_of_any_program(web: Web, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    spy = tmp_path / "curl"
    path = os.environ["PATH"]
    spy.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {seen}\nPATH={path} exec curl "$@"\n')
    spy.chmod(0o755)
    process = await run(
        web, web.key, PUSHDEPLOY_APPLICATION=await web.application("acme/web"), PATH=f"{tmp_path}:{os.environ['PATH']}"
    )
    await ended(web, process, Status.SUCCEEDED)
    assert process.returncode == 0
    assert web.key not in seen.read_text()


def test_the_action_and_the_component_run_this_script() -> None:
    template, script = TEMPLATE.read_text(encoding="utf-8"), SCRIPT.read_text(encoding="utf-8")
    assert filled(template, script) == template, "make ci-template"
    _, job = yaml.safe_load_all(template)
    (one,) = job.values()
    assert one["script"] == [script]
    action = yaml.safe_load((ROOT / "ci" / "github" / "action.yml").read_text(encoding="utf-8"))
    (step,) = action["runs"]["steps"]
    assert (ROOT / "ci" / "github" / step["run"].split("/", 1)[1].rstrip('"')).resolve() == SCRIPT
    assert {*step["env"], *one["variables"]} <= {word.strip("#") for word in script.replace("{", " ").split()} | {
        name for name in step["env"] if name in script
    }
