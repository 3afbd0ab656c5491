"""What an operation may reach, and who asks for it."""

from dataclasses import dataclass

from gateway.admin.engine_status import Rollouts
from gateway.config import Settings
from gateway.model.api_keys import Caller, Grants, Permission
from gateway.registry.client import RegistryClient
from gateway.store.database import Pool
from gateway.store.encryption import Vault

#: may see everything that is no secret; whoever asks with a key is put in its place
ANONYMOUS = Caller("", "", Permission.READ, Grants())


@dataclass(frozen=True, slots=True)
class Context:
    """The parts, handed to whoever answers; `caller` is who asks, where that is known by a key."""

    pool: Pool
    vault: Vault
    rollouts: Rollouts
    settings: Settings
    registry: RegistryClient
    caller: Caller = ANONYMOUS
