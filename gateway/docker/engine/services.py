"""Services, tasks and nodes of a Swarm: https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Service

The requests go to a manager of the Swarm. A change that was made already is not an error. An update names the version
it was made for, and the Swarm refuses it when the service has changed since.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
from aiodocker.utils import compose_auth_header

from gateway.docker.engine import containers, logs
from gateway.docker.engine.client import Engine, checked_name, platform_name
from gateway.docker.engine.labels import APPLICATION, IMAGE, LOGIN_UNTIL
from gateway.model.errors import Code, Failed, NotOnEngine, Postponed
from gateway.model.reference import Reference
from gateway.model.registries import Credentials

_OUT_OF_SEQUENCE = "update out of sequence"
_TRIES = 20  # of an update when only the version index has changed
_NEVER = datetime(9999, 1, 1, tzinfo=UTC)
_LOGS_DEADLINE = 10.0  # seconds; a task's log comes from its node, which may be gone


@dataclass(frozen=True, slots=True)
class Service:
    """A service at the time of its inspection. `update_state` is the Engine's word, or "" without an update."""

    service_id: str
    name: str
    version: int
    spec: dict[str, Any] = field(repr=False)
    previous_spec: dict[str, Any] | None = field(repr=False)
    update_state: str
    update_message: str

    @property
    def labels(self) -> Mapping[str, str]:
        return self.spec.get("Labels") or {}

    @property
    def image(self) -> str:
        template = self.spec.get("TaskTemplate") or {}
        return str((template.get("ContainerSpec") or {}).get("Image", ""))

    @property
    def image_matches_labels(self) -> bool:
        """Whether it has the image in its labels. Somebody may have set another image, which keeps the labels."""
        return image_matches_labels(self.labels, self.image)

    @property
    def rolled_back_from(self) -> Mapping[str, str] | None:
        """The labels of the spec before a requested rollback; None when the Swarm rolled back by itself."""
        if self.previous_spec is None or not self.update_state.startswith("rollback"):
            return None
        return self.previous_spec.get("Labels") or {}

    @property
    def replicas(self) -> int | None:
        """The number of wanted tasks. None means one on each suitable node."""
        replicated = self.spec["Mode"].get("Replicated")
        return None if replicated is None else int(replicated.get("Replicas", 1))

    @property
    def update_config(self) -> Mapping[str, Any]:
        return self.spec.get("UpdateConfig") or {}


@dataclass(frozen=True, slots=True)
class Task:
    """A task at the time of its inspection. `state` is the actual state."""

    task_id: str
    slot: int
    node_id: str
    state: str
    desired_state: str
    changed: str
    message: str
    exit_code: int
    container_id: str
    labels: Mapping[str, str] = field(repr=False)
    image: str = ""
    created: datetime = _NEVER

    @property
    def image_matches_labels(self) -> bool:
        return image_matches_labels(self.labels, self.image)


@dataclass(frozen=True, slots=True)
class Node:
    """A node at the time of its inspection. The states of tasks on a node that is `down` are out of date."""

    down: bool
    #: about when it last registered; later than the creation of tasks from before its engine restarted
    registered_at: datetime


def image_matches_labels(labels: Mapping[str, str], image: str) -> bool:
    return labels.get(IMAGE, image) == image


def _service(found: Mapping[str, Any]) -> Service:
    update = found.get("UpdateStatus") or {}
    return Service(
        service_id=found["ID"],
        name=found["Spec"]["Name"],
        version=found["Version"]["Index"],
        spec=found["Spec"],
        previous_spec=found.get("PreviousSpec"),
        update_state=update.get("State", ""),
        update_message=update.get("Message", ""),
    )


def _task(found: Mapping[str, Any]) -> Task:
    status = found["Status"]
    container = status.get("ContainerStatus") or {}
    return Task(
        task_id=found["ID"],
        slot=found.get("Slot", 0),
        node_id=found.get("NodeID", ""),
        state=status["State"],
        desired_state=found["DesiredState"],
        changed=status["Timestamp"],
        message=status.get("Err") or status.get("Message", ""),
        exit_code=container.get("ExitCode", 0),
        container_id=container.get("ContainerID", ""),
        image=found["Spec"].get("ContainerSpec", {}).get("Image", ""),
        created=containers.parse_time(found["CreatedAt"]),
        labels=found["Spec"].get("ContainerSpec", {}).get("Labels") or {},
    )


def registry_auth_header(image: Reference, credentials: Credentials | None) -> dict[str, str]:
    """Return the header with the nodes' registry credentials. Each request sends it, since they expire."""
    if credentials is None:
        return {}
    login = {"username": credentials.username, "password": credentials.password}
    return {"X-Registry-Auth": compose_auth_header(login, str(image.repository.domain))}


