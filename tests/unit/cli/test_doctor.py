"""`gateway doctor` names what is missing, and the cure."""

import json
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import click
import pytest
from aiohttp import web
from click.testing import CliRunner

from gateway import installation
from gateway.cli import main
from gateway.cli.checks import clock, database, engine, host, reach
from gateway.cli.checks.finding import Finding, Status, ok, run, warning, worst
from gateway.config import Settings

_PROXY = Callable[[web.Request], bool]


def settings(directory: Path, **given: str) -> Settings:
    names = {f"GATEWAY_{name.upper()}": value for name, value in given.items()}
    return Settings.from_environ({"GATEWAY_DATA_DIR": str(directory), **names})


def states(findings: list[Finding]) -> dict[str, Status]:
    return {one.name: one.status for one in findings}


# The settings and the host


def test_each_wrong_setting_is_a_line_and_the_others_are_still_used(tmp_path: Path) -> None:
    environ = {
        "GATEWAY_DATA_DIR": str(tmp_path),
        "GATEWAY_LISEN": "1",
        "GATEWAY_LEASE": "soon",
        "GATEWAY_MASTER_KEY_FILE": str(tmp_path / "none"),
    }
    found, findings = host.read_settings(environ)
    assert found is not None
    assert found.data_dir == tmp_path
    assert [one.status for one in findings] == [Status.FAILED] * 3
    assert {"GATEWAY_LISEN", "GATEWAY_LEASE", "GATEWAY_MASTER_KEY_FILE"} <= set(
        " ".join(one.message.replace(":", "") for one in findings).split()
    )


def test_beside_the_service_of_the_machine_what_only_its_settings_tell_is_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "_OF_MACHINE", tmp_path)
    environ = {"HOME": str(tmp_path / "home"), "GATEWAY_DATA_DIR": None, "GATEWAY_DOCKER_HOST": "unix:///nowhere"}
    ended = CliRunner().invoke(main, ["doctor", "--json"], env=environ)
    found = {one["name"]: one for one in json.loads(ended.stdout)["checks"]}
    assert found["service"]["status"] == "failed"
    assert "systemctl status pushdeploy" in found["service"]["remedy"]
    assert str(tmp_path) in found["disk of the data"]["message"]
    assert not {"settings", "data directory", "master key", "database", "public URL"} & set(found)


@pytest.mark.parametrize(
    ("facts", "warns"),
    [
        ({"CgroupDriver": "cgroupfs", "MemoryLimit": True}, False),
        ({}, False),
        ({"CgroupDriver": "none", "MemoryLimit": True}, True),
        ({"CgroupDriver": "systemd", "MemoryLimit": False}, True),
    ],
)
def test_an_engine_that_sets_no_limits_is_warned_of(facts: Mapping[str, Any], *, warns: bool) -> None:
    assert [one.status for one in engine._limits(facts)] == [Status.WARNING] * warns  # noqa: SLF001


def test_a_wrong_value_is_not_printed(tmp_path: Path) -> None:
    _, findings = host.read_settings({"GATEWAY_DATA_DIR": str(tmp_path), "GATEWAY_BODY_LIMIT": "hunter2"})
    assert "hunter2" not in repr(findings)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"database_url": "postgresql://db/gateway"}, "needs GATEWAY_MASTER_KEY"),
        ({"master_key": "short"}, "not base64 of 32 bytes"),
    ],
)
def test_a_master_key_that_cannot_be_used_fails(tmp_path: Path, given: Mapping[str, str], said: str) -> None:
    found = host.check_master_key(settings(tmp_path, **given))
    assert (found.status, said in found.message) == (Status.FAILED, True)


def test_a_key_file_that_others_can_read_or_that_is_lost_fails(tmp_path: Path) -> None:
    assert host.check_master_key(settings(tmp_path)).status is Status.OK
    (tmp_path / "postgres").mkdir()
    assert "is missing" in host.check_master_key(settings(tmp_path)).message
    (tmp_path / "master.key").touch(mode=0o644)
    assert "chmod 600" in host.check_master_key(settings(tmp_path)).remedy


def test_a_data_directory_that_others_may_write_to_or_enter_fails(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    (directory / "sockets").mkdir(parents=True)
    (directory / "sockets").chmod(0o755)
    assert "chmod 700" in host.check_data_directory(settings(directory)).remedy
    directory.chmod(0o777)
    assert "chmod o-w" in host.check_data_directory(settings(directory)).remedy


def test_a_data_directory_that_is_a_file_or_cannot_be_made_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    assert host.check_data_directory(settings(tmp_path / "file")).status is Status.FAILED
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "install -d" in host.check_data_directory(settings(tmp_path / "a" / "b")).remedy


@pytest.mark.parametrize(("free", "status"), [(1 << 20, Status.FAILED), (1 << 29, Status.WARNING)])
def test_a_full_disk_fails_and_an_almost_full_one_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, status: Status
) -> None:
    usage = type("Usage", (), {"total": 1 << 34, "free": free})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert host.check_disk(settings(tmp_path)).status is status


