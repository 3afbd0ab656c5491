"""The command line prints what scripts rely on, and each error in one line."""

import asyncio
import os
import pty
import sys
from pathlib import Path

import orjson
import pytest

from gateway.cli.demo.process import GatewayProcess, Refused
from tests.support.command_line import CommandLine
from tests.support.databases import database_settings


@pytest.fixture(scope="module")
async def shell(tmp_path_factory: pytest.TempPathFactory, postgres_server: str) -> CommandLine:
    """Commands without a server: they open the database themselves."""
    settings = await database_settings(postgres_server, "cli")
    return CommandLine(tmp_path_factory.mktemp("cli"), "unix:///nowhere", settings)


async def test_a_key_is_printed_alone_and_once(tmp_path: Path) -> None:
    # A process of its own, and the embedded database that it makes.
    key = await GatewayProcess(tmp_path, "unix:///nowhere", {}).cli("keys", "create", "laptop")
    shell = CommandLine(tmp_path, "unix:///nowhere", {})
    assert (key[:3], len(key)) == ("gw_", 64)
    assert key.split() == [key]
    listed = await shell.cli("keys", "list", "--json")
    assert key not in listed
    assert [one["name"] for one in orjson.loads(listed)] == ["laptop"]
    await shell.cli("keys", "revoke", "laptop")
    with pytest.raises(Refused, match="no valid key"):
        await shell.cli("keys", "revoke", "laptop")


async def test_a_key_is_created_and_listed_with_its_scope(shell: CommandLine) -> None:
    await shell.cli("apps", "create", "For A Key", "acme/app:1", "--id", "app-9")
    words = ("create", "ci", "--scope", "deploy", "--application", "for-a-key", "--expires", "90d", "--json")
    made = orjson.loads(await shell.cli("keys", *words))
    assert (made["scope"], made["applications"], made["key"].startswith(made["prefix"])) == ("deploy", ["app-9"], True)
    assert "deploy" in await shell.cli("keys", "list")
    assert made["expires_at"] in await shell.cli("keys", "list", "--json")


async def test_changes_of_a_command_are_audited_with_the_user_and_without_secrets(
    shell: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "env").write_text("A=hush-env", encoding="utf-8")
    (tmp_path / "password").write_text("hush-password", encoding="utf-8")
    await shell.cli("apps", "create", "Audited", "acme/app:1", "--id", "app-8", "--env-file", str(tmp_path / "env"))
    await shell.cli("apps", "update", "app-8", "--image", "acme/app:2")
    login = ("create", "kept", "r.io", "--username", "u", "--password-file", str(tmp_path / "password"))
    registry = await shell.cli("registries", *login)
    await shell.cli("registries", "remove", registry)
    key = await shell.cli("keys", "create", "audited")
    told = await shell.cli("audit", "--json", "--limit", "1000")
    assert "hush" not in told
    assert key not in told
    found = orjson.loads(told)
    actions = {one["action"] for one in found}
    assert actions >= {"apps.create", "apps.update", "registries.create", "registries.remove", "keys.create"}
    assert {(one["via"], one["outcome"]) for one in found} == {("cli", "done")}
    assert all(one["who"] and one["address"] for one in found)
    changed = orjson.loads(await shell.cli("audit", "--json", "--app", "app-8", "--action", "apps.update"))
    assert [one["after"] for one in changed if one["noun"] == "application"] == [{"docker_image": "acme/app:2"}]
    lines = [line for line in (await shell.cli("audit", "--app", "app-8")).splitlines() if "app-8" in line]
    assert len(lines) == 2, "one line for each command, whatever it changed"
    assert "docker_image: acme/app:1 -> acme/app:2" in lines[0]
    assert "subscription Audited added" in lines[1]


@pytest.mark.long
async def test_the_audit_of_an_application_that_is_deleted_is_found_by_its_id(shell: CommandLine) -> None:
    await shell.cli("apps", "create", "Gone", "acme/gone:1", "--id", "app-gone")
    shell.key = await shell.cli("keys", "create", "deleter")
    await shell.start()
    try:
        await shell.mutate("application.delete", {"applicationId": "app-gone"})
    finally:
        await shell.stop()
    assert "application.delete" in await shell.cli("audit", "--app", "app-gone")
    with pytest.raises(Refused, match="no application called 'app-never'"):
        await shell.cli("audit", "--app", "app-never")


async def test_the_scope_is_asked_for_on_a_terminal_but_in_a_script_described_on_standard_error(
    shell: CommandLine,
) -> None:
    (leader, follower), printed = pty.openpty(), b""
    for name, out in (("asked", follower), ("of-a-script", asyncio.subprocess.PIPE)):
        words = ("-m", "gateway", "keys", "create", name)
        process = await asyncio.create_subprocess_exec(
            sys.executable, *words, env=shell.environment, stdin=follower, stdout=out, stderr=follower
        )
        os.write(leader, b"deploy\n")
        printed, _ = await process.communicate()
        assert process.returncode == 0
    assert (printed[:3], len(printed.split())) == (b"gw_", 1)
    said = os.read(leader, 65536)
    assert b"has scope admin and is unrestricted, which makes it root on every host, without expiry; restrict" in said
    os.close(leader)
    os.close(follower)
    listed = orjson.loads(await shell.cli("keys", "list", "--json"))
    scopes = {one["name"]: one["scope"] for one in listed}
    assert (scopes["asked"], scopes["of-a-script"]) == ("deploy", "admin")


