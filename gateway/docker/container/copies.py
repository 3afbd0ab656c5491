"""Copies containers: those of other creators, those that remove themselves, and lost ones, from their record.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerCreate
"""

from collections.abc import Mapping
from typing import Any

import structlog

from gateway.docker.container import adopted_spec, create_request, files
from gateway.docker.container import spec as container_spec
from gateway.docker.engine import containers, images
from gateway.docker.engine.client import Engine
from gateway.docker.engine.containers import Container
from gateway.docker.engine.images import Image
from gateway.docker.engine.labels import GATEWAY_LABELS, ORIGIN
from gateway.docker.runtime import Version
from gateway.model.adoption import AdoptedSpec
from gateway.model.applications import Application
from gateway.model.configuration_diff import Running
from gateway.model.errors import Failed
from gateway.model.reference import Digest, Reference

_LOG = structlog.get_logger()


async def duplicate(
    engine: Engine, found: Mapping[str, Any], name: str, *, holders: Mapping[str, str] | None = None
) -> str:
    """Create a copy of a container, with the same image and volumes, and return its id.

    `holders` maps the containers whose namespaces it joins now to the ones that the copy joins.
    """
    image = await images.inspect(engine, found["Image"])
    called = found["Config"]["Image"]
    by_name = await images.inspect(engine, called)
    adopted = to_adopted_spec(found, image, reference=None)
    body, endpoints = adopted_spec.user_config(adopted), adopted_spec.endpoints(adopted)
    body["HostConfig"] = adopted_spec.retarget(body["HostConfig"], holders or {})
    labels = await containers.own_labels_of(engine, found)
    body |= {
        # The name of its image may point at another image by now.
        "Image": called if by_name is not None and by_name.image_id == found["Image"] else found["Image"],
        "Labels": {**body.get("Labels", {}), ORIGIN: labels.get(ORIGIN, found["Id"])},
    }
    body = container_spec.attach_first_network(adopted_spec.carry_volumes(body, found["Mounts"] or ()), endpoints)
    return await containers.create(engine, name, body, endpoints)


def to_adopted_spec(
    found: Mapping[str, Any],
    image: Image | None,
    *,
    reference: Reference | None,
    holders: Mapping[str, str] | None = None,
    host_name: str = "",
) -> AdoptedSpec:
    """Return the specification of an inspected container and of its image."""
    kept = {name: found[name] for name in ("Name", "Config", "HostConfig")}
    kept["NetworkSettings"] = {"Networks": found["NetworkSettings"]["Networks"]}
    return AdoptedSpec(
        found=kept,
        object_id=found["Id"],
        image=str(reference or ""),
        image_id=found["Image"],
        image_config=image.config if image else {},
        holders=holders or {},
        host_name=host_name,
    )


async def create_stand_in(engine: Engine, old: Container, name: str) -> None:
    """Create a copy of a container that the engine removes when it stops, so that the copy can serve in its place."""
    if await containers.inspect(engine, name) is None:
        await copy(engine, old.container_id, name)


async def copy(engine: Engine, container: str, name: str, application: Application | None = None) -> str | None:
    """Create a copy of an existing container with its application's files. Return None when it is gone."""
    found = await containers.inspect_raw(engine, container)
    if found is None:
        return None
    made = await duplicate(engine, found, name)
    if application is not None:
        await files.put(engine, made, application.configuration.files)
    return made


async def recreate(engine: Engine, previous: Running, gone: str, name: str, new: Container | None) -> str:
    """Create a lost container again from its record, and return its id. Requires the image on the engine.

    `new` is the container that took its place, and therefore has its volumes.
    """
    application, reference = previous.application, previous.reference
    if reference is None or reference.digest is None:
        raise ValueError("the version that served is unknown")
    version = Version(reference, Digest(reference.digest), previous.deployment_id or "", 0)
    body = await create_request.build(engine, application, version, new.mounts if new else ())
    adopted = application.adopted_spec
    if previous.deployment_id is None and adopted is not None:
        # Somebody else created the original, so the copy has no labels of the gateway.
        gone = adopted.object_id
        body["Labels"] = {label: value for label, value in body["Labels"].items() if label not in GATEWAY_LABELS}
    body["Labels"] |= {ORIGIN: gone}
    created = await containers.create(engine, name, body, container_spec.endpoints(application))
    try:
        await files.put(engine, created, application.configuration.files)
    except Failed:
        await containers.remove(engine, created)
        raise
    _LOG.warning("Somebody removed a container that should serve again: it was recreated", container=gone, name=name)
    return created