def test_a_port_that_another_program_uses_fails(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        assert host.check_listener(settings(tmp_path, listen=listen), running=False).status is Status.FAILED
        assert host.check_listener(settings(tmp_path, listen=listen), running=True).status is Status.OK
    assert host.check_listener(settings(tmp_path, listen="127.0.0.1:0"), running=False).status is Status.WARNING


def test_proxies_that_the_gateway_does_not_use_are_named() -> None:
    assert "HTTPS_PROXY" in host.check_proxies({"HTTPS_PROXY": "http://user:secret@p"}, {}).message
    assert "secret" not in host.check_proxies({"HTTPS_PROXY": "http://user:secret@p"}, {}).message
    assert host.check_proxies({}, {"HttpProxy": "http://p"}).status is Status.WARNING
    assert host.check_proxies({}, {"HttpProxy": ""}).status is Status.OK


@pytest.mark.parametrize(
    ("ahead", "status"), [(1, Status.OK), (30, Status.WARNING), (-30, Status.WARNING), (400, Status.FAILED)]
)
def test_clocks_that_differ_warn_and_fail(ahead: float, status: Status) -> None:
    assert clock.compare("clock", 1000.0, 1000.0 + ahead).status is status


# The engine


@asynccontextmanager
async def engine_at(
    directory: Path, *, api: str = "1.41", behind: float = 0, refuses: _PROXY = lambda _: False
) -> AsyncIterator[str]:
    """Serve an engine that knows nothing but itself, behind a proxy that refuses some requests."""

    async def answer(request: web.Request) -> web.Response:
        if refuses(request):
            return web.Response(status=403, text="<html>Forbidden</html>")
        if request.path.endswith("/version"):
            return web.json_response({"Version": "20.10.24", "ApiVersion": api})
        if request.path.endswith("/info"):
            now = datetime.fromtimestamp(time.time() - behind, UTC).isoformat()
            return web.json_response({"SystemTime": now, "DockerRootDir": "/none", "OSType": "linux"})
        return web.json_response({"message": "No such thing"}, status=404)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    path = directory / "docker.sock"
    await web.UnixSite(runner, str(path)).start()
    try:
        yield f"unix://{path}"
    finally:
        await runner.cleanup()


async def engine_findings(address: str) -> list[Finding]:
    found = engine.EngineFindings()
    await engine.check_engine(address, found)
    return found.findings


async def test_an_engine_that_answers_and_lets_everything_pass_is_ok(tmp_path: Path) -> None:
    async with engine_at(tmp_path) as address:
        found = await engine_findings(address)
    assert set(states(found).values()) == {Status.OK}
    assert {"engine", "engine access", "clock of the engine", "disk of the engine"} == set(states(found))


@pytest.mark.parametrize(
    ("faults", "name", "said"),
    [
        ({"api": "1.40"}, "engine", "oldest that is tested"),
        ({"behind": 300.0}, "clock of the engine", "ahead of it"),
        ({"refuses": lambda request: request.method == "POST"}, "engine access", "POST /containers/…/start"),
        ({"refuses": lambda request: "images" in request.path}, "engine access", "GET /images"),
        ({"refuses": lambda request: request.path.endswith("info")}, "engine", "lists all paths"),
    ],
    ids=["old", "late", "read-only", "without-images", "closed"],
)
async def test_what_is_wrong_with_an_engine_is_named(
    tmp_path: Path, faults: Mapping[str, Any], name: str, said: str
) -> None:
    async with engine_at(tmp_path, **faults) as address:
        found = {one.name: one for one in await engine_findings(address)}
    assert found[name].status is Status.FAILED
    assert said in found[name].text


@pytest.mark.parametrize(("program", "cure"), [(None, "Install Docker"), ("/usr/bin/dockerd", "Start it")])
async def test_an_engine_that_is_not_there_is_installed_or_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str | None, cure: str
) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: program)
    (found,) = await engine_findings(f"unix://{tmp_path}/none.sock")
    assert found.remedy.startswith(cure)


