"""Copies containers that somebody else created.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerCreate
"""

from collections.abc import Mapping
from typing import Any

from gateway.docker.container import adopted_spec
from gateway.docker.container import spec as container_spec
from gateway.docker.engine import containers, images
from gateway.docker.engine.client import Engine
from gateway.docker.engine.images import Image
from gateway.docker.engine.labels import ORIGIN
from gateway.model.adoption import AdoptedSpec
from gateway.model.reference import Reference


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
