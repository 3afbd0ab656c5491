"""deploy/socket-proxy.cfg before an engine, for `make engine-filter`."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.process import WITH_US, until

CONFIGURATION = Path(__file__).parents[2] / "deploy/socket-proxy.cfg"


@asynccontextmanager
async def filtered(engine: PrivateEngine) -> AsyncIterator[str]:
    """Yield the address of a proxy before the engine; until the block is left, the engine's own address is that."""
    with tempfile.TemporaryDirectory(prefix="filter-") as directory:
        path = Path(directory) / "engine.sock"
        environment = {**os.environ, "DOCKER_SOCKET": str(engine.socket), "ENGINE_SOCKET": str(path)}
        process = await asyncio.create_subprocess_exec(*WITH_US, "haproxy", "-f", str(CONFIGURATION), env=environment)
        direct, engine.host = engine.host, f"unix://{path}"

        async def listens() -> bool | None:
            assert process.returncode is None, "haproxy has ended"
            return await asyncio.to_thread(path.exists) or None

        try:
            await until(listens)
            yield engine.host
        finally:
            engine.host = direct
            process.terminate()
            await process.wait()
