"""A backup and a restore that are killed at each of their steps: nothing is half there, and both can be run again."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gateway.cli.demo.process import GatewayProcess
from gateway.model.errors import InvalidInput
from gateway.store.backup import verify_backup
from gateway.store.database import Pool, connect
from tests.faults.database import small_disk
from tests.integration.store.test_backup import ROWS, SECRET, content
from tests.support.databases import address, another_database, database_settings
from tests.support.killed_at import run_killed

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]
_KILLED = -9
#: steps at which a command is killed, besides all of the last ones
_MOST, _LAST = int(os.environ.get("BACKUP_KILLS", "40")), 6
_FLIPS = int(os.environ.get("BACKUP_FLIPS", "60"))


def _numbers(steps: int) -> Iterator[int]:
    spread = max(1, steps // _MOST)
    yield from (number for number in range(1, steps + 1) if number % spread == 0 or number > steps - _LAST)


class _Place:
    """Where commands run: their files, and their settings."""

    def __init__(self, directory: Path, settings: dict[str, str]) -> None:
        self.directory, self.settings = directory, settings
        (directory / "passphrase").write_text(SECRET)

    async def run(self, number: int, *words: str) -> tuple[int, str]:
        given = (*words, "--passphrase-file", str(self.directory / "passphrase"))
        return await run_killed(self.directory / "count", number, *given, environment=self.settings)

    def steps(self) -> int:
        return int((self.directory / "count").read_text())


@pytest.fixture
async def place(web_postgres: str, tmp_path: Path) -> _Place:
    """A gateway with something in most tables."""
    settings = await database_settings(web_postgres, "killed_source")
    connection = await asyncpg.connect(settings["GATEWAY_DATABASE_URL"])
    await connection.execute(ROWS)
    await connection.close()
    return _Place(tmp_path, settings)


async def test_a_backup_that_is_killed_leaves_the_file_of_before_or_a_whole_one(place: _Place, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    target = folder / "gateway.backup"
    words = ("backup", "--force", str(target))
    assert (await place.run(0, *words))[0] == 0
    steps = place.steps()
    for number in _numbers(steps):
        ended, said = await place.run(number, *words)
        assert ended == _KILLED, (number, said)
        assert verify_backup(target, SECRET).rows["applications"] == 1, number
        left = [one.name for one in folder.iterdir() if one != target]
        assert len(left) <= 1, (number, "what an earlier one left is still there", left)
    ended, said = await place.run(0, *words)
    assert (ended, os.listdir(folder)) == (0, [target.name]), said  # noqa: PTH208 - in a test
    held = target.read_bytes()
    for place_of_flip in range(_FLIPS):
        changed = bytearray(held)
        changed[place_of_flip * len(held) // _FLIPS] ^= 1 << place_of_flip % 8
        target.write_bytes(changed)
        with pytest.raises(InvalidInput):
            verify_backup(target, SECRET)


async def _is_whole(pool: Pool, wanted: dict[str, list[str]]) -> bool:
    """Tell whether the database has all rows; raises AssertionError where it has some."""
    if await pool.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0:
        return False
    found = await content(pool)
    different = {name for name in wanted if found[name] != wanted[name]}
    assert different <= {"deployments", "outbox_deliveries", "audit", "installation"}, different
    assert {name: len(found[name]) for name in ("deployments",)} == {"deployments": len(wanted["deployments"])}
    return True


async def test_a_restore_that_is_killed_leaves_nothing_or_all_and_says_which(
    place: _Place, web_pool: Pool, web_postgres: str, tmp_path: Path
) -> None:
    target = tmp_path / "gateway.backup"
    assert (await place.run(0, "backup", str(target)))[0] == 0
    connection = await asyncpg.connect(place.settings["GATEWAY_DATABASE_URL"])
    await connection.execute("DROP TABLE of_somebody")
    wanted = await content_of(place.settings["GATEWAY_DATABASE_URL"])
    await connection.close()
    steps = 0
    seen: list[Any] = []
    numbers = iter([0])
    while True:
        for number in numbers:
            async with another_database(web_pool, web_postgres, "killed_target") as pool:
                url = {"GATEWAY_DATABASE_URL": address(web_postgres, "killed_target")}
                into = _Place(tmp_path, {**place.settings, **url})
                ended, said = await into.run(number, "restore", str(target))
                assert ended == (_KILLED if number else 0), (number, said)
                steps = steps or into.steps()
                is_whole = await _is_whole(pool, wanted)
                seen.append(is_whole)
                ended, said = await into.run(0, "restore", str(target))
                if is_whole:
                    assert (ended, "not empty" in said) == (1, True), (number, said)
                else:
                    assert ended == 0, (number, said)
                    assert await _is_whole(pool, wanted)
        if len(seen) > 1:
            break
        numbers = _numbers(steps)
    assert seen[0] is True
    assert False in seen[1:]


async def test_a_restore_without_disk_space_ends_and_is_done_again_with_more(place: _Place, tmp_path: Path) -> None:
    """Also where PostgreSQL lies on that disk, and cannot even start again."""
    connection = await asyncpg.connect(place.settings["GATEWAY_DATABASE_URL"])
    await connection.execute(
        "INSERT INTO deliveries (delivery_id, endpoint_id, source, body, verdict)"
        " SELECT 'd' || n, 'h', 'g', sha512(n::text::bytea), 'queued' FROM generate_series(1, 100000) n"
    )
    await connection.close()
    target = tmp_path / "gateway.backup"
    assert (await place.run(0, "backup", str(target)))[0] == 0
    async with small_disk(tmp_path / "disk", 48 * 1024**2) as disk:
        into = _Place(tmp_path, {"GATEWAY_DATA_DIR": str(disk / "data")})
        ended, said = await into.run(0, "restore", str(target))
        assert ended == 3, said
        assert "Nothing was changed: restore it again when that is mended" in said
        grown = await asyncio.create_subprocess_exec("mount", "-o", "remount,size=1g", str(disk))
        assert await grown.wait() == 0
        ended, said = await into.run(0, "restore", str(target))
        assert ended == 0, said
        assert (await into.run(0, "backup", str(tmp_path / "again")))[0] == 0
    assert verify_backup(tmp_path / "again", SECRET).rows["deliveries"] == 100_001


async def content_of(url: str) -> dict[str, list[str]]:
    async with connect(url, size=2) as pool:
        return await content(pool)


@pytest.mark.parametrize("number", [3, 100, -2])
async def test_a_gateway_that_starts_after_a_killed_restore_has_all_or_nothing(
    place: _Place, tmp_path: Path, number: int
) -> None:
    target = tmp_path / "gateway.backup"
    assert (await place.run(0, "backup", str(target)))[0] == 0
    into = _Place(tmp_path, {"GATEWAY_DATA_DIR": str(tmp_path / "first" / "data")})
    (tmp_path / "first").mkdir()
    assert (await into.run(0, "restore", str(target)))[0] == 0
    killed_at = number if number > 0 else into.steps() + number + 1
    into = _Place(tmp_path, {"GATEWAY_DATA_DIR": str(tmp_path / "second" / "data")})
    (tmp_path / "second").mkdir()
    ended, said = await into.run(killed_at, "restore", str(target))
    assert ended == _KILLED, said
    gateway = GatewayProcess(tmp_path / "second", "unix:///nowhere", into.settings)
    await gateway.start()
    try:
        ended, said = await into.run(0, "restore", str(target))
        assert (ended, "not empty" in said, "Nothing was changed" in said) == (1, True, True), said
    finally:
        await gateway.stop()
    assert (await into.run(0, "backup", str(tmp_path / "again")))[0] == 0
    again, before = (verify_backup(one, SECRET).rows for one in (tmp_path / "again", target))
    tables = ("applications", "deployments", "endpoints", "api_keys", "alerts", "outbox_deliveries")
    assert [again[name] for name in tables] in ([before[name] for name in tables], [0] * len(tables))


@pytest.mark.parametrize("number", [3, 40, 100, -4, -3, -2, -1])
async def test_a_restore_into_a_data_directory_that_is_killed_is_done_again(
    place: _Place, tmp_path: Path, number: int
) -> None:
    target = tmp_path / "gateway.backup"
    assert (await place.run(0, "backup", str(target)))[0] == 0
    (tmp_path / "first").mkdir()
    into = _Place(tmp_path, {"GATEWAY_DATA_DIR": str(tmp_path / "first" / "data")})
    assert (await into.run(0, "restore", str(target)))[0] == 0
    killed_at = number if number > 0 else into.steps() + number + 1
    into = _Place(tmp_path, {"GATEWAY_DATA_DIR": str(tmp_path / "second" / "data")})
    ended, said = await into.run(killed_at, "restore", str(target))
    assert ended == _KILLED, said
    ended, said = await into.run(0, "restore", str(target))
    assert ended == 0 or "not empty" in said, said
    listed = await into.run(0, "backup", str(tmp_path / f"again{number}"))
    assert listed[0] == 0, listed
    again = verify_backup(tmp_path / f"again{number}", SECRET)
    assert again.rows["applications"] == 1
