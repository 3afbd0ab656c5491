"""What a command prints leads to the next command."""

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from base64 import b64encode
from pathlib import Path
from typing import cast

import click
import orjson
import pytest
from click.testing import CliRunner

from gateway.app import running
from gateway.cli import _follow, main
from gateway.cli.demo.process import until
from gateway.config import Settings
from gateway.model.deployments import Status
from gateway.model.errors import Code, Reason, Unavailable
from gateway.store import leases
from gateway.store.database import Pool
from gateway.store.engines import Place
from tests.support.api_client import Web, answering
from tests.support.concluding import conclude


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cli._logging.configure", lambda *_: None)


async def run(url: str, *words: str) -> tuple[int, str, str]:
    """Run the command on a database; return its exit code and both outputs."""
    environment = {"GATEWAY_DATABASE_URL": url, "GATEWAY_MASTER_KEY": b64encode(b"k" * 32).decode()}
    done = await asyncio.to_thread(CliRunner(env=environment).invoke, cast("click.Command", main), words)
    return done.exit_code, done.stdout, done.stderr


def remote(web: Web) -> dict[str, str]:
    """Return the environment of a command that asks this gateway over HTTP."""
    return {"GATEWAY_URL": str(web.client.make_url("/")), "GATEWAY_API_KEY": web.key, "GATEWAY_DATABASE_URL": ""}


async def run_remote(web: Web, *words: str) -> tuple[int, str, str]:
    """Run the command on a gateway over HTTP; return its exit code and both outputs."""
    done = await asyncio.to_thread(CliRunner(env=remote(web)).invoke, cast("click.Command", main), words)
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("deployments show nope", "There is no deployment 'nope'. List them: gateway deployments list"),
        ("deployments cancel nope", "There is no deployment 'nope'. List them: gateway deployments list"),
        ("rollback web --to nope", "There is no deployment 'nope'. List them: gateway deployments list"),
        ("registries remove nope", "There is no registry 'nope'. List them: gateway registries list"),
        ("servers show nope", "There is no server 'nope'. List them: gateway servers list"),
        ("subscriptions remove nope", "There is no subscription 'nope'. List them: gateway subscriptions list"),
        ("gates remove nope", "There is no gate 'nope'. List them: gateway gates list APP"),
        ("gates remove web nope", "There is no gate 'nope' here; there are: none"),
        ("gates set web promotion follows=nope", "gateway: rule.follows: there is no application 'nope'"),
        ("gates set web maturity agee=3h", "gateway: rule.agee: a gate of kind maturity has no such field; it has age"),
        ("apps update web", "Give at least one option; see gateway apps update --help"),
        ("keys create k --project Shop", "There is no project 'Shop'. Names are case-sensitive."),
        ("webhooks create harbor --set foo=1", "harbor has no settings"),
        ("webhooks create quay --secret-file nope", "quay sends no header with a secret: omit --secret-file"),
        ("subscriptions create web regex (?=x)", "is not a valid RE2 regular expression: invalid perl operator: (?="),
    ],
)
async def test_an_error_names_the_next_step(web: Web, web_postgres: str, words: str, said: str) -> None:
    await web.mutate("application.create", name="web", dockerImage="acme/web")
    code, out, err = await run(web_postgres, *words.split())
    assert (code, out) == (1, "")
    assert said in err


async def test_times_are_printed_with_their_zone(web: Web, web_postgres: str) -> None:
    await web.mutate("application.create", name="web", dockerImage="acme/web")
    rule = '{"windows":[{"start":"03:00","duration":"1s","zone":"Europe/Berlin"}]}'
    await run(web_postgres, "gates", "set", "web", "window", "--rule", rule)
    code, out, _ = await run(web_postgres, "gates", "next", "web")
    assert code == 0
    await web.mutate("group.create", name="shop", members=[])
    assert (await run(web_postgres, "groups", "list"))[1].rstrip().endswith(" UTC")
    assert [line.rsplit(" ", 1)[1] for line in out.splitlines()] == ["UTC", "UTC"]


