"""Services of a Swarm, asked of one of its managers. What is done already is no error here.

An update names the version it was made for, and the Swarm refuses one made for another: nobody overwrites what he has
not seen.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
from aiodocker.utils import compose_auth_header

from gateway.docker.engine import containers, logs
from gateway.docker.engine.client import Engine, checked_name
from gateway.docker.engine.labels import APPLICATION, IMAGE, LOGIN_UNTIL
from gateway.model.errors import Code, Failed, NotOnEngine, Postponed
from gateway.model.reference import Reference
from gateway.model.registries import Credentials

_OUT_OF_SEQUENCE = "update out of sequence"
_TRIES = 20  # of an update whose version index moves while its spec stays
_NEVER = datetime(9999, 1, 1, tzinfo=UTC)
_LOGS_DEADLINE = 10.0  # seconds; the log of a task is asked of its node, which may be gone


@dataclass(frozen=True, slots=True)
class Service:
    """A service as it was seen a moment ago. `update_state` is the Engine's word, "" where nothing was updated."""

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
        """Whether it has the image that its labels tell of: somebody may have set another one, which leaves them."""
        return image_matches_labels(self.labels, self.image)

    @property
    def rolled_back_from(self) -> Mapping[str, str] | None:
        """The labels of the spec it was told to go back from; None where the Swarm did so itself, and forgot that."""
        if self.previous_spec is None or not self.update_state.startswith("rollback"):
            return None
        return self.previous_spec.get("Labels") or {}

    @property
    def replicas(self) -> int | None:
        """How many tasks it should have; None: one on each node that fits."""
        replicated = self.spec["Mode"].get("Replicated")
        return None if replicated is None else int(replicated.get("Replicas", 1))

    @property
    def update_config(self) -> Mapping[str, Any]:
        return self.spec.get("UpdateConfig") or {}


@dataclass(frozen=True, slots=True)
class Task:
    """A task as it was seen a moment ago. `wanted` is the state it is meant to have."""

    task_id: str
    slot: int
    node_id: str
    state: str
    wanted: str
    changed: str
    said: str
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
    """A node as it was seen a moment ago. What the tasks of one that is `down` are said to do is long ago."""

    down: bool
    #: when it last came to the managers, about: each start of its engine is later than the tasks it had
    joined: datetime


def image_matches_labels(marks: Mapping[str, str], image: str) -> bool:
    return marks.get(IMAGE, image) == image


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
        wanted=found["DesiredState"],
        changed=status["Timestamp"],
        said=status.get("Err") or status.get("Message", ""),
        exit_code=container.get("ExitCode", 0),
        container_id=container.get("ContainerID", ""),
        image=found["Spec"].get("ContainerSpec", {}).get("Image", ""),
        created=containers.parse_time(found["CreatedAt"]),
        labels=found["Spec"].get("ContainerSpec", {}).get("Labels") or {},
    )


def registry_auth_header(image: Reference, credentials: Credentials | None) -> dict[str, str]:
    """Return the header that gives the nodes their login: sent with each spec, since a kept one may have expired."""
    if credentials is None:
        return {}
    login = {"username": credentials.username, "password": credentials.password}
    return {"X-Registry-Auth": compose_auth_header(login, str(image.repository.domain))}


