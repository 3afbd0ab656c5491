"""Decides whether a container is ready to serve.

It is ready when its HEALTHCHECK and the application's probe pass, whichever of the two exist. With neither, it must run
through the stability window. It must also run the right image.
"""

import asyncio

import structlog

from gateway.docker.container import exit_diagnosis, probes, stop_cause
from gateway.docker.engine import containers, events, images
from gateway.docker.engine.client import Engine
from gateway.docker.engine.containers import Container
from gateway.docker.engine.labels import DIGEST
from gateway.docker.runtime import Timeouts
from gateway.model.errors import Code, Failed, NotOnEngine, Reason
from gateway.model.health_checks import Probe

# Seconds between two looks: a tenth of the time since the first look, within these bounds. Otherwise, many containers
# that prove themselves at once would take the engine's time from swaps.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 0.5
# Seconds between two looks while the engine's events are followed: an event can be lost, and a stream can hang. Without
# a HEALTHCHECK, one look at the end of the stability window is mostly enough.
_LOOK_ALL_THE_SAME, _LONGEST_UNSEEN = 2.0, 10.0
_LATE = 0.005  # seconds that the last look is late, since the clock may tick slowly
_MAX_RESTARTS = 2  # when somebody stops it before it is ready

_LOG = structlog.get_logger()


async def wait_until_ready(engine: Engine, container_id: str, timeouts: Timeouts, probe: Probe | None) -> Container:
    """Return the container when it is ready. Raises Failed with the reason when it is not.

    A container that somebody stopped is started again. When the engine restarts, this raises Postponed.
    """
    with events.listen_to(engine, container_id) as listener:
        container = await _wait_until_ready(engine, container_id, timeouts, probe, listener)
    await _refuse_another_image(engine, container)
    return container


async def _wait_until_ready(
    engine: Engine, container_id: str, timeouts: Timeouts, probe: Probe | None, listener: events.Listener
) -> Container:
    loop = asyncio.get_running_loop()
    began = loop.time()
    asked_at, wanting, stopped, ran_since = -float("inf"), None, 0, began
    while True:
        container = await require(engine, container_id)
        if reason := failure_reason(container):
            if stopped < _MAX_RESTARTS and container.stopped and await stop_cause.was_stopped(engine, container):
                stopped += 1
                await _start_again(engine, container)
                asked_at, ran_since = -float("inf"), loop.time()
                continue
            reason = await exit_diagnosis.diagnose_exit(engine, container, reason)
            raise Failed(reason.code, reason.message)
        now = loop.time()
        if container.paused:
            ran_since = now
        if probe is not None and now - asked_at >= probe.interval:
            asked_at, wanting = now, await probes.run(engine, container, probe)
        waits = wanting or not_ready_reason(
            container, stable=probe is not None or now - ran_since >= timeouts.stable_window
        )
        if waits is None:
            return container
        if (probe is not None or container.health or container.paused) and now - began >= timeouts.health_deadline:
            raise Failed(waits.code, f"{waits.message}; given up after {timeouts.health_deadline:.0f} s")
        pause = min(max(_SHORTEST_PAUSE, (now - began) / 10), _LONGEST_PAUSE)
        if listener.hears and probe is None and not container.paused:
            # An event ends the wait early. The look at its end decides: an event can be lost.
            pause = _LOOK_ALL_THE_SAME
            if container.health is None:
                pause = min(max(ran_since + timeouts.stable_window + _LATE - now, _LATE), _LONGEST_UNSEEN)
        await listener.wait(pause)


async def _start_again(engine: Engine, container: Container) -> None:
    await stop_cause.wait_out_shutdown(engine, container)
    _LOG.warning("Somebody stopped a container before it was ready: it is started again", container=container.name)
    await containers.start(engine, container.container_id)


def not_ready_reason(container: Container, *, stable: bool) -> Reason | None:
    """Return why a running container is not ready yet, or None."""
    if container.health == "starting":
        output = f": {container.health_output}" if container.health_output else ""
        return Reason(Code.UNHEALTHY, f"{container.name} is not healthy yet{output}")
    if container.paused:
        return Reason(Code.UNHEALTHY, f"{container.name} is paused: docker unpause {container.name}")
    if container.health is None and not stable:
        return Reason(Code.UNHEALTHY, f"{container.name} has not run for long enough")
    return None


async def require(engine: Engine, container_id: str) -> Container:
    """Return the container. Raises NotOnEngine when it is gone."""
    container = await containers.inspect(engine, container_id)
    if container is None:
        reason = missing_reason(container_id)
        raise NotOnEngine(reason.code, reason.message)
    return container


def missing_reason(container_id: str) -> Reason:
    return Reason(Code.CONTAINER_MISSING, f"the container {container_id[:12]} was removed by somebody else")


def failure_reason(container: Container, *, restarts: int = 0) -> Reason | None:
    """Return why the container does not serve, or None.

    It must run, with no more than `restarts` restarts, and not be unhealthy.
    """
    if container.out_of_memory:
        return exit_diagnosis.out_of_memory(container)
    if container.running and container.restart_count > restarts:
        return Reason(Code.EXITED, f"{container.name} keeps exiting; restarts so far: {container.restart_count}")
    if not container.running or container.restarting:
        why = f": {container.error}" if container.error else ""
        return Reason(
            Code.EXITED, f"{container.name} exited with {exit_diagnosis.describe_exit_code(container.exit_code)}{why}"
        )
    if container.health == "unhealthy":
        output = container.health_output or "no output"
        return Reason(Code.UNHEALTHY, f"{container.name} is unhealthy: {output}")
    return None


async def _refuse_another_image(engine: Engine, container: Container) -> None:
    digest = container.labels.get(DIGEST)
    if digest is None:
        return  # an adopted container, which has no digest label
    if container.image.endswith(f"@{digest}"):
        return  # created by digest, which `docker rmi` may have removed from the image since
    image = await images.inspect(engine, container.image_id)
    if image is None or not image.has_digest(digest):
        raise Failed(Code.WRONG_DIGEST, f"{container.name} does not run {digest}")
