"""Inspects a container or service that somebody else created, so that an application can adopt it."""

from collections.abc import Collection, Mapping
from pathlib import Path
from socket import gethostname
from typing import Any

from gateway.docker.container import adopted_spec
from gateway.docker.container.copies import to_adopted_spec
from gateway.docker.engine import containers, images, services
from gateway.docker.engine.client import Engine
from gateway.docker.engine.images import Image
from gateway.docker.engine.labels import APPLICATION, ORIGIN
from gateway.docker.engine.services import Service
from gateway.docker.swarm import preflight, spec
from gateway.model.adoption import AdoptedSpec
from gateway.model.errors import Conflict, Failed, InvalidInput, NotFound
from gateway.model.reference import Digest, Reference

_ID_PREFIX = "sha256:"
_SERVICE_ID, _SERVICE_NAME = "com.docker.swarm.service.id", "com.docker.swarm.service.name"
_OWN_CONTAINER = "the gateway itself, which cannot replace its own container"


async def inspect_existing(engine: Engine, named: str, *, host_name: str) -> AdoptedSpec:
    """Return the specification of a container, or else of a service. Nothing is changed.

    Raises NotFound when there is neither. Raises Conflict when it is the gateway's own, or belongs to an application
    already. Raises InvalidInput when its image has no name in a registry.
    """
    found = await containers.inspect_raw(engine, named)
    if found is None and (service := await _service(engine, named)) is not None:
        return await _adopt_service(engine, service)
    if found is None:
        raise NotFound(f"there is no container or service called {named!r} on this engine; see: docker ps --all")
    name, labels = found["Name"].removeprefix("/"), await containers.own_labels_of(engine, found)
    if adopted_spec.is_own_container(found["Id"], _own_ids()):
        raise Conflict(f"{name} is {_OWN_CONTAINER}: update it with docker compose pull && docker compose up --detach")
    if service_name := labels.get(_SERVICE_NAME):
        raise Conflict(f"{name} is a task of the service {service_name}: adopt that")
    if APPLICATION in labels:
        raise Conflict(adopted_already(name, labels[APPLICATION]))
    image = await images.inspect(engine, found["Image"])
    return to_adopted_spec(
        found,
        image,
        reference=_reference(name, found["Config"]["Image"], image),
        holders=await _holders(engine, found["HostConfig"]),
        host_name=host_name,
    )


async def list_adoptable(engine: Engine, adopted: Collection[str]) -> list[tuple[str, str, str]]:
    """Return the name, the image and the state of each container that runs and could be adopted, by name.

    The containers of applications, the tasks of services and the gateway itself are left out. `adopted` are the ids of
    adopted containers, since nothing on the engine shows an adoption before the first deployment. `inspect_existing`
    tells whether a container can really be adopted.
    """
    own = _own_ids()
    found = await engine.call("GET", "containers/json")
    return sorted(
        (one["Names"][0].removeprefix("/"), one["Image"], one["Status"])
        for one in found
        if one.get("Names")
        and not {APPLICATION, _SERVICE_NAME} & (one.get("Labels") or {}).keys()
        and not {one["Id"], (one.get("Labels") or {}).get(ORIGIN)} & set(adopted)
        and not adopted_spec.is_own_container(one["Id"], own)
    )


def adopted_already(name: str, application_id: str) -> str:
    """Return why a container or service of an application cannot be adopted."""
    # It may be an application of another gateway that uses this engine.
    return (
        f"{name} belongs to the application {application_id} already. "
        f"See, on the gateway that deployed it: gateway apps show {application_id}"
    )


async def _service(engine: Engine, named: str) -> Service | None:
    try:
        return await services.inspect(engine, named)
    except Failed:
        return None  # the engine is not a Swarm manager


async def _adopt_service(engine: Engine, service: Service) -> AdoptedSpec:
    if APPLICATION in service.labels:
        raise Conflict(adopted_already(service.name, service.labels[APPLICATION]))
    for container_id in _own_ids():
        own = await containers.inspect(engine, container_id)
        if own is not None and own.labels.get(_SERVICE_ID) == service.service_id:
            raise Conflict(f"{service.name} is {_OWN_CONTAINER}: update it with docker service update --image")
    hosts = await preflight.host_network_ids(engine, service.spec)
    if why := spec.update_blocker(service.spec, hosts):
        raise InvalidInput(f"{service.name} cannot be adopted, because it cannot be updated: {why}", field="container")
    image = service.spec["TaskTemplate"]["ContainerSpec"]["Image"]
    return AdoptedSpec(service.spec, service.service_id, str(Reference.parse(image)), "", is_service=True)


def _reference(name: str, called: str, image: Image | None) -> Reference:
    """Return the image by name and digest. Raises InvalidInput when it has no name that a push could name."""
    known = [] if image is None else [*image.tags, *sorted(image.repo_digests)]
    if called.startswith(_ID_PREFIX) or (image is not None and image.image_id.startswith(_ID_PREFIX + called)):
        if not known:
            raise InvalidInput(
                f"the image of {name} has no name, so no push can match it: "
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
    """Return the names of the containers it shares namespaces or volumes with. Their ids change on replacement."""
    names = {}
    for holder in adopted_spec.namespace_holders(host) | adopted_spec.volume_holders(host):
        if (found := await containers.inspect(engine, holder)) is not None:
            names[holder] = found.name
    return names


def _own_ids() -> list[str]:
    files = [Path("/proc/self/cgroup"), Path("/proc/self/mountinfo")]
    cgroup, mounts = [file.read_text(encoding="utf-8") if file.exists() else "" for file in files]
    return list(adopted_spec.own_container_ids(gethostname(), cgroup, mounts))
