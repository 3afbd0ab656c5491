"""The services that an operation uses, and its caller. Their modules are heavy: a command loads those that it uses."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.model.api_keys import Caller, Grants, Permission

if TYPE_CHECKING:
    from gateway.admin.engine_status import Rollouts
    from gateway.config import Settings
    from gateway.registry.client import RegistryClient
    from gateway.store.database import Pool
    from gateway.store.encryption import Vault

#: the caller before authentication: may read what is not secret
ANONYMOUS = Caller("", "", Permission.READ, Grants())


@dataclass(frozen=True, slots=True)
class Context:
    """The services of the application, and the caller that a request's API key stands for."""

    pool: "Pool"
    vault: "Vault"
    rollouts: "Rollouts"
    settings: "Settings"
    registry: "RegistryClient"
    caller: Caller = ANONYMOUS
