"""Tells whether an engine ends that has refused something.

An engine that shuts down answers to the last, and by then it has closed its stores and taken its file systems away.
What it refuses then says nothing about a version.
"""

import asyncio

from gateway.docker.engine.client import Engine
from gateway.model.errors import Code, Failed, Postponed

_LASTS, _LOOK_AGAIN = 3.0, 0.2  # seconds after the first refusal in which the engine ends, and between two looks


async def check_runs_on(engine: Engine, run: str) -> None:
    """Return once it is likely that the engine runs on. Raises Postponed when it ends, or is another run by now."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + _LASTS
    while True:
        try:
            now = (await engine.identify()).run
        except Failed as error:
            raise Postponed(Code.ENGINE_UNREACHABLE, f"the Docker Engine shuts down: {error}") from error
        if now != run:
            raise Postponed(Code.ENGINE_UNREACHABLE, "the Docker Engine was restarted meanwhile")
        if clock() >= deadline:
            return
        await asyncio.sleep(_LOOK_AGAIN)
