"""Builds the creation request of an application's next container, with volumes and manual changes of the old one."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.docker.container import adopted_spec, ownership
from gateway.docker.container import spec as container_spec
from gateway.docker.engine import containers, images, log_driver
from gateway.docker.engine.client import Engine
from gateway.docker.engine.containers import Container
from gateway.docker.engine.images import Image
from gateway.docker.engine.labels import SPEC
from gateway.docker.runtime import Version
from gateway.model.applications import Application
from gateway.model.configuration_diff import Running
from gateway.model.reference import Reference


async def build(
    engine: Engine, application: Application, version: Version, mounts: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Return the request, with the anonymous volumes from `mounts` of the container that it replaces."""
    body = adopted_spec.carry_volumes(container_spec.create_body(application, version), mounts)
    adopted = application.adopted_spec
    if container_spec.is_fully_specified(application):
        body["HostConfig"] |= await log_driver.for_container(engine)
    if adopted is None:
        return body
    if adopted.holders:
        present = await containers.current_ids(engine, adopted.holders)
        body["HostConfig"] = adopted_spec.retarget(body["HostConfig"], present)
    if image := await find_image(engine, application, version.reference):
        body["Labels"] = adopted_spec.with_compose_image(body["Labels"], image.image_id)
        if not image.is_named(version.reference):
            body["Image"] = image.image_id
    return body


async def find_image(engine: Engine, application: Application, reference: Reference) -> Image | None:
    """Return the image by name. For an adopted container, by id too, since it may never have come from a registry.

    In a containerd image store, an image with the same digest in another repository has the same id. The engine creates
    no container from such an image under this name.
    """
    if application.adopted_spec is None:
        return await images.inspect(engine, str(reference))
    by_name, by_id = await asyncio.gather(
        images.inspect(engine, str(reference)), images.inspect(engine, str(reference.digest))
    )
    return by_name or by_id


def manual_limits(
    application: Application, previous: Running | None, old: Container | None, found: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return limits changed with `docker update` since the container's creation. Empty when that is unknown.

    `found` is the inspection of `old`.
    """
    made_as = _application_at_creation(application, previous, old)
    if made_as is None or found is None:
        return {}
    made, wanted = (
        container_spec.user_config(made_as)["HostConfig"],
        container_spec.user_config(application)["HostConfig"],
    )
    return adopted_spec.manual_limits(found["HostConfig"], made, wanted)


async def manual_networks(
    engine: Engine,
    application: Application,
    previous: Running | None,
    old: Container | None,
    found: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the endpoints of networks that somebody connected the container to since its creation.

    Empty for a container that was not created as `previous` says. Networks that no longer exist are left out. `found`
    is the inspection of `old`, if there is one already.
    """
    made_as = _application_at_creation(application, previous, old)
    if found is None and made_as is not None and old is not None:
        found = await containers.inspect_raw(engine, old.container_id)
    if made_as is None or found is None:
        return {}
    joined = adopted_spec.manual_networks(
        found, but={**container_spec.endpoints(made_as), **container_spec.endpoints(application)}
    )
    there = {str(one["Id"]) for one in await engine.call("GET", "networks")} if joined else set()
    return {name: endpoint for name, (network_id, endpoint) in joined.items() if network_id in there}


def _application_at_creation(
    application: Application, previous: Running | None, old: Container | None
) -> Application | None:
    """Return the application as it was when the container was created, or None when that is unknown."""
    if old is None:
        return None
    if application.adopted_spec is not None and ownership.is_original(application, old):
        return application.as_adopted()
    for known in (application, previous.application if previous else None):
        if known is not None and container_spec.spec_hash(known) == old.labels.get(SPEC):
            return known
    return None
