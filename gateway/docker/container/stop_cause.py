"""Whether a container that is down ended by itself, or was stopped: by somebody, or by an engine on its way down.

An engine that is told to end stops its containers first, and answers meanwhile. So what it has stopped says nothing
of the version in it, and what is asked of the engine then comes to nothing.
"""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import orjson

from gateway.docker.engine import containers, logs
from gateway.docker.engine.client import BUILT_IN, Engine
from gateway.docker.engine.containers import Container
from gateway.model.errors import Code, Postponed

_RESTARTING_POLICIES = frozenset({"always", "unless-stopped"})
_STOP_SIGNALS = frozenset({"2", "3", "6", "9", "15"})  # signals
_POLL_INTERVAL = 0.5  # seconds
# dockerd gives its containers this long, or what the slowest of them asks for and a little more.
_SHUTDOWN, _GRACE, _MARGIN = 15, 10, 6  # seconds
_SHUTDOWN_SPREAD = timedelta(seconds=2)  # in which an engine that ends tells all its containers


async def was_stopped(engine: Engine, container: Container) -> bool:
    """Tell whether somebody or the engine stopped a container that is down."""
    if container.error:
        return False  # it could not be started
    if container.restart_policy.get("Name") in _RESTARTING_POLICIES:
        return True  # the engine would have started one again that ended by itself
    return await _ended_with_the_engine(engine, container) or await _was_signalled(engine, container)


async def _ended_with_the_engine(engine: Engine, container: Container) -> bool:
    networks = await engine.call("GET", "networks", params=BUILT_IN)
    started = max((containers.parse_time(one["Created"]) for one in networks), default=container.finished_at)
    return container.finished_at < started


async def _was_signalled(engine: Engine, container: Container) -> bool:
    told = await _signalled_containers(engine, container.started_at, {"container": [container.container_id]})
    return container.container_id in told


async def _signalled_containers(engine: Engine, since: str, filters: Mapping[str, list[str]]) -> frozenset[str]:
    """Return the containers that were sent a signal to end since then."""
    now = str((await engine.call("GET", "info"))["SystemTime"])
    asked = orjson.dumps({**filters, "type": ["container"], "event": ["kill"]}).decode()
    said = await logs.read_stream(
        engine,
        "events",
        {"since": containers.to_timestamp(since), "until": containers.to_timestamp(now), "filters": asked},
    )
    events: list[Mapping[str, Any]] = [orjson.loads(line) for line in said.splitlines() if line.strip()]
    return frozenset(
        str(event["Actor"]["ID"]) for event in events if event["Actor"]["Attributes"].get("signal") in _STOP_SIGNALS
    )


async def wait_out_shutdown(engine: Engine, stopped: Container) -> None:
    """Return once it is known that the engine stays, so that somebody else has stopped the container.

    Raises Postponed where the engine went away, or was started anew, meanwhile.
    """
    clock = asyncio.get_running_loop().time
    run, began, lasts = (await engine.identify()).run, clock(), await _shutdown_duration(engine)
    while clock() - began < lasts:
        await asyncio.sleep(_POLL_INTERVAL)
        if (await engine.identify()).run != run:
            raise Postponed(Code.ENGINE_UNREACHABLE, f"the Docker Engine was restarted, and {stopped.name} with it")
        if clock() - began >= _SHUTDOWN_SPREAD.total_seconds() and await _others_keep_running(engine, stopped):
            return


async def _others_keep_running(engine: Engine, stopped: Container) -> bool:
    """Tell whether another container runs that was not told to end: an engine on its way down spares none."""
    running = {str(one["Id"]) for one in await engine.call("GET", "containers/json")} - {stopped.container_id}
    if not running:
        return False
    since = (stopped.finished_at - _SHUTDOWN_SPREAD).isoformat()
    return bool(running - await _signalled_containers(engine, since, {}))


async def _shutdown_duration(engine: Engine) -> float:
    """Return the seconds that the engine takes to end, at most, as far as can be told from outside."""
    listed = await engine.call("GET", "containers/json")
    found = [await containers.inspect_raw(engine, one["Id"]) for one in listed]
    graces = [one["Config"].get("StopTimeout") or _GRACE for one in found if one is not None]
    return max([_SHUTDOWN, *graces]) + _MARGIN
