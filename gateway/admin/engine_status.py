"""What is known of the engines, and who rolls out on them."""

from collections.abc import Sequence
from typing import Protocol

from gateway.background import BackgroundTasks
from gateway.docker.engine.client import Engine, EngineIdentity


class EngineStatus(Protocol):
    """What is known of an engine; `server_id` is None for the gateway's own."""

    engine: Engine
    address: str
    server_id: str | None
    identity: EngineIdentity | None
    error: str | None
    running: int

    async def routed(self, networks: Sequence[str], /) -> bool:
        """Tell whether containers on these networks are reached from here; raises RolloutError."""


class Rollouts(Protocol):
    """Who rolls out: told that there may be something to do."""

    @property
    def background_tasks(self) -> BackgroundTasks:
        """The owner of the background tasks."""

    @property
    def engines(self) -> Sequence[EngineStatus]:
        """Return all that are reached, or should be, the gateway's own first."""

    def wake(self) -> None: ...
