"""What a request may reach."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web

from gateway.config import Settings
from gateway.engine.client import Engine, EngineIdentity
from gateway.keys import Caller, Grants, Permission
from gateway.loops import Loops
from gateway.registry.client import RegistryClient
from gateway.store.database import Pool
from gateway.store.vault import Vault


class Host(Protocol):
    """What is known of an engine; `server_id` is None for the gateway's own."""

    engine: Engine
    host: str
    server_id: str | None
    identity: EngineIdentity | None
    error: str | None
    running: int

    async def routed(self, networks: Sequence[str], /) -> bool:
        """Tell whether containers on these networks are reached from here; raises RolloutError."""


class Rollouts(Protocol):
    """Who rolls out: told that there may be something to do."""

    @property
    def loops(self) -> Loops:
        """Return what owns the loops in the background."""

    @property
    def hosts(self) -> Sequence[Host]:
        """Return all that are reached, or should be, the gateway's own first."""

    def wake(self) -> None: ...


#: may see everything that is no secret; whoever asks with a key is put in its place
NOBODY = Caller("", "", Permission.READ, Grants())


@dataclass(frozen=True, slots=True)
class Context:
    """The parts, handed to whoever answers; `caller` is who asks, where that is known by a key."""

    pool: Pool
    vault: Vault
    rollouts: Rollouts
    settings: Settings
    registry: RegistryClient
    caller: Caller = NOBODY


CONTEXT = web.AppKey("context", Context)
#: the connections that calls with a key may hold: pushes find others
SHARE: web.AppKey[Pool] = web.AppKey("share")
