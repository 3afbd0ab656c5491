"""Reads the log of an application: of its container, or of all tasks of its service.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerLogs
"""

from collections.abc import AsyncIterator

from gateway.docker import runtime_factory
from gateway.docker.container import ownership
from gateway.docker.engine import containers, logs
from gateway.docker.engine.client import Engine, checked_name
from gateway.model.applications import Application
from gateway.model.configuration import RuntimeKind

_MAX_BYTES = 1024 * 1024  # bytes
_DEADLINE = 15.0  # seconds; the log of a service is collected from its nodes


async def read(engine: Engine, application: Application, *, swarm: bool, lines: int, since: int) -> str:
    """Return the last `lines` lines, of each task for a service, or "" when nothing of the application exists.

    `since` is a Unix time in seconds. Raises Failed and Postponed.
    """
    path = await _path(engine, application, swarm=swarm)
    if path is None:
        return ""
    return await logs.tail(engine, path, lines=lines, since=since, most=_MAX_BYTES, deadline=_DEADLINE)


async def follow(
    engine: Engine, application: Application, *, swarm: bool, lines: str, since: str
) -> AsyncIterator[list[tuple[str, str]]]:
    """Yield lines with their times as they come, until the container ends; nothing when there is none.

    `since` is a Unix time in seconds, with a fraction. Raises Failed and Postponed.
    """
    path = await _path(engine, application, swarm=swarm)
    if path is not None:
        async for lines_together in logs.follow(engine, path, lines=lines, since=since):
            yield lines_together


async def _path(engine: Engine, application: Application, *, swarm: bool) -> str | None:
    """Return the path of the log in the Engine API; None when nothing of the application exists."""
    if swarm and await runtime_factory.detect_runtime_kind(engine, application) is RuntimeKind.SERVICE:
        return f"services/{checked_name(application.app_name)}/logs"
    container = await containers.inspect(engine, application.app_name)
    if container is None or not ownership.belongs_to(application, container):
        return None
    return f"containers/{container.container_id}/logs"