async def test_an_engine_that_does_not_listen_fails(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    assert "systemctl start docker" in (await engine_findings(f"unix://{tmp_path}/dead.sock"))[0].remedy
    assert "GATEWAY_DOCKER_HOST" in (await engine_findings("tcp://127.0.0.1:1"))[0].remedy
    assert "servers create" in (await engine_findings("ssh://me@host"))[0].remedy
    assert (await engine_findings("nonsense"))[0].status is Status.FAILED


async def test_a_socket_that_the_user_may_not_use_names_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    (tmp_path / "docker.sock").touch()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    [found] = await engine_findings(f"unix://{tmp_path}/docker.sock")
    assert "usermod -aG" in found.remedy
    assert f"--group-add {os.getgid()}" in found.remedy


# The database, and what others reach


@pytest.mark.parametrize("url", ["postgresql://gateway:hunter2@127.0.0.1:1/gateway", "postgresql://a:hunt/er2@b/c"])
async def test_a_database_that_does_not_answer_fails_without_its_password(tmp_path: Path, url: str) -> None:
    [found] = await database.check_database(settings(tmp_path, database_url=url), running=False)
    assert found.status is Status.FAILED
    assert "GATEWAY_DATABASE_URL" in found.text
    assert "er2" not in found.text


async def test_an_embedded_database_that_was_never_started_is_not_created(tmp_path: Path) -> None:
    [found] = await database.check_database(settings(tmp_path), running=False)
    assert found.status is Status.OK
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - not blocking for long


async def test_without_an_embedded_postgresql_a_database_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.postgres_programs._PACKAGE", "none_such")
    [found] = await database.check_database(settings(tmp_path), running=False)
    assert (found.status, "pip install" in found.message) == (Status.FAILED, True)


async def test_a_public_url_is_asked_and_what_is_wrong_is_named() -> None:
    [unset] = await reach.check_public_url(None, running=True)
    [refused] = await reach.check_public_url("http://127.0.0.1:1", running=True)
    [not_yet] = await reach.check_public_url("http://127.0.0.1:1", running=False)
    assert (unset.status, refused.status, not_yet.status) == (Status.WARNING, Status.FAILED, Status.WARNING)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", _unresolvable)
        [unknown] = await reach.check_public_url("https://gateway.invalid", running=True)
    assert "DNS" in unknown.remedy


def _unresolvable(*_: object, **__: object) -> None:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize(
    ("path", "status"), [("", Status.OK), ("/elsewhere", Status.FAILED)], ids=["as-it-is", "rewritten"]
)
async def test_a_proxy_that_leads_elsewhere_fails(path: str, status: Status) -> None:
    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    application = web.Application()
    application.router.add_get("/healthz", healthz)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        port = runner.addresses[0][1]
        [found] = await reach.check_public_url(f"http://127.0.0.1:{port}{path}", running=True)
    finally:
        await runner.cleanup()
    assert found.status is status


# The whole


async def test_a_check_that_hangs_or_breaks_fails_and_ends() -> None:
    import asyncio

    async def hang() -> list[Finding]:
        await asyncio.Event().wait()
        return []

    async def fail() -> list[Finding]:
        raise ZeroDivisionError

    assert [one.status for one in await run("slow", hang, deadline=0.01)] == [Status.FAILED]
    assert [one.status for one in await run("broken", fail)] == [Status.FAILED]


def test_what_others_say_is_one_line_without_control_characters() -> None:
    assert "\n" not in ok("a", "two\nlines").text
    assert "\x1b" not in warning("a", "\x1b[2J" + "x" * 10_000, "cure").text
    assert len(warning("a", "x" * 10_000, "cure").text) < 1000
    assert worst([]) is Status.OK


@pytest.mark.parametrize("words", [(), ("--json",)], ids=["text", "json"])
def test_the_command_prints_one_line_a_check_and_exits_1_if_one_fails(tmp_path: Path, words: tuple[str, ...]) -> None:
    environment = {
        "HOME": str(tmp_path),
        "GATEWAY_DATA_DIR": str(tmp_path / "data"),
        "GATEWAY_DOCKER_HOST": f"unix://{tmp_path}/docker.sock",
        "GATEWAY_LISTEN": "127.0.0.1:0",
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("gateway.cli._logging.configure", lambda *_: None)
        done = CliRunner(env=environment).invoke(cast("click.Command", main), ["doctor", *words])
    assert done.exit_code == 1, done.output
    if not words:
        assert all(line.split()[0] in list(Status) for line in done.stdout.splitlines())
        return
    told = json.loads(done.stdout)
    assert told["status"] == "failed"
    assert [one["name"] for one in told["checks"] if one["status"] == "failed"] == ["engine"]
