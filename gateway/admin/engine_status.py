"""The state of the engines, as the worker sees it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

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
