"""Create an application. Nothing is deployed yet."""

import secrets

from gateway.admin.applications import Changes, apply_changes
from gateway.admin.privileges import KeyLimits
from gateway.model.slug import slug
from gateway.store import applications, deploy_tokens
from gateway.store.database import Connection
from gateway.store.encryption import Vault


async def create_application(
    connection: Connection,
    vault: Vault,
    given: Changes,
    *,
    name: str,
    app_name: str,
    application_id: str | None,
    limits: KeyLimits | None,
) -> str:
    """Create the application, with a container of this name, and return its id. Raises Conflict, InvalidInput."""
    made = await applications.insert_application(
        connection,
        application_id=application_id,
        name=name,
        app_name=app_name,
        description=given.description,
        environment_id=given.environment_id,
    )
    await deploy_tokens.renew_token(connection, vault, made)
    await apply_changes(connection, vault, made, given, limits=limits)
    return made


async def free_container_name(connection: Connection, name: str) -> str:
    """Return a container name for an application: made of its name, with a suffix where that is taken.

    For unrestricted callers alone: who chooses a container's name may mount the volumes that begin with it.
    """
    wanted = slug(name)
    return f"{wanted}-{secrets.token_hex(3)}" if await applications.is_app_name_taken(connection, wanted) else wanted
