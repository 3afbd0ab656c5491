"""The only part that touches what serves: exchange, prove, put back. Every call in it may be repeated.

exchange    old renamed aside, new takes the name; old stopped, new started; the restart policy of old off
prove       running, of the right digest, and healthy, or stable for a while
put back    new stopped, old started, the names as they were, new removed
"""

import asyncio
from dataclasses import dataclass

from gateway.deployments import Swap
from gateway.engine import containers, images, spec
from gateway.engine.client import Engine
from gateway.engine.containers import Container
from gateway.errors import Code, Failed, Postponed

_NO_RESTART: dict[str, object] = {"Name": "no", "MaximumRetryCount": 0}
_PUT_BACK_GRACE = 3  # seconds an unproven container gets to stop
_LOOK_AGAIN = 0.1  # seconds


@dataclass(frozen=True, slots=True)
class Pace:
    """Deadlines, in seconds."""

    stable_window: float
    health_deadline: float
    pull_stall: float
    #: what a stop may take beyond its grace
    call_margin: float


def aside_name(serving_name: str, container_id: str) -> str:
    return f"{serving_name}.old.{container_id[:12]}"


def prepared_name(serving_name: str, deployment_id: str) -> str:
    return f"{serving_name}.new.{deployment_id[:12]}"


def is_ours(container: Container, serving_name: str, word: str) -> bool:
    """Tell whether it bears a name of ours: `word` is "old" or "new"."""
    return container.name.startswith(f"{serving_name}.{word}.")


async def exchange(engine: Engine, swap: Swap, *, grace: int) -> None:
    """Let the new one serve in place of the old. Unserved only from the stop to the start."""
    old = await containers.inspect(engine, swap.old) if swap.old else None
    new = await expect(engine, swap.new)
    if old is not None:
        await containers.rename(engine, old, aside_name(swap.serving_name, old.container_id))
    await containers.rename(engine, new, swap.serving_name)
    if old is not None and (old.running or old.restarting):
        await containers.stop(engine, old.container_id, grace=grace)
    await containers.start(engine, new.container_id)
    if old is not None:
        await containers.set_restart_policy(engine, old, _NO_RESTART)


async def prove(engine: Engine, container_id: str, pace: Pace) -> None:
    """Return once the container has shown that it serves; raises Failed saying what it did instead."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        container = await expect(engine, container_id)
        _refuse_dead(container)
        elapsed = loop.time() - began
        if container.health is None and elapsed >= pace.stable_window:
            break
        if container.health == "healthy":
            break
        if container.health == "starting" and elapsed >= pace.health_deadline:
            raise Failed(Code.UNHEALTHY, f"{container.name} is not healthy after {pace.health_deadline:.0f} s")
        await asyncio.sleep(_LOOK_AGAIN)
    image = await images.inspect(engine, container.image_id)
    if image is None or not image.has_digest(container.labels[spec.DIGEST]):
        raise Failed(Code.WRONG_DIGEST, f"{container.name} does not run {container.labels[spec.DIGEST]}")


def _refuse_dead(container: Container) -> None:
    if container.out_of_memory:
        raise Failed(Code.OUT_OF_MEMORY, f"{container.name} was killed for want of memory")
    if container.running and container.restart_count:
        raise Failed(Code.EXITED, f"{container.name} keeps exiting; restarts so far: {container.restart_count}")
    if not container.running or container.restarting:
        why = f": {container.error}" if container.error else ""
        raise Failed(Code.EXITED, f"{container.name} exited with code {container.exit_code}{why}")
    if container.health == "unhealthy":
        raise Failed(Code.UNHEALTHY, f"{container.name} is unhealthy: {container.health_output or 'no output'}")


async def put_back(engine: Engine, swap: Swap) -> None:
    """Let the old one serve again and remove the new; raises Postponed until that is done."""
    try:
        await _put_back(engine, swap)
    except Failed as error:
        raise Postponed(
            error.reason.code, f"{swap.serving_name} cannot be put back yet: {error.reason.message}"
        ) from error


async def _put_back(engine: Engine, swap: Swap) -> None:
    new = await containers.inspect(engine, swap.new)
    old = await containers.inspect(engine, swap.old) if swap.old else None
    if new is not None and (new.running or new.restarting):
        await containers.stop(engine, new.container_id, grace=_PUT_BACK_GRACE)
    if old is not None and not old.running:
        await containers.start(engine, old.container_id)
    if new is not None:
        await containers.rename(engine, new, prepared_name(swap.serving_name, swap.deployment_id))
    if old is not None:
        await containers.rename(engine, old, swap.serving_name)
        await containers.set_restart_policy(engine, old, swap.old_restart_policy or _NO_RESTART)
    if new is not None:
        await containers.remove(engine, new.container_id)


async def expect(engine: Engine, container_id: str) -> Container:
    """Return the new container; raises Failed where it went missing."""
    container = await containers.inspect(engine, container_id)
    if container is None:
        raise Failed(Code.EXITED, f"the new container {container_id[:12]} was removed by somebody else")
    return container
