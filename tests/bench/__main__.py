"""`make bench`: a table, and bench.json; exit code 1 when a gate is broken."""

import asyncio
import sys
import tempfile
from pathlib import Path

from gateway.cli.demo.engine import private_engine
from gateway.cli.demo.process import free_port
from gateway.cli.demo.registry import private_registry
from tests.bench import accepting, deploying, recovering
from tests.bench.report import Figure, show
from tests.support import leftovers


async def main() -> bool:
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as place:
        directory = Path(place)
        async with private_engine() as dockerd, private_registry(directory / "registry", free_port()) as registry:
            figures += await deploying.measure(dockerd, registry, directory)
            await dockerd.remove_containers()
            figures += await deploying.fan_out(dockerd, registry, directory)
            figures += await recovering.rollback(dockerd, registry, directory)
            figures += await recovering.takeover(dockerd, registry, directory)
        figures += await accepting.measure(directory)
    return show(figures, Path("bench.json"))


leftovers.start_watcher()
sys.exit(0 if asyncio.run(main()) else 1)
