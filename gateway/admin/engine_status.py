"""The state of the engines, as the worker sees it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from gateway.model.applications import Application
from gateway.model.errors import Unavailable

if TYPE_CHECKING:
    from gateway.background import BackgroundTasks
    from gateway.docker.engine.client import Engine, EngineIdentity


class EngineStatus(Protocol):
    """The state of an engine. `server_id` is None for the gateway's own engine."""

    engine: "Engine"
    address: str
    server_id: str | None
    identity: "EngineIdentity | None"
    error: str | None
    running: int

    async def routed(self, networks: Sequence[str], /) -> bool:
        """Whether the gateway reaches the addresses of containers on these networks; raises RolloutError."""


class Rollouts(Protocol):
    """The worker: `wake` makes it look for queued deployments."""

    @property
    def background_tasks(self) -> "BackgroundTasks":
        """The owner of the background tasks."""

    @property
    def engines(self) -> Sequence[EngineStatus]:
        """All engines, the gateway's own first."""

    def wake(self) -> None: ...

    def when_woken(self, act: Callable[[], None], /) -> None:
        """Call this each time that a deployment was queued, by this gateway or another one."""


def host_of(rollouts: Rollouts, application: Application) -> EngineStatus:
    """Return the engine that has its containers; raises Unavailable when it does not answer."""
    registered = next((one for one in rollouts.engines if one.server_id == application.server_id), None)
    identity = registered.identity if registered else None
    if registered is not None and identity is not None and identity.engine_id == application.engine_id:
        for host in (registered, *rollouts.engines):  # another address of the same daemon may answer
            if host.error is None and host.identity is not None and host.identity.daemon == identity.daemon:
                return host
    raise Unavailable(f"the Docker Engine that {application.name} is on does not answer: see server.all, or /readyz")
