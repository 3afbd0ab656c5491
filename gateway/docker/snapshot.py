"""Takes a snapshot of an engine in a constant number of calls, and derives each application's state from it.

The calls are the list endpoints of the Engine API: https://docs.docker.com/reference/api/engine/version/v1.41/
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.docker.engine import containers, images, services
from gateway.docker.engine.client import Engine, EngineIdentity
from gateway.docker.engine.labels import (
    ADOPTED_COPY,
    APPLICATION,
    DEPLOYMENT,
    DIGEST,
    INSTALLATION,
    SPEC,
    are_significant,
    own_labels,
)
from gateway.docker.engine.services import Node, Service, Task
from gateway.docker.swarm import convergence, spec
from gateway.docker.swarm.convergence import AttemptKey
from gateway.model.applications import Desired
from gateway.model.observations import ExpectedState, ObservedState, State

_HEALTH = re.compile(r"\((?:health: )?(healthy|unhealthy|starting)\)")
_DOWN = frozenset({"created", "exited", "paused"})
_LEAVING = frozenset({"removing", "dead"})
_STATE_BY_HEALTH: Mapping[str | None, State] = {"healthy": State.HEALTHY, "unhealthy": State.UNHEALTHY}


@dataclass(frozen=True, slots=True)
class ListedContainer:
    """A container as the list endpoint shows it."""

    container_id: str
    name: str
    state: str
    #: the Engine's sentence, which includes the health
    status: str
    image_id: str
    #: without the image's own labels, which are not trustworthy
    labels: Mapping[str, str] = field(repr=False)
    #: the digests of its image, if the container has the gateway's labels
    digests: frozenset[str] = frozenset()

    @property
    def health(self) -> str | None:
        found = _HEALTH.search(self.status)
        return found[1] if found else None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Containers and services by name."""

    containers: Mapping[str, ListedContainer]
    services: Mapping[str, tuple[Service, list[Task]]]
    nodes: Mapping[str, Node]


@dataclass(frozen=True, slots=True)
class KnownImage:
    """What the state of a container needs of its image. Containers of one image share it."""

    labels: Mapping[str, str] = field(default_factory=dict)
    digests: frozenset[str] = frozenset()


#: images of containers with the gateway's labels, by container id, kept between snapshots
KnownImages = dict[str, KnownImage]


async def take_snapshot(
    engine: Engine, identity: EngineIdentity, known: KnownImages, *, container: str | None = None
) -> Snapshot:
    """List containers, or only the one of this name, and services.

    `known` is updated: it gets the images of new labelled containers, and loses those of containers that are gone.
    """
    only = {} if container is None else {"filters": _named(container)}
    found = await engine.call("GET", "containers/json", params={"all": 1, **only})
    telling = {one["Id"]: one["ImageID"] for one in found if are_significant(one.get("Labels") or {})}
    for gone in known.keys() - telling.keys():
        del known[gone]
    missing = telling.keys() - known.keys()
    # Inspect the images of new containers again: an image may have got further digests since it was inspected.
    inspected = {image_id: await _inspect(engine, image_id) for image_id in {telling[one] for one in missing}}
    known.update((container_id, inspected[telling[container_id]]) for container_id in missing)
    there = {one.name: one for one in (_listed(one, known.get(one["Id"], KnownImage())) for one in found)}
    if not identity.swarm_manager:
        return Snapshot(there, {}, {})
    tasks = await services.tasks_by_service(engine)
    by_name = {one.name: (one, tasks.get(one.service_id, [])) for one in await services.list_all(engine)}
    return Snapshot(there, by_name, await services.nodes(engine))


def _named(container: str) -> str:
    """Return the filter for the container of this very name."""
    return orjson.dumps({"name": [f"^/{re.escape(container)}$"]}).decode()


async def _inspect(engine: Engine, image_id: str) -> KnownImage:
    image = await images.inspect(engine, image_id)
    if image is None:
        return KnownImage()
    digests = frozenset(one.rpartition("@")[2] for one in image.repo_digests)
    return KnownImage(image.config.get("Labels") or {}, digests)


def _listed(found: Mapping[str, Any], image: KnownImage) -> ListedContainer:
    # Links to a container add further names, which contain a slash.
    names = [name.removeprefix("/") for name in found.get("Names") or ()]
    labels = found.get("Labels") or {}
    return ListedContainer(
        container_id=found["Id"],
        name=next((name for name in names if "/" not in name), found["Id"]),
        state=found["State"],
        status=found["Status"],
        image_id=found["ImageID"],
        labels=own_labels(labels, image.labels),
        digests=image.digests,
    )


def observe(expected: ExpectedState, snapshot: Snapshot) -> ObservedState:
    """Return the application's state in the snapshot."""
    if found := snapshot.services.get(expected.app_name):
        return _service_state(expected, *found, nodes=snapshot.nodes)
    container = snapshot.containers.get(expected.app_name)
    if container is None or container.state in _LEAVING:
        return _absent(expected, snapshot)
    if drift := _drift(expected, container.labels, "container") or _image_drift(expected, container):
        return ObservedState(State.DRIFTED, drift)
    return _compare_with_desired(expected, _container_state(container))


