"""Limits the size of container logs when the engine does not.

By default the engine writes json-file logs without a limit, and a container that logs a lot fills the disk. The API
shows the default driver but not its options, so the gateway creates a container, without starting it, to read them.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import Any
from weakref import WeakKeyDictionary

import orjson

from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine
from gateway.model.errors import Failed
from gateway.single_flight import SingleFlight

#: as a container's LogConfig
BOUNDED = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
_JSON_FILE = "json-file"
_MAX_SIZE = "max-size"
_PROBE_LABEL = "gateway.look"  # on the container that is created to read the options


async def for_container(engine: Engine) -> dict[str, Any]:
    """Return the log part of a HostConfig: empty unless the engine's default has no limit."""
    return {"LogConfig": BOUNDED} if await _is_unbounded(engine) else {}


async def for_service(engine: Engine) -> dict[str, Any]:
    """Return the log part of a task template: empty when the Swarm sets a log driver, or the default is limited."""
    defaults = (await engine.call("GET", "swarm"))["Spec"].get("TaskDefaults") or {}
    if defaults.get("LogDriver") or not await _is_unbounded(engine):
        return {}
    return {"LogDriver": {"Name": BOUNDED["Type"], "Options": BOUNDED["Config"]}}


async def _is_unbounded(engine: Engine) -> bool:
    """Return whether a log grows without limit by default. The result is cached until the engine restarts."""
    if (known := engine.unbounded_logs.get(engine.run)) is not None:
        return known
    # One container for all callers, since each would remove the container of another.
    reads = _READS.setdefault(engine.original, SingleFlight())
    return await reads.join(engine.run, lambda: _read(engine.original, engine.run))


_READS: WeakKeyDictionary[Engine, SingleFlight[bool]] = WeakKeyDictionary()


async def _read(engine: Engine, run: str) -> bool:
    unbounded: bool | None = bool((await engine.call("GET", "info")).get("LoggingDriver") == _JSON_FILE)
    if unbounded:
        unbounded = await _default_has_no_limit(engine)
    if run and unbounded is not None:
        engine.unbounded_logs.clear()
        engine.unbounded_logs[run] = unbounded
    return unbounded is not False


async def _default_has_no_limit(engine: Engine) -> bool | None:
    """Create a container to read its log options. Return None when that is not possible."""
    there = await engine.call("GET", "images/json")
    if not there:
        return None
    try:
        async with _probe_container(engine, str(there[0]["Id"])) as made:
            found = await containers.inspect_raw(engine, made)
    except Failed:
        return None  # the image is for another platform, or was removed meanwhile
    return None if found is None else _MAX_SIZE not in (found["HostConfig"]["LogConfig"].get("Config") or {})


@asynccontextmanager
async def _probe_container(engine: Engine, image: str) -> AsyncIterator[str]:
    filters = orjson.dumps({"label": [_PROBE_LABEL], "status": ["created"]}).decode()
    for left in await engine.call("GET", "containers/json", params={"all": 1, "filters": filters}):
        await containers.remove(engine, str(left["Id"]))  # left by a gateway that was killed
    body = {"Image": image, "Cmd": ["look"], "Labels": {_PROBE_LABEL: "log"}, "HostConfig": {"NetworkMode": "none"}}
    made = await containers.create(engine, f"gateway-look-{token_hex(6)}", body, {})
    try:
        yield made
    finally:
        await containers.remove(engine, made)
