"""Looks up from which commit an image was built: by its labels, else by the call or push that caused its deployment.

The registry is asked once for each image.
"""

from collections.abc import Mapping

from gateway.model.alerts import Event
from gateway.model.commits import REVISION, SOURCE, origin_of
from gateway.model.errors import DatabaseUnavailable, Failed, InvalidInput, NotFound, Postponed, Unavailable
from gateway.model.reference import Reference, parse_digest
from gateway.model.registries import Login, select_login
from gateway.notify.receiver import Undelivered
from gateway.queue.stored import find_origin
from gateway.registry.client import RegistryClient
from gateway.store import applications, image_origins, registries
from gateway.store.database import Pool, statement
from gateway.store.encryption import Vault


class ImageOrigins:
    """Looks up the origins of images, and stores each with its event."""

    def __init__(self, pool: Pool, vault: Vault, registry: RegistryClient) -> None:
        self._pool = pool
        self._vault = vault
        self._registry = registry

    async def find(self, event: Event) -> Mapping[str, str]:
        """Return the labels that say where the image of the event's deployment comes from. Raises Undelivered."""
        async with statement(self._pool) as connection:
            known = await image_origins.select_origin(connection, event.event_id)
        if known is not None:
            return known
        labels = await self._labels(event)
        found = origin_of(labels.get(SOURCE), labels.get(REVISION)) or await self._reported(event) or {}
        async with statement(self._pool) as connection:
            await image_origins.update_origin(connection, event.event_id, found)
        return found

    async def _reported(self, event: Event) -> Mapping[str, str] | None:
        """Return the origin that the call for the deployment named, else a push. A rollback has that of its target."""
        digest = (event.content.get("deployment") or {}).get("digest")
        async with statement(self._pool) as connection:
            deployments, called = await image_origins.select_called_origin(connection, event.deployment_id or "")
            if called is not None:
                return called
            for one in deployments:
                if (pushed := await find_origin(connection, self._vault, one, digest)) is not None:
                    return pushed
        return None

    async def _labels(self, event: Event) -> Mapping[str, str]:
        deployment = event.content.get("deployment") or {}
        if not deployment.get("image") or not deployment.get("digest"):
            return {}  # it failed before its image was known
        try:
            reference = Reference.parse(deployment["image"]).with_digest(parse_digest(deployment["digest"]))
            return await self._registry.labels(reference, await self._login(event, reference), (SOURCE, REVISION))
        except (NotFound, InvalidInput, Failed):
            return {}  # the application or the image is gone, or the login is denied
        except DatabaseUnavailable:
            raise
        except (Postponed, Unavailable) as error:
            raise Undelivered(f"the labels of the image cannot be read: {error}", waits=True) from error

    async def _login(self, event: Event, reference: Reference) -> Login:
        async with statement(self._pool) as connection:
            application = await applications.select_application(connection, self._vault, event.application_id)
            configured = await registries.select_registries(connection, self._vault, reference.repository.domain)
        return select_login(reference.repository, application.own_login, configured)
