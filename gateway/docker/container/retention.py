"""Finds all containers of an application on an engine, keeps earlier versions and removes leftovers."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from gateway.docker.container import dependents, names, ownership
from gateway.docker.engine import containers, images
from gateway.docker.engine.client import Engine
from gateway.docker.engine.containers import Container
from gateway.docker.engine.labels import ORIGIN, image_reference
from gateway.model.applications import Application
from gateway.model.errors import Failed

_LOG = structlog.get_logger()

# States of a container of which no process runs, or is about to.
_AT_REST = frozenset({"created", "exited", "dead"})

UNREADY_GRACE = 3  # seconds for a container to stop that was never ready, or should be stopped already


@dataclass(frozen=True, slots=True)
class ApplicationContainers:
    """The containers that the gateway made or adopted for one application on one engine, in any state."""

    engine: Engine
    application: Application

    async def list_all(self) -> list[Container]:
        labelled = await containers.list_labelled(self.engine, self.application.application_id)
        dependents.note(self.engine, labelled)
        found = [one for one in labelled if ownership.labels_belong_to(self.application, one.labels)]
        if (adopted := self.application.adopted_spec) is not None:
            original = await containers.inspect(self.engine, adopted.object_id)
            alike = await containers.list_labelled(self.engine, adopted.object_id, label=ORIGIN)
            found += [one for one in [*alike, original] if one and ownership.is_original(self.application, one)]
        return [one for one in found if self._is_made(one, found)]

    def _is_made(self, container: Container, alike: list[Container]) -> bool:
        made = ownership.is_made(self.application, container, alike)
        if not made:
            _LOG.warning(
                "A container has the labels of an application, and the gateway did not make it: it is left alone",
                container=container.name,
                application=self.application.application_id,
            )
        return made

    @property
    def _name(self) -> str:
        return self.application.app_name

    async def version_of(self, container: Container) -> tuple[str | None, str | None]:
        """Return the digest and the spec hash that the container was created with.

        Both are None if it runs another image: then somebody copied the labels.
        """
        digest, spec_hash = ownership.labelled_version(self.application, container)
        if digest is not None and await containers.runs_another_image(self.engine, container, digest):
            return None, None
        return digest, spec_hash

    async def list_kept(self) -> list[Container]:
        """List all containers, and return the kept ones of earlier versions, latest first."""
        return self.kept_of(await self.list_all())

    def kept_of(self, found: Iterable[Container]) -> list[Container]:
        """Return the kept ones of all containers, latest first."""
        aside = [one for one in found if names.is_aside(self._name, one.name)]
        return sorted(aside, key=lambda one: one.finished_at, reverse=True)

    async def remove_leftovers(self, found: list[Container] | None = None) -> list[Container]:
        """Remove containers that never served, stop kept ones, and restore names. Requires that no swap is open.

        Returns all containers as they are afterwards. `found` are all containers, if they were listed a moment ago.
        """
        found = await self.list_all() if found is None else found
        changed = False
        for container in sorted(found, key=lambda one: (one.stopped, one.name != self._name)):
            if names.is_new(self._name, container.name):
                await self._remove_or_move_away(container)
                changed = True
            elif names.is_aside(self._name, container.name):
                # A kept container whose rollback was interrupted or superseded.
                changed |= await stop_for_good(self.engine, container, grace=UNREADY_GRACE)
            elif names.was_renamed(self._name, container.name):
                await self._rename_back(container)
                changed = True
        return await self.list_all() if changed else found

    async def _remove_or_move_away(self, container: Container) -> None:
        """Remove the container. If the engine cannot, rename it, which frees its name; the next rollout tries again."""
        try:
            await containers.remove(self.engine, container.container_id)
        except Failed as error:
            _LOG.warning("A container cannot be removed yet", container=container.name, error=str(error))
            await containers.rename(self.engine, container, names.stand_in(self._name, container.container_id))

    async def remain(self, expected: Iterable[Container]) -> bool:
        """Tell in one call whether just these containers exist under these names, and only the serving one runs."""
        if self.application.adopted_spec is not None:
            return False  # containers of an adopted application may have no label
        there = await containers.list_states(self.engine, self.application.application_id)
        wanted = {one.container_id: one.name for one in expected}
        return {key: name for key, (name, _) in there.items()} == wanted and all(
            name == self._name or state in _AT_REST for name, state in there.values()
        )

    async def restore_name(self) -> Container | None:
        """Give a renamed serving container its name again, and return it."""
        found = [one for one in await self.list_all() if names.was_renamed(self._name, one.name)]
        for container in sorted(found, key=lambda one: (one.stopped, one.name)):
            await self._rename_back(container)
            return await containers.inspect(self.engine, self._name)
        return None

    async def _rename_back(self, container: Container) -> None:
        """Give a renamed container its name again. If another container has the name, keep this one aside."""
        bearer = await containers.inspect(self.engine, self._name)
        if bearer is not None and not ownership.belongs_to(self.application, bearer):
            return
        name = self._name if bearer is None else names.aside(self._name, container.container_id)
        _LOG.warning("Somebody renamed a container of the application", container=container.name, again=name)
        await containers.rename(self.engine, container, name)
        if bearer is not None:
            await stop_for_good(self.engine, container, grace=UNREADY_GRACE)

    async def prune(
        self, kept_for: float, *, at_most: int | None = None, found: list[Container] | None = None
    ) -> list[Container]:
        """Remove kept versions older than `kept_for` seconds, beyond `at_most`, or duplicates. Never a running one.

        Returns all containers that are left. `found` are all containers, if they were listed a moment ago.
        """
        oldest = datetime.now(UTC) - timedelta(seconds=kept_for)
        found = await self.list_all() if found is None else found
        serving = next((one for one in found if one.name == self._name), None)
        known = {await self.version_of(serving)} if serving else set()
        number, removed = 0, set()
        for container in self.kept_of(found):
            version = await self.version_of(container)
            # A duplicate of the serving or of a kept version is not worth keeping.
            again = version in known and None not in version
            known.add(version)
            young = not again and (at_most is None or number < at_most) and container.finished_at >= oldest
            number += not again
            if young or not container.stopped:
                continue
            # Never a running one: a rollback may have started it since.
            try:
                await remove(self.engine, container, running=False)
            except Failed as error:
                _LOG.warning("A container cannot be removed yet", container=container.name, error=str(error))
            else:
                removed.add(container.container_id)
        return [one for one in found if one.container_id not in removed]


async def remove_new(engine: Engine, app_name: str, container_id: str) -> None:
    """Remove a container if it still has a name of containers that have not served."""
    found = await containers.inspect(engine, container_id)
    if found is not None and names.is_new(app_name, found.name):
        await containers.remove(engine, container_id)


async def stop_for_good(engine: Engine, container: Container, *, grace: int) -> bool:
    """Turn off the container's restart policy, and stop it if it runs. Return whether there was anything to do."""
    changed = await containers.set_restart_policy(engine, container, containers.NO_RESTART)
    if not container.stopped:
        await containers.stop(engine, container.container_id, grace=grace)
        changed = True
    return changed


async def remove(engine: Engine, container: Container, *, image: bool = True, running: bool = True) -> None:
    """Remove the container, and its image unless it is in use. Raises Failed for a running one unless `running`."""
    await containers.remove(engine, container.container_id, running=running)
    if image and (reference := image_reference(container.labels)):
        await images.untag(engine, reference)
