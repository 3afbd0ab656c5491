"""Checks whether an engine has refused a call because it is shutting down.

An engine answers until the end of its shutdown, also after it has closed its stores and unmounted its file systems. Its
refusals then say nothing about the version that is rolled out. `stop_cause.wait_out_shutdown` is for the time before,
in which the engine stops its containers.
"""

import asyncio

from gateway.docker.engine.client import Engine
from gateway.model.errors import Code, Failed, Postponed

_LASTS, _LOOK_AGAIN = 3.0, 0.2  # seconds: an engine that shuts down is gone so soon after a refusal; between two looks


async def check_runs_on(engine: Engine, run: str) -> None:
    """Return if the engine still runs some seconds later. Raises Postponed if it is gone, or is another run."""
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
