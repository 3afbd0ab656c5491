"""Containers and services that somebody else made: what they were made with, and their like."""

from collections.abc import Mapping
from pathlib import Path
from socket import gethostname
from typing import Any

from gateway.bases import Base
from gateway.engine import adoption, containers, images, service_conditions, service_spec, services, spec
from gateway.engine.client import Engine
from gateway.engine.images import Image
from gateway.engine.services import Service
from gateway.errors import Conflict, Failed, InvalidInput, NotFound
from gateway.reference import Digest, Reference

_ID_PREFIX = "sha256:"
_SERVICE_ID, _SERVICE_NAME = "com.docker.swarm.service.id", "com.docker.swarm.service.name"
_ITSELF = "the gateway itself, which cannot replace what it runs in"


async def look(engine: Engine, named: str, *, host_name: str) -> Base:
    """Return what a container, or else a service, was made with; it is not touched.

    Raises NotFound, Conflict where it is the gateway's own or made by one, InvalidInput where its image has no name.
    """
    found = await containers.inspection(engine, named)
    if found is None and (service := await _service(engine, named)) is not None:
        return await _base_of(engine, service)
    if found is None:
        raise NotFound(f"there is no container or service called {named!r} on this engine; see: docker ps --all")
    name, labels = found["Name"].removeprefix("/"), await containers.labels_of(engine, found)
    if adoption.is_own(found["Id"], _own_ids()):
        raise Conflict(f"{name} is {_ITSELF}: update it with docker compose pull && docker compose up --detach")
    if service_name := labels.get(_SERVICE_NAME):
        raise Conflict(f"{name} is a task of the service {service_name}: adopt that")
    if spec.APPLICATION in labels:
        raise Conflict(f"{name} belongs to the application {labels[spec.APPLICATION]} already")
    image = await images.inspect(engine, found["Image"])
    return _base(
        found,
        image,
        reference=_reference(name, found["Config"]["Image"], image),
        holders=await _holders(engine, found["HostConfig"]),
        host_name=host_name,
    )


async def _service(engine: Engine, named: str) -> Service | None:
    try:
        return await services.inspect(engine, named)
    except Failed:
        return None  # the engine is no manager of a Swarm


async def _base_of(engine: Engine, service: Service) -> Base:
    if spec.APPLICATION in service.labels:
        raise Conflict(f"{service.name} belongs to the application {service.labels[spec.APPLICATION]} already")
    for container_id in _own_ids():
        own = await containers.inspect(engine, container_id)
        if own is not None and own.labels.get(_SERVICE_ID) == service.service_id:
            raise Conflict(f"{service.name} is {_ITSELF}: update it with docker service update --image")
    hosts = await service_conditions.hosts_networks(engine, service.spec)
    if why := service_spec.hindrance(service.spec, hosts):
        raise InvalidInput(
            f"{service.name} cannot be adopted, since no update can be made to it: {why}", field="container"
        )
    image = service.spec["TaskTemplate"]["ContainerSpec"]["Image"]
    return Base(service.spec, service.service_id, str(Reference.parse(image)), "", is_service=True)


async def duplicate(
    engine: Engine, found: Mapping[str, Any], name: str, *, holders: Mapping[str, str] | None = None
) -> str:
    """Create the like of a container, of the same image and with the same volumes, and return its id.

    `holders` names the containers whose namespaces it is to join, by those it joins now.
    """
    image = await images.inspect(engine, found["Image"])
    called = found["Config"]["Image"]
    by_name = await images.inspect(engine, called)
    base = _base(found, image, reference=None)
    body, endpoints = adoption.chosen(base), adoption.endpoints(base)
    body["HostConfig"] = adoption.repointed(body["HostConfig"], holders or {})
    labels = await containers.labels_of(engine, found)
    body |= {
        # The name it was made of may mean another image by now.
        "Image": called if by_name is not None and by_name.image_id == found["Image"] else found["Image"],
        "Labels": {**body.get("Labels", {}), spec.ORIGIN: labels.get(spec.ORIGIN, found["Id"])},
    }
    body = spec.on_networks(adoption.carry(body, found["Mounts"] or ()), endpoints)
    return await containers.create(engine, name, body, endpoints)


def _base(
    found: Mapping[str, Any],
    image: Image | None,
    *,
    reference: Reference | None,
    holders: Mapping[str, str] | None = None,
    host_name: str = "",
) -> Base:
    kept = {name: found[name] for name in ("Name", "Config", "HostConfig")}
    kept["NetworkSettings"] = {"Networks": found["NetworkSettings"]["Networks"]}
    return Base(
        found=kept,
        object_id=found["Id"],
        image=str(reference or ""),
        image_id=found["Image"],
        image_config=image.config if image else {},
        holders=holders or {},
        host_name=host_name,
    )


def _reference(name: str, called: str, image: Image | None) -> Reference:
    """Return the image by name and digest; raises InvalidInput where it has no name a push could tell of."""
    known = [] if image is None else [*image.tags, *sorted(image.repo_digests)]
    if called.startswith(_ID_PREFIX) or (image is not None and image.image_id.startswith(_ID_PREFIX + called)):
        if not known:
            raise InvalidInput(
                f"the image of {name} has no name, so no push could be for it: "
                "run the container from an image of a registry first",
                field="container",
            )
        called = known[0]
    reference = Reference.parse(called)
    if reference.tag is None:
        tagged = [Reference.parse(tag) for tag in (image.tags if image else ())]
        reference = next((one for one in tagged if one.repository == reference.repository), reference)
    digests = [Reference.parse(one) for one in sorted(image.repo_digests if image else ())]
    ours = [one.digest for one in digests if one.repository == reference.repository and one.digest]
    if ours:
        return reference.with_digest(ours[0])
    if reference.digest is not None or image is None:
        return reference
    return reference.with_digest(Digest(image.image_id))


async def _holders(engine: Engine, host: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the containers it shares something with, since their ids change when they are replaced."""
    names = {}
    for holder in adoption.namespaces(host) | adoption.volume_holders(host):
        if (found := await containers.inspect(engine, holder)) is not None:
            names[holder] = found.name
    return names


def _own_ids() -> list[str]:
    files = [Path("/proc/self/cgroup"), Path("/proc/self/mountinfo")]
    cgroup, mounts = [file.read_text(encoding="utf-8") if file.exists() else "" for file in files]
    return list(adoption.own_ids(gethostname(), cgroup, mounts))