@pytest.mark.parametrize(
    ("source", "header"),
    [
        ("github", "X-Hub-Signature-256"),
        ("distribution", "Authorization"),
        ("ecr", "x-api-key"),
        ("dockerhub", None),
    ],
)
async def test_a_webhook_is_printed_with_all_its_sender_needs(
    shell: CommandLine, source: str, header: str | None
) -> None:
    made = orjson.loads(await shell.cli("webhooks", "create", source))
    assert (made["source"], made["header"]) == (source, header)
    assert made["path"].startswith(f"/webhooks/{source}/")
    listed = await shell.cli("webhooks", "list", "--json")
    if header is None:
        assert made["secret"] is None
    else:
        assert len(made["secret"]) >= 32
        assert made["secret"] not in listed
    assert made["path"].rpartition("/")[2] not in listed


async def test_usage_errors_are_one_line_of_json_with_json(shell: CommandLine) -> None:
    for words in (("keys", "create"), ("keys", "create", ""), ("apps", "no-such"), ("no-such",), ("deploy", "a", "b")):
        with pytest.raises(Refused) as refused:
            await shell.cli(*words, "--json")
        (line,) = str(refused.value).splitlines()
        assert list(orjson.loads(line)) == ["error"]


async def test_a_secret_may_be_given_on_standard_input(shell: CommandLine) -> None:
    words = ("webhooks", "create", "github", "--secret-file", "-", "--host", "ghcr.io", "--alias", "reg:5000")
    assert orjson.loads(await shell.cli(*words, "--json", given="mine\n"))["secret"] == "mine"


async def test_an_application_is_made_with_its_configuration_and_shown_without_its_secrets(
    shell: CommandLine, tmp_path: Path
) -> None:
    password, env = tmp_path / "password", tmp_path / "env"
    password.write_text("hunter2\n")
    env.write_text("A=1\n")
    made = await shell.cli(
        "apps", "create", "My Web", "ghcr.io/acme/web:1", "--publish", "8080:80", "--memory", "64MB",
        "--volume", "data:/data:ro", "--env-file", str(env), "--username", "me", "--password-file", str(password),
        "--probe", "http:80/health", "--watch", "0",
    )  # fmt: skip
    shown = await shell.cli("apps", "show", "my-web", "--json")
    row = orjson.loads(shown)
    assert "hunter2" not in shown
    assert (row["applicationId"], row["appName"], row["env"]) == (made, "my-web", "A=1")
    assert row["ports"][0]["publishedPort"] == 8080
    assert row["mounts"][0]["readOnly"] is True
    assert (row["probe"]["port"], row["probe"]["path"], row["watch"]) == (80, "/health", 0)
    assert (await shell.cli("deploy", "My Web")) != ""
    assert [one["state"] for one in orjson.loads(await shell.cli("deployments", "list", "my-web", "--json"))] == [
        "queued"
    ]
    await shell.cli("deploy", "My Web", "--tag", "2")
    assert orjson.loads(await shell.cli("apps", "show", "my-web", "--json"))["dockerImage"] == "ghcr.io/acme/web:1"
    newest = orjson.loads(await shell.cli("deployments", "list", "my-web", "--json"))[0]
    assert newest["image"] == "ghcr.io/acme/web:2", "the application's once it serves"