def with_registry_auth(
    spec: Mapping[str, Any], image: Reference, credentials: Credentials | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the spec, saying until when the login that goes with it is good, and the header that holds that."""
    marks = {name: value for name, value in (spec.get("Labels") or {}).items() if name != LOGIN_UNTIL}
    if credentials is not None and credentials.expires_at is not None:
        marks[LOGIN_UNTIL] = credentials.expires_at.isoformat()
    return {**spec, "Labels": marks}, registry_auth_header(image, credentials)


async def inspect(engine: Engine, service: str) -> Service | None:
    """Return it by id or name, or None where there is none."""
    try:
        return _service(await engine.call("GET", f"services/{checked_name(service)}"))
    except NotOnEngine:
        return None


async def list_all(engine: Engine) -> list[Service]:
    """Return all services of the Swarm."""
    return [_service(found) for found in await engine.call("GET", "services")]


async def tasks(engine: Engine, service: Service) -> list[Task]:
    """Return its tasks, those that ended lately too, the newest first."""
    return await _tasks(engine, {"service": [service.name]})


async def tasks_by_service(engine: Engine) -> dict[str, list[Task]]:
    """Return the tasks of all services by the service's id, the newest first."""
    found = await engine.call("GET", "tasks")
    by_service: dict[str, list[Task]] = {}
    for one in sorted(found, key=lambda one: str(one["CreatedAt"]), reverse=True):
        by_service.setdefault(one.get("ServiceID", ""), []).append(_task(one))
    return by_service


async def tasks_of_application(engine: Engine, application_id: str) -> list[Task]:
    """Return the tasks of an application's services, of those that are no more too."""
    return await _tasks(engine, {"label": [f"{APPLICATION}={application_id}"]})


async def _tasks(engine: Engine, filters: Mapping[str, list[str]]) -> list[Task]:
    try:
        found = await engine.call("GET", "tasks", params={"filters": orjson.dumps(filters).decode()})
    except NotOnEngine:
        return []
    return [_task(one) for one in sorted(found, key=lambda one: containers.parse_time(one["CreatedAt"]), reverse=True)]


async def nodes(engine: Engine) -> dict[str, Node]:
    """Return the nodes by their ids."""
    found = await engine.call("GET", "nodes")
    return {one["ID"]: Node(one["Status"]["State"] == "down", containers.parse_time(one["UpdatedAt"])) for one in found}


async def node_platform(engine: Engine, task: Task) -> str:
    """Return what the node of a task is: its system, and what `uname -m` says there."""
    found = (await _node(engine, task)).get("Platform") or {}
    return f"{found.get('OS', '')}, uname -m {found.get('Architecture', '')}"


async def node_hostname(engine: Engine, task: Task) -> str:
    """Return what the node of a task is called."""
    return str((await _node(engine, task)).get("Hostname") or task.node_id)


async def _node(engine: Engine, task: Task) -> Mapping[str, Any]:
    node = await engine.call("GET", f"nodes/{checked_name(task.node_id)}")
    return node.get("Description") or {}


async def create(engine: Engine, spec: Mapping[str, Any], auth_header: Mapping[str, str]) -> None:
    """Create it; one by that name which is there already is left for the caller to look at."""
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
    back: bool = False,
) -> None:
    """Give it another spec, or with `back` the one it had before.

    Raises Postponed where somebody else has given it another one since it was seen: what he did is not overwritten.
    """
    service = seen
    for _ in range(_TRIES):
        rollback = {"rollback": "previous"} if back else {}
        try:
            await engine.call(
                "POST",
                f"services/{service.service_id}/update",
                params={"version": service.version, **rollback},
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
    raise Postponed(Code.ENGINE_REFUSED, f"the service {seen.name} was changed by somebody else at the same time")


async def remove(engine: Engine, service: Service) -> None:
    with suppress(NotOnEngine):
        await engine.call("DELETE", f"services/{service.service_id}")


async def last_lines(engine: Engine, task: Task) -> str:
    """Return the end of what a task has logged, wherever it ran."""
    return await logs.tail(engine, f"tasks/{task.task_id}/logs", deadline=_LOGS_DEADLINE)


def mesh_ports(made: Mapping[str, Any]) -> set[tuple[int, str]]:
    """Return the ports, with their protocols, that it holds on all nodes at once."""
    ports = (made.get("EndpointSpec") or {}).get("Ports") or ()
    return {
        (port["PublishedPort"], port.get("Protocol", "tcp"))
        for port in ports
        if port.get("PublishedPort") and port.get("PublishMode") != "host"
    }
