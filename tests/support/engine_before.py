"""What stands before the engine of the tests: nothing, or what `make engine-filter` and `make engine-29` put there."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.cli.demo.engine import PrivateEngine
from tests.support.engine_29 import engine_29
from tests.support.engine_filter import filtered


@asynccontextmanager
async def engine_before(engine: PrivateEngine) -> AsyncIterator[None]:
    """Put it there until the block is left: the engine's address is that of what stands before it."""
    if os.environ.get("ENGINE_FILTER"):
        async with filtered(engine):
            yield
    elif os.environ.get("ENGINE_29"):
        async with engine_29(engine.socket) as (address, strict):
            direct, engine.host = engine.host, address
            try:
                yield
            finally:
                engine.host = direct
            assert strict.refused == []
    else:
        yield