async def test_an_update_says_what_the_next_deployment_will_change(shell: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "web.conf"
    file.write_text("password = hunter2\n")
    await shell.cli("apps", "create", "Changing", "acme/changing:1", "--cpus", "0.5")
    chosen = ("--image", "acme/changing:2", "-p", "127.0.0.1:8443:443", "--file", f"{file}:/etc/web.conf")
    said = await shell.cli("apps", "update", "changing", *chosen, "--unset", "cpuLimit")
    assert "changes: dockerImage, ports, mounts" in said
    assert "hunter2" not in said
    assert said in await shell.cli("apps", "show", "changing")
    shown = orjson.loads(await shell.cli("apps", "show", "changing", "--json"))
    assert [one["field"] for one in shown["pending"]] == ["dockerImage", "ports", "mounts"]
    assert (shown["dockerImage"], shown["cpuLimit"]) == ("acme/changing:2", None)
    assert (shown["ports"][0]["hostIp"], shown["mounts"][0]["content"]) == ("127.0.0.1", "password = hunter2\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("apps", "create", "x", "A//b"), "not a"),
        (("apps", "create", "x", "app", "--publish", "http"), "--publish takes"),
        (("apps", "create", "x", "app", "--memory", "lots"), "memoryLimit"),
        (("apps", "create", "x", "app", "--probe", "health"), "--probe takes"),
        (("apps", "create", "x", "app", "-v", "a:/x", "-v", "b:/x"), "mounts.1.target: something is mounted"),
        (("apps", "create", "x", "app", "--file", "/nowhere/x:/etc/x"), "cannot read /nowhere/x"),
        (("apps", "update", "nobody", "--unset", "colour"), "--unset takes"),
        (("apps", "show", "nobody"), "no application"),
        (("deploy", "nobody"), "no application"),
        (("deployments", "show", "nobody"), "no deployment 'nobody'"),
        (("deployments", "cancel", "nobody"), "no deployment 'nobody'"),
        (("keys", "create", "x", "--application", "nobody"), "no application"),
        (("keys", "create", "x", "--project", "nobody"), "no project"),
        (("webhooks", "create", "carrier-pigeon"), "there are: "),
        (("webhooks", "remove", "nobody"), "no webhook"),
    ],
)
async def test_an_error_is_one_line_with_a_remedy(shell: CommandLine, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(Refused) as caught:
        await shell.cli(*words)
    assert said in str(caught.value)
    assert len(str(caught.value).strip().splitlines()) == 1


async def test_a_misspelt_setting_stops_every_command(tmp_path: Path) -> None:
    shell = CommandLine(tmp_path, "unix:///nowhere", {"GATEWAY_LISTNE": "x"})
    for words in (("serve",), ("migrate",), ("keys", "list")):
        with pytest.raises(Refused, match="GATEWAY_LISTNE"):
            await shell.cli(*words)


async def test_webhooks_are_rotated_and_disabled_by_id(shell: CommandLine) -> None:
    made = orjson.loads(await shell.cli("webhooks", "create", "ecr", "--json", "--name", "mine", "--rate", "60"))
    listed = orjson.loads(await shell.cli("webhooks", "list", "--json"))
    endpoint = next(one["endpointId"] for one in listed if one["name"] == "mine")
    rotated = orjson.loads(await shell.cli("webhooks", "rotate", endpoint, "--grace", "60"))
    assert (rotated["path"], rotated["header"], rotated["secret"] != made["secret"]) == (None, "x-api-key", True)
    assert await shell.cli("webhooks", "disable", endpoint) == f"disabled {endpoint}"
    one = next(one for one in orjson.loads(await shell.cli("webhooks", "list", "--json")) if one["name"] == "mine")
    assert (one["enabled"], one["rate"], one["formerValidUntil"] is not None) == (False, 60, True)


async def test_an_application_follows_versions_beside_its_image(shell: CommandLine) -> None:
    await shell.cli("apps", "create", "rising", "ghcr.io/acme/rising:1.0.0")
    words = ("create", "rising", "semver", "^1", "--exclude", "*-debug", "--json")
    made = orjson.loads(await shell.cli("subscriptions", *words))
    assert (made["repository"], made["exclude"]) == ("ghcr.io/acme/rising", ["*-debug"])
    assert await shell.cli("subscriptions", "reconcile", "rising", "3600") == "every 3600 s"
    listed = orjson.loads(await shell.cli("subscriptions", "list", "rising", "--json"))
    assert [(one["policy"], one["fromImage"], one["reconcileSeconds"]) for one in listed] == [
        ("semver", False, 3600),
        ("exact", True, 3600),
    ]
    assert "semver ^1" in await shell.cli("subscriptions", "list")
    await shell.cli("subscriptions", "remove", made["subscriptionId"])


async def test_deliveries_are_shown_and_unknown_ones_are_reported(shell: CommandLine) -> None:
    assert orjson.loads(await shell.cli("deliveries", "list", "--verdict", "failed", "--json")) == []
    for command in ("show", "replay"):
        with pytest.raises(Refused, match="There is no delivery 'nobody'"):
            await shell.cli("deliveries", command, "nobody")


async def test_a_registrys_password_comes_from_a_file_and_is_not_seen_again(shell: CommandLine) -> None:
    words = ("registries", "create", "Hub", "https://index.docker.io/v1/", "--username", "bob", "--password-file", "-")
    registry_id = (await shell.cli(*words, given="dckr_pat_secret\n")).strip()
    listed = await shell.cli("registries", "list", "--json")
    assert [one["username"] for one in orjson.loads(listed)] == ["bob"]
    assert "dckr_pat_secret" not in listed
    ecr = ("create", "ECR", "123456789.dkr.ecr.us-east-1.amazonaws.com", "--type", "ecr")
    made = orjson.loads(await shell.cli("registries", *ecr, "--json"))
    shown = await shell.cli("registries", "list")
    assert registry_id in shown
    assert "the instance role" in shown
    for one in (registry_id, made["registryId"]):
        await shell.cli("registries", "remove", one)
    with pytest.raises(Refused, match="There is no registry"):
        await shell.cli("registries", "test", registry_id)
