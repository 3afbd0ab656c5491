"""What a restricted key may not set on its applications."""

from gateway.admin.context import Context
from gateway.model import host_privileges
from gateway.model.api_keys import Caller
from gateway.model.applications import Application
from gateway.model.configuration import Configuration
from gateway.model.errors import Forbidden, UndecryptableSecret
from gateway.model.interpolation import references
from gateway.store import resource_owners, undecryptable
from gateway.store.database import Connection
from gateway.store.encryption import Vault
from gateway.store.resource_owners import ResourceKind


class KeyLimits:
    """The limits of a caller whose key is not an unrestricted admin key."""

    def __init__(self, caller: Caller, *, host_powers: bool) -> None:
        self._caller = caller
        self._host_powers = host_powers

    async def check(
        self,
        connection: Connection,
        vault: Vault,
        current: Application,
        *,
        wanted: Configuration | None,
        env: str | None,
        server_id: str | None,
    ) -> None:
        """Raises Forbidden unless the caller may set these values."""
        self._refuse_server(current, server_id)
        if wanted is not None:
            self._refuse_privileges(current, wanted)
            await self._refuse_volumes(connection, vault, current, wanted)
        if env is not None:
            await self._refuse_variables(connection, current, env)

    def _refuse_privileges(self, current: Application, wanted: Configuration) -> None:
        """Raises Forbidden when the configuration adds a privilege on the host."""
        if (
            self._host_powers
            or (found := host_privileges.first_added_privilege(current.configuration, wanted, current.app_name)) is None
        ):
            return
        words, field = found
        raise Forbidden(
            f"Key {self._caller.name!r} is restricted: it may not let an application {words} ({field}). "
            "Use an unrestricted admin key, or set GATEWAY_HOST_POWERS=any."
        )

    async def _refuse_volumes(
        self, connection: Connection, vault: Vault, current: Application, wanted: Configuration
    ) -> None:
        """Raises Forbidden when the configuration adds a volume that another application has, or may have."""
        had, sent = (
            {mount.source for mount in one.mounts if mount.type == "volume"} for one in (current.configuration, wanted)
        )
        if self._host_powers or not (added := sent - had):
            return
        refused = f"Key {self._caller.name!r} may not let {current.name} mount the volume"
        try:
            theirs = await resource_owners.select_volumes_of_others(
                connection, vault, added, application_id=current.application_id, app_name=current.app_name
            )
        except UndecryptableSecret as error:
            undecryptable.log_once(error)
            raise Forbidden(
                f"{refused} {min(added)}: it may be another application's, and no master key decrypts what that was "
                "adopted with; the gateway's log says which"
            ) from error
        if theirs:
            raise Forbidden(f"{refused} {min(theirs)}: it is another application's")

    async def _refuse_variables(self, connection: Connection, current: Application, env: str) -> None:
        """Raises Forbidden when the environment adds references to variables that the key may not see."""
        named = references(env) - references(current.environment or "")
        if not named or current.environment_id is None:
            return
        where = await resource_owners.select_owner(connection, ResourceKind.ENVIRONMENT, current.environment_id)
        if where is None or not self._caller.sees_variables(where.project_id or ""):
            raise Forbidden(
                f"Key {self._caller.name!r} may use only {self._caller.grants}: it may not see {min(named)}. "
                "Use a key that covers the project."
            )

    def _refuse_server(self, current: Application, server_id: str | None) -> None:
        """Raises Forbidden when the application would move to another server."""
        if server_id != current.server_id and not self._host_powers:
            raise Forbidden(
                f"Key {self._caller.name!r} is restricted: it may not choose the server (serverId). "
                "Use an unrestricted admin key, or set GATEWAY_HOST_POWERS=any."
            )


def limits_for(context: Context) -> KeyLimits | None:
    """Return the limits of the caller, None for an unrestricted admin key."""
    if context.caller.is_global_admin:
        return None
    return KeyLimits(context.caller, host_powers=context.settings.host_powers == "any")
