"""Finds out why a container stopped: by itself, by a person, or because the engine is shutting down.

An engine that shuts down stops its containers first and still answers requests. A container that it stopped says
nothing about the quality of its version, and new requests to this engine have no effect.
"""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import orjson

from gateway.docker.engine import containers, logs
from gateway.docker.engine.client import Engine
from gateway.docker.engine.containers import Container
from gateway.model.errors import Code, Postponed

_RESTARTING_POLICIES = frozenset({"always", "unless-stopped"})
_STOP_SIGNALS = frozenset({"2", "3", "6", "9", "15"})  # numbers of SIGINT, SIGQUIT, SIGABRT, SIGKILL, SIGTERM
_POLL_INTERVAL = 0.5  # seconds
# On its shutdown, dockerd waits _SHUTDOWN for its containers, or the longest stop timeout of a container and a margin.
_SHUTDOWN, _GRACE, _MARGIN = 15, 10, 6  # seconds
_SHUTDOWN_SPREAD = timedelta(seconds=2)  # within which an engine that shuts down signals all containers


async def was_stopped(engine: Engine, container: Container) -> bool:
    """Return whether a person or the engine stopped this container, which is down."""
    if container.error:
        return False  # it failed to start
    if container.restart_policy.get("Name") in _RESTARTING_POLICIES:
        return True  # the engine restarts a container that exits by itself
    return await _ended_with_the_engine(engine, container) or await _was_signalled(engine, container)


async def _ended_with_the_engine(engine: Engine, container: Container) -> bool:
    networks = await engine.built_in_networks()
    started = max((containers.parse_time(one["Created"]) for one in networks), default=container.finished_at)
    return container.finished_at < started


async def _was_signalled(engine: Engine, container: Container) -> bool:
    signalled = await _signalled_containers(engine, container.started_at, {"container": [container.container_id]})
    return container.container_id in signalled


async def _signalled_containers(engine: Engine, since: str, filters: Mapping[str, list[str]]) -> frozenset[str]:
    """Return the ids of the containers that received a stop signal after the engine's time `since`."""
    now = str((await engine.call("GET", "info"))["SystemTime"])
    filters_json = orjson.dumps({**filters, "type": ["container"], "event": ["kill"]}).decode()
    stream = await logs.read_stream(
        engine,
        "events",
        {"since": containers.to_timestamp(since), "until": containers.to_timestamp(now), "filters": filters_json},
    )
    events: list[Mapping[str, Any]] = [orjson.loads(line) for line in stream.splitlines() if line.strip()]
    return frozenset(
        str(event["Actor"]["ID"]) for event in events if event["Actor"]["Attributes"].get("signal") in _STOP_SIGNALS
    )


async def wait_out_shutdown(engine: Engine, stopped: Container) -> None:
    """Return when it is certain that the engine keeps running, so that a person stopped the container.

    Raises Postponed when the engine goes away or restarts meanwhile.
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
    """Return whether another container runs without a stop signal. A shutdown stops all of them."""
    running = {str(one["Id"]) for one in await engine.call("GET", "containers/json")} - {stopped.container_id}
    if not running:
        return False
    since = (stopped.finished_at - _SHUTDOWN_SPREAD).isoformat()
    return bool(running - await _signalled_containers(engine, since, {}))


async def _shutdown_duration(engine: Engine) -> float:
    """Return the longest time in seconds that a shutdown of the engine takes, estimated from the API."""
    listed = await engine.call("GET", "containers/json")
    found = [await containers.inspect_raw(engine, one["Id"]) for one in listed]
    graces = [one["Config"].get("StopTimeout") or _GRACE for one in found if one is not None]
    return max([_SHUTDOWN, *graces]) + _MARGIN