def with_registry_auth(
    spec: Mapping[str, Any], image: Reference, credentials: Credentials | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the spec, labelled with the expiry of the credentials, and the header that contains them."""
    labels = {name: value for name, value in (spec.get("Labels") or {}).items() if name != LOGIN_UNTIL}
    if credentials is not None and credentials.expires_at is not None:
        labels[LOGIN_UNTIL] = credentials.expires_at.isoformat()
    return {**spec, "Labels": labels}, registry_auth_header(image, credentials)


async def inspect(engine: Engine, service: str) -> Service | None:
    """Return the service by id or name, or None."""
    try:
        return _service(await engine.call("GET", f"services/{checked_name(service)}"))
    except NotOnEngine:
        return None


async def list_all(engine: Engine) -> list[Service]:
    """Return all services of the Swarm."""
    return [_service(found) for found in await engine.call("GET", "services")]


async def tasks(engine: Engine, service: Service) -> list[Task]:
    """Return the service's tasks, including recently ended ones, newest first."""
    return await _tasks(engine, {"service": [service.name]})


async def tasks_by_service(engine: Engine) -> dict[str, list[Task]]:
    """Return the tasks of all services by service id, newest first."""
    found = await engine.call("GET", "tasks")
    by_service: dict[str, list[Task]] = {}
    for one in sorted(found, key=lambda one: str(one["CreatedAt"]), reverse=True):
        by_service.setdefault(one.get("ServiceID", ""), []).append(_task(one))
    return by_service


async def tasks_of_application(engine: Engine, application_id: str) -> list[Task]:
    """Return the tasks of an application's services, including removed services."""
    return await _tasks(engine, {"label": [f"{APPLICATION}={application_id}"]})


async def _tasks(engine: Engine, filters: Mapping[str, list[str]]) -> list[Task]:
    try:
        found = await engine.call("GET", "tasks", params={"filters": orjson.dumps(filters).decode()})
    except NotOnEngine:
        return []
    return [_task(one) for one in sorted(found, key=lambda one: containers.parse_time(one["CreatedAt"]), reverse=True)]


async def nodes(engine: Engine) -> dict[str, Node]:
    """Return the nodes by id."""
    found = await engine.call("GET", "nodes")
    return {one["ID"]: Node(one["Status"]["State"] == "down", containers.parse_time(one["UpdatedAt"])) for one in found}


async def platforms(engine: Engine) -> frozenset[str]:
    """Return the platforms of the nodes, such as `linux/amd64`."""
    named = [(one.get("Description") or {}).get("Platform") or {} for one in await engine.call("GET", "nodes")]
    return frozenset(platform_name(one["OS"], one["Architecture"]) for one in named if one.get("Architecture"))


async def node_platform(engine: Engine, task: Task) -> str:
    """Return the operating system and `uname -m` of a task's node."""
    found = (await _node(engine, task)).get("Platform") or {}
    return f"{found.get('OS', '')}, uname -m {found.get('Architecture', '')}"


async def node_hostname(engine: Engine, task: Task) -> str:
    """Return the host name of a task's node."""
    return str((await _node(engine, task)).get("Hostname") or task.node_id)


async def _node(engine: Engine, task: Task) -> Mapping[str, Any]:
    node = await engine.call("GET", f"nodes/{checked_name(task.node_id)}")
    return node.get("Description") or {}


async def create(engine: Engine, spec: Mapping[str, Any], auth_header: Mapping[str, str]) -> None:
    """Create the service. An existing service of that name is not an error; the caller inspects it."""
    try:
        await engine.call("POST", "services/create", body=spec, headers=auth_header)
    except Failed as error:
        if "name conflicts with an existing object" not in str(error):
            raise


async def update(
    engine: Engine,
    seen: Service,
    spec: Mapping[str, Any],
    auth_header: Mapping[str, str],
    *,
    rollback: bool = False,
) -> None:
    """Send a new spec, or with `rollback` the previous one.

    Raises Postponed when somebody else has changed the spec since the inspection.
    """
    service = seen
    for _ in range(_TRIES):
        query = {"rollback": "previous"} if rollback else {}
        try:
            await engine.call(
                "POST",
                f"services/{service.service_id}/update",
                params={"version": service.version, **query},
                body=spec,
                headers=auth_header,
            )
        except Failed as error:
            if _OUT_OF_SEQUENCE not in str(error):
                raise
        else:
            return
        found = await inspect(engine, service.service_id)
        if found is None or found.spec != seen.spec:
            break
        service = found
    raise Postponed(Code.ENGINE_REFUSED, f"the service {seen.name} was changed by somebody else meanwhile")


async def remove(engine: Engine, service: Service) -> None:
    with suppress(NotOnEngine):
        await engine.call("DELETE", f"services/{service.service_id}")


async def last_lines(engine: Engine, task: Task) -> str:
    """Return the end of a task's log, on any node."""
    return await logs.tail(engine, f"tasks/{task.task_id}/logs", deadline=_LOGS_DEADLINE)


def mesh_ports(made: Mapping[str, Any]) -> set[tuple[int, str]]:
    """Return the ports and protocols that the spec publishes on all nodes through the routing mesh."""
    ports = (made.get("EndpointSpec") or {}).get("Ports") or ()
    return {
        (port["PublishedPort"], port.get("Protocol", "tcp"))
        for port in ports
        if port.get("PublishedPort") and port.get("PublishMode") != "host"
    }
