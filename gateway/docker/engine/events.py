"""Follows the engine's events: https://docs.docker.com/reference/api/engine/version/v1.41/#tag/System

An event only lets something happen sooner that happens in any case, since events are lost when the connection breaks.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import aiohttp
import orjson

from gateway.docker.engine.client import Engine, translate_errors

# The engine matches "health_status" by prefix, and therefore all of these words.
_WATCHED = {
    "type": ["container", "service"],
    "event": ["create", "start", "die", "destroy", "rename", "pause", "unpause", "health_status", "update", "remove"],
}


_LEFT = {"type": ["network"], "event": ["disconnect"]}


async def follow(engine: Engine) -> AsyncGenerator[None, None]:
    """Yield when the subscription begins, and for each event, until the connection ends.

    Raises Postponed when the connection breaks.
    """
    async with _subscribed(engine, _WATCHED) as response:
        yield  # events before this point were not received
        async for chunk in response.content.iter_any():
            if chunk.strip():
                yield


async def follow_leaving(engine: Engine, network: str) -> AsyncGenerator[str, None]:
    """Yield the id of each container that has left the network: what it has published there is free then.

    Raises Postponed when the connection breaks.
    """
    async with _subscribed(engine, _LEFT | {"network": [network]}) as response:
        async for line in response.content:
            about = orjson.loads(line)["Actor"]["Attributes"] if line.strip() else {}
            # The engine matches a network by the beginning of its name.
            if about.get("name") == network:
                yield str(about.get("container", ""))


@asynccontextmanager
async def _subscribed(engine: Engine, filters: Mapping[str, Sequence[str]]) -> AsyncIterator[aiohttp.ClientResponse]:
    params = {"filters": orjson.dumps(filters).decode()}
    with translate_errors(waiting_for="GET events"):
        async with engine._query("events", params=params) as response:  # noqa: SLF001 - our own subclass
            yield response
