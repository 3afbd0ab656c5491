"""A program that the gateway does not trust: bounded, without secrets, and gone with all that it has started."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
import uvloop

from gateway.cli.demo.process import until
from gateway.gates import _process
from gateway.gates._process import Bounds, Command, Ended

SHELL = "/bin/sh"
# Starts two more: one in its own session, and one that nobody waits for.
BROOD = "setsid sleep 1000 & (sleep 1000 &) ; echo started; "


async def ran(script: str, place: Path, bounds: Bounds | None = None, stdin: bytes = b"") -> Ended:
    command = Command((SHELL, "-c", script, f"probe-{place.name}"), {"PATH": os.environ["PATH"]}, stdin)
    return await _process.run(command, place / "scans", bounds or Bounds(seconds=30))


def left(place: Path) -> list[str]:
    """Return what is left: directories, and processes that work in one."""
    found = [str(one) for one in (place / "scans").iterdir()]
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if target.startswith(str(place / "scans")):
            found.append(f"{link.parent.name} in {target}")
    return found


async def has_brood(place: Path) -> bool | None:
    """Tell, for `until`, whether the program runs with all that it starts."""
    return True if (place / "scans").exists() and len(left(place)) >= 4 else None


async def is_clean(place: Path) -> bool | None:
    return None if left(place) else True


async def test_it_has_no_variable_of_the_gateway_and_its_secret_is_no_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_MASTER_KEY", "of the gateway")
    script = (
        r"cat; tr '\0' '\n' </proc/$$/environ; tr '\0' ' ' </proc/$$/cmdline; tr '\0' ' ' </proc/$PPID/cmdline; pwd"
    )
    ended = await ran(script, tmp_path, stdin=b"password\n")
    assert ended.code == 0
    secret, *lines = ended.output.decode().splitlines()
    assert secret == "password"
    assert "password" not in "\n".join(lines)
    names = {line.partition("=")[0] for line in lines if "=" in line and " " not in line}
    assert names <= {"HOME", "PATH", "TMPDIR", "XDG_CACHE_HOME", "LC_CTYPE", "PWD", "OLDPWD", "_", "SHLVL"}
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 3", 3), ("kill -9 $$", 137), (f"{BROOD} exit 0", 0), ("kill -9 $PPID; while :; do :; done", -9)],
)
async def test_however_it_ends_nothing_of_it_is_left(tmp_path: Path, script: str, code: int) -> None:
    assert (await ran(script, tmp_path)).code == code
    if code == -9:  # even what would have removed its directory was killed
        assert len([one for one in left(tmp_path) if " in " in one]) == 0
        return
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("script", "bounds", "why"),
    [
        (f"{BROOD} sleep 1000", Bounds(seconds=0.5), "did not end within 0.5 s"),
        (f"{BROOD} trap '' TERM INT HUP; while :; do sleep 1; done", Bounds(seconds=0.5), "did not end within 0.5 s"),
        ("yes", Bounds(seconds=30, output=1024**2), "its output is larger than 1 MB"),
        (
            "for i in 1 2 3 4 5 6; do head -c 900000 /dev/zero >$i; done; sleep 1000",
            Bounds(seconds=30, disk=3 * 1024**2),
            "it wrote more than 3 MB",
        ),
    ],
)
async def test_what_breaks_a_bound_is_ended(tmp_path: Path, script: str, bounds: Bounds, why: str) -> None:
    ended = await ran(script, tmp_path, bounds)
    assert why in ended.broken
    assert left(tmp_path) == []


async def test_one_file_and_the_memory_are_bounded_by_the_system(tmp_path: Path) -> None:
    bounds = Bounds(seconds=30, disk=1024**2, memory=64 * 1024**2)
    assert (await ran("ulimit -f; ulimit -d; ulimit -c", tmp_path, bounds)).output.split() == [b"2048", b"65536", b"0"]
    eats = f"{sys.executable} -IS -c 'b = bytearray(200 << 20)'"
    assert "MemoryError" in (await ran(eats, tmp_path, bounds)).errors


async def test_a_cancelled_call_leaves_nothing(tmp_path: Path) -> None:
    task = asyncio.create_task(ran(f"{BROOD} sleep 1000", tmp_path))
    await until(lambda: has_brood(tmp_path))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left(tmp_path) == []


@pytest.mark.long
async def test_a_gateway_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    gateway = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import asyncio, sys; from pathlib import Path;"
        "from tests.integration.gates.test_confined_programs import ran, BROOD;"
        "asyncio.run(ran(BROOD + 'sleep 1000', Path(sys.argv[1])))",
        str(tmp_path),
    )
    await until(lambda: has_brood(tmp_path))
    gateway.send_signal(signal.SIGKILL)
    assert await gateway.wait() == -signal.SIGKILL
    await until(lambda: is_clean(tmp_path))


async def test_a_directory_that_nobody_holds_is_swept(tmp_path: Path) -> None:
    old, fresh = tmp_path / "scans" / "old", tmp_path / "scans" / "fresh"
    for one in (old, fresh):
        one.mkdir(parents=True)
        (one / "file").touch()
    os.utime(old, (0, 0))
    assert (await ran("exit 0", tmp_path)).code == 0
    assert left(tmp_path) == [str(fresh)]


async def _some_cancelled(place: Path) -> tuple[int, int]:
    """Run some programs at once, cancel some; return how many descriptors were open before and after."""

    async def one(number: int) -> None:
        script = ("exit 0", "sleep 1000", "yes", BROOD)[number % 4]
        task = asyncio.create_task(ran(script, place, Bounds(seconds=0.5, output=1024**2)))
        if number % 3 == 0:
            await asyncio.sleep(0.05 * number)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    await one(1)
    before = _open_descriptors()
    await asyncio.gather(*map(one, range(8)))
    return before, _open_descriptors()


def _open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.long
def test_the_loop_of_a_gateway_keeps_no_descriptor_and_no_directory(tmp_path: Path) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        before, after = runner.run(_some_cancelled(tmp_path))
    assert before == after
    assert left(tmp_path) == []
