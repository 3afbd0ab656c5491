"""Where the gateway's processor time goes while pushes are accepted: python -m tests.bench.profile [SECONDS]

It runs under cProfile, which itself takes time for each call: compare functions, not times with those of `make bench`.
"""

import asyncio
import cProfile
import pstats
import runpy
import sys
import tempfile
from pathlib import Path

from gateway.cli.demo.process import gateway_process
from tests.bench.accepting import REPOSITORIES, SETTINGS, prepare
from tests.bench.load import Pushes, send
from tests.support import leftovers

_SHOWN = 60  # functions


async def main(seconds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="gateway-profile-") as place:
        directory, found = Path(place), Path(place, "profile")
        prefix = (sys.executable, "-m", "tests.bench.profile", "--serve", str(found))
        async with gateway_process(directory / "gateway", f"unix://{place}/none", SETTINGS, prefix) as gateway:
            pushes = Pushes(await prepare(gateway, REPOSITORIES), REPOSITORIES)
            sent = await send(gateway.url, pushes, connections=128, seconds=seconds, directory=directory)
        print(f"{sent.rate:.0f} pushes a second")  # noqa: T201 - that is what it is for
        pstats.Stats(str(found)).strip_dirs().sort_stats("tottime").print_stats(_SHOWN)


def _serve(found: Path) -> None:
    """Run `gateway serve` in this process until it ends, and write what was found."""
    sys.argv = ["gateway", "serve"]
    profile = cProfile.Profile()
    try:
        profile.runcall(runpy.run_module, "gateway", run_name="__main__", alter_sys=True)
    finally:
        profile.dump_stats(found)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        _serve(Path(sys.argv[2]))
    else:
        leftovers.start_watcher()
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10))
