"""Whether a container serves: alive, of the right image, and healthy, or stable for a while."""

import asyncio

from gateway.engine import containers, images, spec
from gateway.engine.client import Engine
from gateway.engine.containers import Container
from gateway.engine.runtime import Pace
from gateway.errors import Code, Failed

_LOOK_AGAIN = 0.1  # seconds


async def prove(engine: Engine, container_id: str, pace: Pace) -> None:
    """Return once the container has shown that it serves; raises Failed saying what it did instead."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        container = await expect(engine, container_id)
        refuse_dead(container)
        elapsed = loop.time() - began
        if container.health is None and elapsed >= pace.stable_window:
            break
        if container.health == "healthy":
            break
        if container.health == "starting" and elapsed >= pace.health_deadline:
            raise Failed(Code.UNHEALTHY, f"{container.name} is not healthy after {pace.health_deadline:.0f} s")
        await asyncio.sleep(_LOOK_AGAIN)
    await _refuse_another_image(engine, container)


async def expect(engine: Engine, container_id: str) -> Container:
    """Return the new container; raises Failed where it went missing."""
    container = await containers.inspect(engine, container_id)
    if container is None:
        raise Failed(Code.EXITED, f"the new container {container_id[:12]} was removed by somebody else")
    return container


def refuse_dead(container: Container) -> None:
    """Raises Failed unless it runs, has never restarted, and is not unhealthy."""
    if container.out_of_memory:
        raise Failed(Code.OUT_OF_MEMORY, f"{container.name} was killed for want of memory")
    if container.running and container.restart_count:
        raise Failed(Code.EXITED, f"{container.name} keeps exiting; restarts so far: {container.restart_count}")
    if not container.running or container.restarting:
        why = f": {container.error}" if container.error else ""
        raise Failed(Code.EXITED, f"{container.name} exited with code {container.exit_code}{why}")
    if container.health == "unhealthy":
        raise Failed(Code.UNHEALTHY, f"{container.name} is unhealthy: {container.health_output or 'no output'}")


async def _refuse_another_image(engine: Engine, container: Container) -> None:
    image = await images.inspect(engine, container.image_id)
    if image is None or not image.has_digest(container.labels[spec.DIGEST]):
        raise Failed(Code.WRONG_DIGEST, f"{container.name} does not run {container.labels[spec.DIGEST]}")
