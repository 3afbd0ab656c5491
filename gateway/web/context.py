"""What a request may reach."""

from dataclasses import dataclass
from typing import Protocol

from aiohttp import web

from gateway.config import Settings
from gateway.engine.client import EngineIdentity
from gateway.store.database import Pool
from gateway.store.vault import Vault


class Engine(Protocol):
    """What is known of an engine."""

    host: str
    identity: EngineIdentity | None
    error: str | None


class Rollouts(Protocol):
    """Who rolls out: told that there may be something to do."""

    @property
    def engine(self) -> Engine: ...

    def wake(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Context:
    """The parts, handed to whoever answers."""

    pool: Pool
    vault: Vault
    rollouts: Rollouts
    settings: Settings


CONTEXT = web.AppKey("context", Context)
