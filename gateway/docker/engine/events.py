"""What happens on an engine, told by itself: https://docs.docker.com/reference/api/engine/version/v1.41/#tag/System

The events are hints to look again, and never read for what they say: some may be lost while the connection breaks.
"""

from collections.abc import AsyncGenerator

import orjson

from gateway.docker.engine.client import Engine, translate_errors

# "health_status" makes the engine compare the beginnings of these words.
_WATCHED = {
    "type": ["container", "service"],
    "event": ["create", "start", "die", "destroy", "rename", "pause", "unpause", "health_status", "update", "remove"],
}


async def follow(engine: Engine) -> AsyncGenerator[None, None]:
    """Yield once it listens, and whenever something changed, until the connection ends.

    Raises Postponed where it breaks.
    """
    params = {"filters": orjson.dumps(_WATCHED).decode()}
    with translate_errors(waiting_for="GET events"):
        async with engine._query("events", params=params) as response:  # noqa: SLF001 - our own subclass
            yield  # what happened before was not heard
            async for chunk in response.content.iter_any():
                if chunk.strip():
                    yield
