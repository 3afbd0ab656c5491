"""Containers that are to be created: an application's next one, and the like of one that is there, or was."""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from gateway.docker.container import adopted_spec, copies, dependents, files, ownership
from gateway.docker.container import spec as container_spec
from gateway.docker.engine import containers, images, log_driver
from gateway.docker.engine.client import Engine
from gateway.docker.engine.containers import Container
from gateway.docker.engine.images import Image
from gateway.docker.engine.labels import GATEWAY_LABELS, ORIGIN, SPEC
from gateway.docker.runtime import Version
from gateway.model.applications import Application
from gateway.model.configuration_diff import Running
from gateway.model.errors import Failed
from gateway.model.reference import Digest, Reference

_LOG = structlog.get_logger()


async def build(
    engine: Engine, application: Application, version: Version, mounts: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Return it, with the volumes nobody named that are among the mounts of what it takes the place of."""
    body = adopted_spec.carry_volumes(container_spec.create_body(application, version), mounts)
    base = application.adopted_spec
    if container_spec.is_fully_specified(application):
        body["HostConfig"] |= await log_driver.for_container(engine)
    if base is None:
        return body
    if base.holders:
        present = await dependents.current_ids(engine, base.holders)
        body["HostConfig"] = adopted_spec.retarget(body["HostConfig"], present)
    if image := await find_image(engine, version.reference):
        body["Labels"] = adopted_spec.with_compose_image(body["Labels"], image.image_id)
        if image.image_id == version.digest:
            body["Image"] = image.image_id
    return body


async def find_image(engine: Engine, reference: Reference) -> Image | None:
    """Return the image by its name; by its id, where it never came from a registry."""
    return await images.inspect(engine, str(reference)) or await images.inspect(engine, str(reference.digest))


async def manual_limits(
    engine: Engine, application: Application, former: Running | None, old: Container | None
) -> dict[str, Any]:
    """Return the limits that docker update has given the container since it was made; none where that is not known."""
    made_as = _application_at_creation(application, former, old)
    found = None if made_as is None or old is None else await containers.inspect_raw(engine, old.container_id)
    if made_as is None or found is None:
        return {}
    made, wanted = (
        container_spec.user_config(made_as)["HostConfig"],
        container_spec.user_config(application)["HostConfig"],
    )
    return adopted_spec.manual_limits(found["HostConfig"], made, wanted)


async def manual_networks(
    engine: Engine, application: Application, former: Running | None, old: Container | None
) -> dict[str, dict[str, Any]]:
    """Return the endpoints of the networks that somebody connected the container to since it was made.

    None of a container that is not known to have been made as `former` tells, nor of a network that is no more.
    """
    made_as = _application_at_creation(application, former, old)
    found = None if made_as is None or old is None else await containers.inspect_raw(engine, old.container_id)
    if made_as is None or found is None:
        return {}
    joined = adopted_spec.manual_networks(
        found, but={**container_spec.endpoints(made_as), **container_spec.endpoints(application)}
    )
    there = {str(one["Id"]) for one in await engine.call("GET", "networks")} if joined else set()
    return {name: endpoint for name, (network_id, endpoint) in joined.items() if network_id in there}


def _application_at_creation(
    application: Application, former: Running | None, old: Container | None
) -> Application | None:
    """Return the application as it was when the container was made; None where that is not known."""
    if old is None:
        return None
    if application.adopted_spec is not None and ownership.is_original(application, old):
        return application.as_adopted()
    for known in (application, former.application if former else None):
        if known is not None and container_spec.spec_hash(known) == old.labels.get(SPEC):
            return known
    return None


# -- the like of what is there, or was


async def create_stand_in(engine: Engine, old: Container, name: str) -> None:
    """Make the like of one that will be gone once it stops, to be put back in its stead."""
    if await containers.inspect(engine, name) is None:
        await copy(engine, old.container_id, name)


async def copy(engine: Engine, container: str, name: str, application: Application | None = None) -> str | None:
    """Create the like of a container that is there, its application's files in it; None where it is gone."""
    found = await containers.inspect_raw(engine, container)
    if found is None:
        return None
    made = await copies.duplicate(engine, found, name)
    if application is not None:
        await files.put(engine, made, application.configuration.files)
    return made


async def recreate(engine: Engine, former: Running, gone: str, name: str, new: Container | None) -> str:
    """Create what a container that is gone was, from what was written down of it, and return its id.

    `new` took its place meanwhile, and so has its volumes. The image is there.
    """
    application, reference = former.application, former.reference
    if reference is None or reference.digest is None:
        raise ValueError("what served is not known")
    version = Version(reference, Digest(reference.digest), former.deployment_id or "", 0)
    body = await build(engine, application, version, new.mounts if new else ())
    base = application.adopted_spec
    if former.deployment_id is None and base is not None:
        # It was somebody else's: so is its like.
        gone = base.object_id
        body["Labels"] = {label: value for label, value in body["Labels"].items() if label not in GATEWAY_LABELS}
    body["Labels"] |= {ORIGIN: gone}
    created = await containers.create(engine, name, body, container_spec.endpoints(application))
    try:
        await files.put(engine, created, application.configuration.files)
    except Failed:
        await containers.remove(engine, created)
        raise
    _LOG.warning("Somebody removed a container that was to serve again: it was made anew", container=gone, name=name)
    return created
