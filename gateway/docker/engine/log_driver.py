"""Where the logs of what is made go: the engine's choice, bounded where nobody has bounded it.

With json-file, the default that nobody chose, a container that loops would fill the disk. The engine tells its driver,
but not the driver's options: only a container that it makes shows them.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import Any

import orjson

from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine
from gateway.model.errors import Failed

#: as a container's LogConfig
BOUNDED = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
_JSON_FILE = "json-file"
_MAX_SIZE = "max-size"
_PROBE_LABEL = "gateway.look"  # the label of what is made for a look


async def for_container(engine: Engine) -> dict[str, Any]:
    """Return what a HostConfig is to say of the log: nothing where the engine's own choice is not unbounded."""
    return {"LogConfig": BOUNDED} if await _is_unbounded(engine) else {}


async def for_service(engine: Engine) -> dict[str, Any]:
    """Return what the template of a task is to say of the log; what the Swarm sets for all tasks is its choice."""
    defaults = (await engine.call("GET", "swarm"))["Spec"].get("TaskDefaults") or {}
    if defaults.get("LogDriver") or not await _is_unbounded(engine):
        return {}
    return {"LogDriver": {"Name": BOUNDED["Type"], "Options": BOUNDED["Config"]}}


async def _is_unbounded(engine: Engine) -> bool:
    """Tell whether the log of a container that chooses nothing grows for ever; asked once of each run of an engine."""
    if (known := engine.unbounded_logs.get(engine.run)) is not None:
        return known
    shown: bool | None = bool((await engine.call("GET", "info")).get("LoggingDriver") == _JSON_FILE)
    if shown:
        shown = await _default_has_no_limit(engine)
    if engine.run and shown is not None:
        engine.unbounded_logs.clear()
        engine.unbounded_logs[engine.run] = shown
    return shown is not False


async def _default_has_no_limit(engine: Engine) -> bool | None:
    """Make a container, which is never started, and look what the engine has chosen for it; None where it cannot be."""
    there = await engine.call("GET", "images/json")
    if not there:
        return None
    try:
        async with _probe_container(engine, str(there[0]["Id"])) as made:
            found = await containers.inspect_raw(engine, made)
    except Failed:
        return None  # its image is of another platform, or was removed meanwhile
    return None if found is None else _MAX_SIZE not in (found["HostConfig"]["LogConfig"].get("Config") or {})


@asynccontextmanager
async def _probe_container(engine: Engine, image: str) -> AsyncIterator[str]:
    filters = orjson.dumps({"label": [_PROBE_LABEL], "status": ["created"]}).decode()
    for left in await engine.call("GET", "containers/json", params={"all": 1, "filters": filters}):
        await containers.remove(engine, str(left["Id"]))  # by a gateway that was killed in a look
    body = {"Image": image, "Cmd": ["look"], "Labels": {_PROBE_LABEL: "log"}, "HostConfig": {"NetworkMode": "none"}}
    made = await containers.create(engine, f"gateway-look-{token_hex(6)}", body, {})
    try:
        yield made
    finally:
        await containers.remove(engine, made)
