"""What an application prints: its container, or the tasks of its service."""

from gateway.docker import runtime_factory
from gateway.docker.container import ownership
from gateway.docker.engine import containers, logs
from gateway.docker.engine.client import Engine, checked_name
from gateway.model.applications import Application
from gateway.model.configuration import RuntimeKind

_MAX_BYTES = 1024 * 1024  # bytes
_DEADLINE = 15.0  # seconds; a service's tasks are asked on their nodes


async def read(engine: Engine, application: Application, *, swarm: bool, lines: int, since: int) -> str:
    """Return its last lines, of each task where there are several; nothing where nothing of it is there.

    `since` is the time before which nothing counts, in seconds. Raises Failed, Postponed.
    """
    if swarm and await runtime_factory.detect_runtime_kind(engine, application) is RuntimeKind.SERVICE:
        path = f"services/{checked_name(application.app_name)}/logs"
    else:
        container = await containers.inspect(engine, application.app_name)
        if container is None or not ownership.belongs_to(application, container):
            return ""
        path = f"containers/{container.container_id}/logs"
    return await logs.tail(engine, path, lines=lines, since=since, most=_MAX_BYTES, deadline=_DEADLINE)