async def test_a_port_in_use_names_the_setting(web: Web, web_postgres: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        address = f"127.0.0.1:{held.getsockname()[1]}"
        settings = Settings.from_environ(
            {
                "HOME": "/",
                "GATEWAY_DATABASE_URL": web_postgres,
                "GATEWAY_MASTER_KEY": b64encode(b"k" * 32).decode(),
                "GATEWAY_DOCKER_HOST": "unix:///nope.sock",
                "GATEWAY_LISTEN": address,
            }
        )
        with pytest.raises(Unavailable, match=f"Another program uses {address}. Stop it, or set GATEWAY_LISTEN."):
            async with running(settings):
                pass


async def test_a_second_application_of_a_name_says_what_its_container_is_called(web: Web, web_postgres: str) -> None:
    _, _, err = await run(web_postgres, "apps", "create", "Web Shop", "acme/web")
    assert err == ""
    _, second, err = await run(web_postgres, "apps", "create", "Web Shop", "acme/web")
    (container,) = [
        one["appName"]
        for one in orjson.loads((await run(web_postgres, "apps", "list", "--json"))[1])
        if one["applicationId"] == second.strip()
    ]
    assert f"has the name, container name or id web-shop. The container of this one is called {container}." in err


async def test_an_application_is_shown_with_its_deploy_token(web: Web, web_postgres: str) -> None:
    made = await web.mutate("application.create", name="web", dockerImage="acme/web")
    shown = orjson.loads((await run(web_postgres, "apps", "show", "web", "--json"))[1])
    row = await web.query("application.one", applicationId=made["applicationId"])
    assert row["refreshToken"]
    assert shown["refreshToken"] == row["refreshToken"]


async def test_a_created_webhook_is_printed_with_its_id_and_url(web: Web, web_postgres: str) -> None:
    for words in (("--json",), ()):
        _, out, _ = await run(web_postgres, "webhooks", "create", "harbor", *words)
        made = orjson.loads(out)
        assert made["url"].endswith(made["path"])
        assert made["url"].startswith("http")
        assert (await run(web_postgres, "webhooks", "disable", made["endpointId"]))[0] == 0


async def test_a_webhook_whose_source_cannot_send_a_secret_is_printed_without_one(web: Web, web_postgres: str) -> None:
    made = orjson.loads((await run(web_postgres, "webhooks", "create", "dockerhub"))[1])
    assert (made["secret"], made["header"]) == (None, None)
    rotated = await run(web_postgres, "webhooks", "rotate", made["endpointId"])
    assert "The previous path stays valid for 24 hours. Set the new path at the registry." in rotated[2]


async def test_a_key_is_revoked_and_restored_by_the_beginning_of_its_id(web: Web, web_postgres: str) -> None:
    _, out, _ = await run(web_postgres, "keys", "create", "ci", "--scope", "read", "--json")
    start = orjson.loads(out)["key_id"][:10]
    assert await run(web_postgres, "keys", "revoke", start) == (0, f"revoked {start}\n", "")
    assert (await run(web_postgres, "keys", "restore", start))[0] == 0
    assert "There is no key 'nope'" in (await run(web_postgres, "keys", "revoke", "nope"))[2]


async def test_the_log_of_what_never_ran_says_so(web: Web, web_postgres: str) -> None:
    made = await web.mutate("application.create", name="web", dockerImage="acme/web")
    code, out, err = await run(web_postgres, "apps", "logs", "web")
    assert (code, out) == (1, "")
    assert "web was never deployed, so it has no log. Deploy it: gateway deploy web" in err
    await web.mutate("application.deploy", applicationId=made["applicationId"])
    (queued,) = await web.query("deployment.allCentralized")
    show = f"gateway deployments show {queued['deploymentId']}"
    _, _, err = await run(web_postgres, "apps", "logs", "web")
    assert f"web has not run yet, so it has no log. Its last deployment is queued: {show}\n" in err
    await conclude(web, Status.FAILED, Code.EXITED, log="no such file")
    _, _, err = await run(web_postgres, "apps", "logs", "web")
    assert f"web has no log: its deployment failed. The reason, and the container's last lines: {show}\n" in err


async def test_an_application_whose_deployment_failed_is_shown_with_the_reason(web: Web, web_postgres: str) -> None:
    made = await web.mutate("application.create", name="web", dockerImage="acme/web")
    assert "details " not in (await run(web_postgres, "apps", "show", "web"))[1]
    await web.mutate("application.deploy", applicationId=made["applicationId"])
    await conclude(web, Status.FAILED, Code.EXITED, log="no such file")
    (failed,) = await web.query("deployment.allCentralized")
    shown = (await run(web_postgres, "apps", "show", "web"))[1]
    assert f"reason       {failed['reason']['message']}\n" in shown
    assert f"details      gateway deployments show {failed['deploymentId']}\n" in shown


async def test_a_list_of_what_labels_adopted_says_where_none_is_read(
    web: Web, web_postgres: str, web_pool: Pool
) -> None:
    for off in (await run_remote(web, "apps", "discovered"), await run(web_postgres, "apps", "discovered")):
        assert off[0] == 0
        assert "discovery is off" in off[2]
        assert "set GATEWAY_DISCOVER=labels for the gateway and restart it" in off[2]
    async with answering(web_pool, emptied=False, settings={"GATEWAY_DISCOVER": "labels"}) as on:
        assert (await run_remote(on, "apps", "discovered"))[::2] == (0, "")


async def test_revoking_by_name_says_how_many_keys_it_revoked(web: Web, web_postgres: str) -> None:
    for _ in range(2):
        await run(web_postgres, "keys", "create", "laptop", "--scope", "read")
    assert await run(web_postgres, "keys", "revoke", "laptop") == (0, "revoked 2 keys named laptop\n", "")


async def test_tables_name_applications_and_have_no_spaces_at_the_ends_of_lines(web: Web, web_postgres: str) -> None:
    await web.mutate("application.create", name="web", applicationId="6fa", dockerImage="acme/web")
    path = await web.endpoint("dockerhub", "")
    pushed = {"push_data": {"tag": "latest"}, "repository": {"repo_name": "acme/web"}}
    assert (await web.post(path, pushed))[0] == 202
    for words in (("deliveries", "list"), ("deployments", "list"), ("subscriptions", "list")):
        _, out, _ = await run(web_postgres, *words)
        assert "web" in out
        assert "6fa" not in out
    shop = (await web.mutate("project.create", name="Shop"))["environment"]["environmentId"]
    await web.mutate("application.create", name="web", dockerImage="acme/other", environmentId=shop)
    for words in (("deliveries", "list"), ("deployments", "list"), ("subscriptions", "list")):
        assert "Default/production/web" in (await run(web_postgres, *words))[1]
    shown = await run(web_postgres, "apps", "show", "Shop/production/web", "--json")
    assert orjson.loads(shown[1])["dockerImage"] == "acme/other"
    await web.mutate("application.create", name="web", appName="second", dockerImage="acme/other")
    assert "web (second-" in (await run(web_postgres, "subscriptions", "list"))[1]
    await run(web_postgres, "deploy", "6fa")
    await run(web_postgres, "apps", "update", "6fa", "--image", "acme/web:2")
    _, out, _ = await run(web_postgres, "audit")
    assert [line for line in out.splitlines() if line != line.rstrip()] == []
    assert "docker_image: acme/web -> acme/web:2" in out
    assert not {"takeovers", "defects", "wakes", "marked_to", "token_hash"} & set(out.replace(":", " ").split())


@pytest.mark.parametrize("answers", [[False], [True, False]], ids=["at once", "later"])
async def test_following_ends_where_no_gateway_runs_and_says_so(
    web: Web, web_postgres: str, monkeypatch: pytest.MonkeyPatch, answers: list[bool]
) -> None:
    """Also where one ran when the command first asked."""

    async def is_any_reached(*_: object) -> bool:
        return answers.pop(0)

    monkeypatch.setattr(_follow, "_PATIENCE", 0.0)
    monkeypatch.setattr("gateway.store.engines.is_any_reached", is_any_reached)
    await web.mutate("application.create", name="web", applicationId="6fa", dockerImage="acme/web")
    code, out, err = await run(web_postgres, "deploy", "web", "--follow")
    assert (code, answers) == (3, [])
    assert "state         queued" in out
    (queued,) = await web.query("deployment.all", applicationId="6fa")
    assert queued["state"] == "queued"
    shown = f"gateway deployments show {queued['deploymentId']}"
    assert (
        f"No gateway seems to run. Start it: gateway serve. The deployment waits until then. See how it ends: {shown}"
        in err
    )


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("follows", ["deployment", "release"])
async def test_following_ends_where_the_engine_stays_away_and_says_so(
    web: Web, monkeypatch: pytest.MonkeyPatch, follows: str, as_json: list[str]
) -> None:
    """Over HTTP, from a gateway that runs: its engine answers nobody."""
    monkeypatch.setattr(_follow, "_AWAY", 0.0)
    await web.mutate("application.create", name="web", applicationId="6fa", dockerImage="acme/web")
    words = ["deploy", "web"]
    if follows == "release":
        group = await web.mutate("group.create", name="shop", members=[{"applicationId": "6fa"}])
        words = ["release", group["groupId"]]
    following = asyncio.create_task(run_remote(web, *words, "--follow", *as_json))
    away = Reason(Code.ENGINE_UNREACHABLE, "nobody answers at its socket")

    async def waits() -> bool | None:
        async with web.pool.acquire() as connection:
            await leases.mark_waiting(connection, None, None, away)
        return following.done() or None

    await until(waits)
    code, out, err = await following
    (queued,) = await web.query("deployment.all", applicationId="6fa")
    assert (code, queued["state"]) == (3, "queued")
    of = queued["deploymentId"] if follows == "deployment" else queued["releaseId"]
    said = (
        f"Nobody can roll it out for now: nobody answers at its socket. The {follows} waits until the engine answers. "
        f"See how it ends: gateway {follows}s show {of}"
    )
    if as_json:
        assert (orjson.loads(out)[f"{follows}Id"], orjson.loads(err)) == (of, {"error": {"message": said}})
    else:
        assert f"gateway: {said}\n" in err
        assert of in out


@pytest.mark.parametrize("before", [Code.ENGINE_UNREACHABLE, Code.ENGINE_REFUSED])
async def test_an_engine_that_answers_again_is_no_longer_what_a_deployment_waits_for(web: Web, before: Code) -> None:
    """It may wait for a slot then, for long. What the engine refused is still the reason of the next attempt."""
    await web.mutate("application.create", name="web", applicationId="6fa", dockerImage="acme/web")
    await web.mutate("application.deploy", applicationId="6fa")
    async with web.pool.acquire() as connection:
        await leases.mark_waiting(connection, None, None, Reason(before, "it said so"))
        await leases.wake_waiting(connection, [Place("n", None)], [Code.ENGINE_UNREACHABLE, Code.ENGINE_REFUSED])
    (queued,) = await web.query("deployment.all", applicationId="6fa")
    waits = (await web.query("deployment.one", deploymentId=queued["deploymentId"]))["waitsFor"]
    assert (queued["reason"] is None, waits) == (before is Code.ENGINE_UNREACHABLE, "a free slot on the engine")


async def test_a_wait_that_is_interrupted_says_that_the_deployment_goes_on(web: Web) -> None:
    await web.mutate("application.create", name="web", applicationId="6fa", dockerImage="acme/web")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "deploy", "web", "--follow",
        env={**os.environ, **remote(web)}, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    first = await process.stderr.readline()  # what it waits for, off a terminal too
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    (queued,) = await web.query("deployment.all", applicationId="6fa")
    assert first == b"queued, waits for a free slot on the engine\n"
    assert (process.returncode, queued["state"]) == (130, "queued")
    assert f"The deployment goes on. See how it ends: gateway deployments show {queued['deploymentId']}" in err.decode()


async def test_following_a_deletion_ends_with_the_application(web: Web) -> None:
    """Its deployments go with it."""
    await web.mutate("application.create", name="web", applicationId="6fa", dockerImage="acme/web")
    await web.pool.execute(  # where something may run of it
        "INSERT INTO engines (engine_id, name, version, platform) VALUES ('x', 'x', '1', 'p');"
        " UPDATE applications SET engine_id = 'x'"
    )
    following = asyncio.create_task(run_remote(web, "apps", "delete", "web", "--yes", "--follow"))

    async def queued() -> bool | None:
        return bool(await web.pool.fetchval("SELECT count(*) FROM deployments")) or None

    await until(queued)
    await web.pool.execute("DELETE FROM applications")
    assert (await following)[:2] == (0, "done\n")


async def test_what_keeps_a_wait_from_going_on_leaves_the_end_unknown(web: Web) -> None:
    """The key is revoked meanwhile: no outcome is claimed by the exit code."""
    await web.mutate("application.create", name="web", applicationId="6fa", dockerImage="acme/web")
    following = asyncio.create_task(run_remote(web, "deploy", "web", "--follow"))

    async def queued() -> bool | None:
        return bool(await web.pool.fetchval("SELECT count(*) FROM deployments")) or None

    await until(queued)
    await web.pool.execute("UPDATE api_keys SET revoked_at = now()")
    code, _, err = await following
    assert (code, "does not accept the key" in err, "How the deployment ends is not known" in err) == (3, True, True)


@pytest.mark.parametrize(("ends", "code"), [("cancelled", 5), ("superseded", 4), ("failed", 1), ("succeeded", 0)])
async def test_the_exit_code_tells_how_a_deployment_ended_and_each_state_is_a_line(
    web: Web, web_postgres: str, monkeypatch: pytest.MonkeyPatch, ends: str, code: int
) -> None:
    monkeypatch.setattr(_follow, "_PATIENCE", 1000.0)
    await web.mutate("application.create", name="web", applicationId="6fa", dockerImage="acme/web")
    following = asyncio.create_task(run(web_postgres, "deploy", "web", "--follow"))

    async def queued() -> str | None:
        found = await web.query("deployment.all", applicationId="6fa")
        return found[0]["deploymentId"] if found else None

    named = await until(queued)
    await web.pool.execute(
        "UPDATE deployments SET status = $2, finished_at = now(), digest = $3 WHERE deployment_id = $1",
        named,
        ends,
        "sha256:" + "ab" * 32,
    )
    exited, out, err = await following
    assert (exited, f"state         {ends}" in out) == (code, True)
    assert [line for line in err.splitlines() if line.startswith("queued")] in (
        [],
        ["queued, waits for a free slot on the engine"],
    )


async def test_a_plan_of_nothing_says_so(web: Web, tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").touch()
    assert await run_remote(web, "apply", "-f", str(tmp_path / "empty.yaml"), "--plan") == (
        0, "Plan: nothing is declared.\n", "",
    )  # fmt: skip


async def test_a_plan_writes_ports_as_people_do(web: Web, tmp_path: Path) -> None:
    declared = tmp_path / "web.yaml"
    declared.write_text("""\
declaration: shop
applications:
  web:
    dockerImage: acme/web
    ports: [{publishedPort: 8080, targetPort: 80, hostIp: 127.0.0.1}]
""")
    code, out, err = await run_remote(web, "apply", "-f", str(declared), "--plan")
    assert (code, err) == (2, "")  # there are changes
    assert "127.0.0.1:8080:80/tcp" in out