def deployment_of(expected: ExpectedState, snapshot: Snapshot) -> str | None:
    """Return the deployment that made the container or service with the application's name.

    None if this installation did not make it for this application.
    """
    if found := snapshot.services.get(expected.app_name):
        labels: Mapping[str, str] = found[0].labels
    elif container := snapshot.containers.get(expected.app_name):
        labels = container.labels
    else:
        return None
    is_ours = (
        labels.get(APPLICATION) == expected.application_id and labels.get(INSTALLATION) == expected.installation_id
    )
    return labels.get(DEPLOYMENT) if is_ours else None


async def identify_run(engine: Engine, expected: ExpectedState, snapshot: Snapshot) -> str | None:
    """Return an identifier of this run of the application: of the container and its start, or of the tasks.

    None if nothing runs. Makes one call for a container, and none for a service.
    """
    if found := snapshot.services.get(expected.app_name):
        running = sorted(task.task_id for task in found[1] if task.state == "running")
        return hashlib.sha256(" ".join(running).encode()).hexdigest() if running else None
    listed = snapshot.containers.get(expected.app_name)
    container = listed and await containers.inspect_raw(engine, listed.container_id)
    return f"{container['Id']} {container['State']['StartedAt']}" if container else None


def _absent(expected: ExpectedState, snapshot: Snapshot) -> ObservedState:
    for one in snapshot.containers.values():
        if not expected.as_adopted and one.state == "running" and _is_deployed_container(expected, one.labels):
            return ObservedState(State.DRIFTED, f"its container is called {one.name}, not {expected.app_name}")
    return ObservedState(State.MISSING, f"there is no container or service called {expected.app_name}")


def _is_deployed_container(expected: ExpectedState, labels: Mapping[str, str]) -> bool:
    return (
        expected.deployment_id is not None
        and labels.get(APPLICATION) == expected.application_id
        and labels.get(DEPLOYMENT) == expected.deployment_id
    )


def _container_state(container: ListedContainer) -> ObservedState:
    if container.state in _DOWN:
        return ObservedState(State.STOPPED, "it is paused" if container.state == "paused" else container.status)
    if container.state == "restarting":
        return ObservedState(State.RESTARTING, container.status)
    state = _STATE_BY_HEALTH.get(container.health, State.RUNNING)
    if state is State.UNHEALTHY:
        return ObservedState(state, container.status)
    return ObservedState(state, "its health check has not passed yet" if container.health == "starting" else "")


def _compare_with_desired(expected: ExpectedState, found: ObservedState) -> ObservedState:
    """Return the state, or drift when the application should be stopped and is not."""
    if expected.desired is not Desired.RUNNING and found.state is not State.STOPPED:
        return ObservedState(State.DRIFTED, f"it is {found.state}, and should be stopped")
    return found


def _drift(expected: ExpectedState, labels: Mapping[str, str], what: str) -> str:
    """Return how the container or service differs from what the last deployment made, or ""."""
    owner = labels.get(APPLICATION)
    made_again = expected.digest is not None or labels.get(DEPLOYMENT) == ADOPTED_COPY
    if expected.as_adopted and (owner is None or not made_again):
        return "" if owner is None else f"another {what} took the place of the one that was adopted"
    if owner != expected.application_id:
        return f"a {what} of somebody else is called {expected.app_name}"
    if expected.installation_id and labels.get(INSTALLATION, expected.installation_id) != expected.installation_id:
        return f"a {what} of another gateway is called {expected.app_name}"
    if expected.digest is not None and labels.get(DIGEST) != expected.digest:
        return f"it runs {labels.get(DIGEST)}, and the last deployment brought {expected.digest}"
    if expected.spec_hash is not None and labels.get(SPEC) != expected.spec_hash:
        return f"the {what} is configured as another deployment made it"
    return ""


def _is_labelled(labels: Mapping[str, str]) -> bool:
    """Tell whether the gateway made it. What was adopted, or put back as it was adopted, may have no such label."""
    return APPLICATION in labels


def _image_drift(expected: ExpectedState, container: ListedContainer) -> str:
    # An image that was untagged by force has no digests any more.
    known = {*container.digests, container.image_id}
    if (
        not _is_labelled(container.labels)
        or expected.digest is None
        or not container.digests
        or expected.digest in known
    ):
        return ""
    return f"it runs the image {container.image_id}, which is not {expected.digest}"


def _service_state(
    expected: ExpectedState, service: Service, tasks: list[Task], *, nodes: Mapping[str, Node]
) -> ObservedState:
    if drift := _drift(expected, service.labels, "service"):
        return ObservedState(State.DRIFTED, drift)
    made = service.spec["TaskTemplate"]["ContainerSpec"]
    if _is_labelled(service.labels) and expected.digest is not None and expected.digest not in made.get("Image", ""):
        return ObservedState(
            State.DRIFTED, f"the service was given the image {made.get('Image')}, not {expected.digest}"
        )
    if spec.is_stopped(service.spec):
        return _compare_with_desired(expected, ObservedState(State.STOPPED, "no task is wanted"))
    now = convergence.observe(service, tasks, AttemptKey.of(service.labels), nodes=nodes)
    if now.running >= now.wanted > 0:
        return _compare_with_desired(
            expected, ObservedState(State.HEALTHY if made.get("Healthcheck") else State.RUNNING)
        )
    lagging = f"; {now.lagging.state}: {now.lagging.message}" if now.lagging else ""
    so_far = f"{now.running} of {now.wanted} tasks run{lagging}"
    return _compare_with_desired(expected, ObservedState(State.UNHEALTHY if now.running else State.RESTARTING, so_far))
