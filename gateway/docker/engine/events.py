"""Follows the engine's events: https://docs.docker.com/reference/api/engine/version/v1.41/#tag/System

An event only triggers a new inspection. Its content is not used, because events are lost when the connection breaks.
"""

from collections.abc import AsyncGenerator

import orjson

from gateway.docker.engine.client import Engine, translate_errors

# The engine matches "health_status" by prefix, and therefore all of these words.
_WATCHED = {
    "type": ["container", "service"],
    "event": ["create", "start", "die", "destroy", "rename", "pause", "unpause", "health_status", "update", "remove"],
}


async def follow(engine: Engine) -> AsyncGenerator[None, None]:
    """Yield when the subscription begins, and for each event, until the connection ends.

    Raises Postponed when the connection breaks.
    """
    params = {"filters": orjson.dumps(_WATCHED).decode()}
    with translate_errors(waiting_for="GET events"):
        async with engine._query("events", params=params) as response:  # noqa: SLF001 - our own subclass
            yield  # events before this point were not received
            async for chunk in response.content.iter_any():
                if chunk.strip():
                    yield
