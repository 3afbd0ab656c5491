"""Lists the containers and services that carry a label, in a constant number of calls, and tells which labels count.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerList
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.docker.engine import images
from gateway.docker.engine.client import Engine
from gateway.docker.engine.labels import APPLICATION, ORIGIN

_SERVICE_ID, _SERVICE_NAME = "com.docker.swarm.service.id", "com.docker.swarm.service.name"
_ONE_OFF = "com.docker.compose.oneoff"
_LEAVING = frozenset({"removing", "dead"})


@dataclass(frozen=True, slots=True)
class Labelled:
    """A container or service as the list endpoint shows it."""

    object_id: str
    name: str
    is_running: bool
    #: including the labels of its image, without the label that names the original of a copy
    labels: Mapping[str, str] = field(repr=False)
    image_id: str = ""
    is_service: bool = False
    #: a service whose tasks carry the label, and which does not carry it itself
    by_tasks: bool = False
    #: the container that it is a copy of, as its labels say
    copied_from: str | None = None

    @property
    def is_one_off(self) -> bool:
        """Whether `docker compose run` made it: it has the labels of its service, and serves nothing."""
        return self.labels.get(_ONE_OFF, "").lower() == "true"

    @property
    def application_id(self) -> str | None:
        """The application that its labels name. Anybody can write them."""
        return self.labels.get(APPLICATION)


async def list_labelled(engine: Engine, names: Sequence[str], *, services: bool) -> list[Labelled]:
    """Return the containers, in any state, and the services that carry one of these labels. Tasks count as services.

    Only a manager of a Swarm knows its services. With `services` False, the containers of tasks are left out.
    """
    found: dict[str, Labelled] = {}
    for name in names:
        given = {"filters": orjson.dumps({"label": [name]}).decode()}
        if services:
            for service in await engine.call("GET", "services", params=given):
                found[service["ID"]] = _service(service)
        for container in await engine.call("GET", "containers/json", params={"all": 1, **given}):
            one = _container(container)
            if one is not None and one.object_id not in found and (services or not one.by_tasks):
                found[one.object_id] = one
    return sorted(found.values(), key=lambda one: (one.name, one.object_id))


def _service(found: Mapping[str, Any]) -> Labelled:
    labels = found["Spec"].get("Labels") or {}
    return Labelled(found["ID"], found["Spec"]["Name"], is_running=True, labels=labels, is_service=True)


def _container(found: Mapping[str, Any]) -> Labelled | None:
    # Links to a container add further names, which contain a slash. One that is being removed may have none.
    names = [name.removeprefix("/") for name in found.get("Names") or ()]
    name = next((one for one in names if "/" not in one), None)
    labels = dict(found.get("Labels") or {})
    copied_from = labels.pop(ORIGIN, None)
    if name is None or found["State"] in _LEAVING:
        return None
    if (service := labels.get(_SERVICE_ID)) is not None:
        task_of = str(labels.get(_SERVICE_NAME, service))
        return Labelled(service, task_of, is_running=True, labels=labels, is_service=True, by_tasks=True)
    return Labelled(found["Id"], name, found["State"] == "running", labels, found["ImageID"], copied_from=copied_from)


async def own_labels(engine: Engine, one: Labelled) -> dict[str, str]:
    """Return the labels that its creator has set, without those of its image, which anybody could have built."""
    image = await images.labels(engine, one.image_id) if one.image_id else {}
    return {name: value for name, value in one.labels.items() if image.get(name) != value}
