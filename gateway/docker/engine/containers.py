"""Containers on an engine: https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container

Every call can be repeated: a change that was made already is not an error.
"""

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

import orjson
import structlog

from gateway.docker.engine import api_version, images, logs, networks
from gateway.docker.engine.client import CALL_DEADLINE, Engine, checked_name
from gateway.docker.engine.labels import APPLICATION, are_significant, own_labels
from gateway.model.errors import Code, Failed, NotOnEngine, Postponed, RolloutError
from gateway.single_flight import SingleFlight

_LOG = structlog.get_logger()

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(?:Z|([+-]\d\d:\d\d))?")
_CHECK_RUNS = 3  # of the health check to show
_MAX_OUTPUT = 1000  # characters
_GRACE = 10  # seconds to stop a container in a crash loop
_UPDATE_ATTEMPTS, _UPDATE_PAUSE = 5, 0.2  # seconds between them
_LEAVING_DEADLINE, _LOOK_AGAIN = 30.0, 0.05  # seconds for Podman to end a container that has exited

NO_RESTART: dict[str, object] = {"Name": "no", "MaximumRetryCount": 0}


@dataclass(frozen=True, slots=True)
class Container:
    """A container at the time of its inspection."""

    container_id: str
    name: str
    created: str
    #: without the labels of its image
    labels: dict[str, str]
    image_id: str
    #: the image as named at creation
    image: str
    running: bool
    #: of its first process, as the engine's host counts; 0 while it does not run
    pid: int
    restarting: bool
    paused: bool
    restart_count: int
    exit_code: int
    out_of_memory: bool
    #: in bytes; 0 means no limit
    memory_limit: int
    error: str
    started_at: str
    #: when it last stopped; in the year 1 if never
    finished_at: datetime
    #: "healthy", "unhealthy", "starting"; None without a health check
    health: str | None
    health_output: str
    restart_policy: dict[str, object]
    #: aliases by network name
    aliases: dict[str, frozenset[str]]
    #: network ids by name; a network that was recreated has a new id
    networks: dict[str, str]
    #: its IP addresses, one for each network
    addresses: tuple[str, ...]
    #: the host's addresses on the same networks
    gateways: tuple[str, ...]
    #: host address and port by container TCP port
    published: dict[int, tuple[str, int]]
    mounts: tuple[dict[str, Any], ...]
    #: whether the engine removes it when it stops
    removes_itself: bool
    #: the inspection as the engine sent it
    inspection: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def healthy(self) -> bool:
        return self.running and not self.restarting and not self.paused and self.health in {None, "healthy"}

    @property
    def stopped(self) -> bool:
        """Whether none of its processes runs and none is about to start."""
        return not self.running and not self.restarting


def _container(found: dict[str, Any], labels: dict[str, str], *, podman: bool) -> Container:
    state = found["State"]
    health = state.get("Health") or {}
    addresses = _endpoint_values(found, "IPAddress")
    # While Podman stops a container, it says that the container does not run.
    running = state["Running"] or (podman and bool(state.get("Pid")))
    return Container(
        container_id=found["Id"],
        name=found["Name"].removeprefix("/"),
        created=found["Created"],
        labels=labels,
        image_id=found["Image"],
        image=found["Config"].get("Image") or "",
        running=running,
        pid=state.get("Pid") or 0,
        # Podman leaves a container that has exited on its network at first. Then it starts it again or takes it off.
        restarting=state["Restarting"] or (podman and not running and bool(addresses)),
        paused=state["Paused"],
        restart_count=found["RestartCount"],
        exit_code=state["ExitCode"],
        out_of_memory=state["OOMKilled"],
        memory_limit=found["HostConfig"].get("Memory") or 0,
        error=state["Error"],
        started_at=state["StartedAt"],
        finished_at=parse_time(state["FinishedAt"]),
        health=_health(health),
        health_output=_check_output(health.get("Log") or ()),
        restart_policy=found["HostConfig"]["RestartPolicy"],
        aliases={
            name: frozenset(endpoint["Aliases"] or ())
            for name, endpoint in found["NetworkSettings"]["Networks"].items()
        },
        networks={
            name: endpoint.get("NetworkID") or "" for name, endpoint in found["NetworkSettings"]["Networks"].items()
        },
        addresses=addresses,
        gateways=_endpoint_values(found, "Gateway"),
        published=_published(found["NetworkSettings"].get("Ports") or {}),
        mounts=tuple(found["Mounts"] or ()),
        removes_itself=bool(found["HostConfig"].get("AutoRemove")),
        inspection=found,
    )


def _health(found: Mapping[str, Any]) -> str | None:
    """Return the state of the health check. None if there is none, which Podman and some engines express in words."""
    status = found.get("Status")
    return None if status in {None, "", "none"} else str(status)


def _check_output(log: Iterable[dict[str, Any]]) -> str:
    """Return the output of the last failed health checks, without duplicates."""
    failed = [run for run in log if run.get("ExitCode")][-_CHECK_RUNS:]
    outputs = [f"{str(run.get('Output', '')).strip()} (exit code {run['ExitCode']})".lstrip() for run in failed]
    return "; ".join(dict.fromkeys(outputs))[-_MAX_OUTPUT:]


def _endpoint_values(found: dict[str, Any], what: str) -> tuple[str, ...]:
    endpoints = found["NetworkSettings"]["Networks"].values()
    return tuple(endpoint[what] for endpoint in endpoints if endpoint.get(what))


def _published(ports: dict[str, Any]) -> dict[int, tuple[str, int]]:
    return {
        int(inside.removesuffix("/tcp")): (bindings[0]["HostIp"], int(bindings[0]["HostPort"]))
        for inside, bindings in ports.items()
        if inside.endswith("/tcp") and bindings
    }


def parse_time(text: str) -> datetime:
    """Parse an RFC 3339 time of the engine, to the microsecond. The engine's zero time is in the year 1."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a time of the Docker Engine")
    whole, fraction, offset = found.groups()
    return datetime.fromisoformat(f"{whole}.{(fraction or '')[:6]:0<6}{offset or '+00:00'}").astimezone(UTC)


def to_timestamp(text: str) -> str:
    """Return the engine's time in the form of its query parameters: seconds, a point, and nanoseconds."""
    fraction = re.search(r"\.(\d+)", text)
    whole = int(parse_time(text).timestamp())
    return f"{whole}.{fraction[1].ljust(9, '0')}" if fraction else str(whole)


async def inspect(engine: Engine, container: str) -> Container | None:
    """Return the container by id or name, or None."""
    found = await inspect_raw(engine, container)
    return None if found is None else await from_inspection(engine, found)


async def from_inspection(engine: Engine, found: dict[str, Any]) -> Container:
    """Return the container of an inspection as the engine sent it."""
    return _container(found, await own_labels_of(engine, found), podman=await engine.is_podman())


async def own_labels_of(engine: Engine, found: Mapping[str, Any]) -> dict[str, str]:
    """Return the labels of an inspected container without those of its image."""
    return await without_image_labels(engine, found["Config"]["Labels"] or {}, found["Image"])


async def without_image_labels(engine: Engine, labels: Mapping[str, str], image_id: str) -> dict[str, str]:
    """Return a container's labels without those of its image, which are not trustworthy."""
    if not are_significant(labels):
        return dict(labels)
    return own_labels(labels, await images.labels(engine, image_id))


async def runs_another_image(engine: Engine, container: Container, digest: str) -> bool:
    """Return whether the container certainly runs another image than the one of this digest.

    False for an image without digests, about which nothing is known: it may have been untagged by force.
    """
    if container.image_id == digest or container.image.endswith(f"@{digest}"):
        return False  # created by digest
    image = await images.inspect(engine, container.image_id)
    return image is not None and bool(image.repo_digests) and not image.has_digest(digest)


async def inspect_raw(engine: Engine, container: str) -> dict[str, Any] | None:
    """Return the inspection of a container by id or name as the engine sends it, or None."""
    try:
        found: dict[str, Any] = await engine.call("GET", f"containers/{checked_name(container)}/json")
    except NotOnEngine:
        return None
    return found


async def current_ids(engine: Engine, holders: Mapping[str, str]) -> dict[str, str]:
    """Return the current ids of containers that are known by an old id and a name."""
    now = {}
    for container_id, name in holders.items():
        found = await inspect(engine, name) or await inspect(engine, container_id)
        if found is not None:
            now[container_id] = found.container_id
    return now


async def list_raw(engine: Engine, *, stopped: bool) -> list[dict[str, Any]]:
    """Return all running containers, or all of them, as the engine lists them.

    With many containers, the engine takes long. So callers that come while a list is made share the next list.
    """
    lists = _LISTS.setdefault(engine.original, SingleFlight())
    params = {"all": int(stopped)}
    return await lists.join_next(stopped, lambda: engine.original.call("GET", "containers/json", params=params))


_LISTS: WeakKeyDictionary[Engine, SingleFlight[list[dict[str, Any]]]] = WeakKeyDictionary()


async def list_labelled(engine: Engine, value: str, *, label: str = APPLICATION) -> list[Container]:
    """Return all containers whose label has the value, in any state."""
    found = await _list_labelled(engine, value, label)
    inspected = await asyncio.gather(*(inspect(engine, item["Id"]) for item in found))
    return [container for container in inspected if container is not None and container.labels.get(label) == value]


async def list_states(engine: Engine, application_id: str) -> dict[str, tuple[str, str]]:
    """Return name and state, as `docker ps` shows them, of all containers with the application's label, by id."""
    found = await _list_labelled(engine, application_id, APPLICATION)
    return {str(one["Id"]): (_name(one.get("Names") or ()), str(one["State"])) for one in found}


async def _list_labelled(engine: Engine, value: str, label: str) -> list[dict[str, Any]]:
    filters = orjson.dumps({"label": [f"{label}={value}"]}).decode()
    found: list[dict[str, Any]] = await engine.call("GET", "containers/json", params={"all": 1, "filters": filters})
    return found


def _name(names: Iterable[str]) -> str:
    # Links to a container add further names, which contain a slash.
    plain = (name.removeprefix("/") for name in names)
    return next((name for name in plain if "/" not in name), "")


async def create(engine: Engine, name: str, body: dict[str, Any], endpoints: dict[str, dict[str, Any]]) -> str:
    """Create a container, connect it to its networks with these endpoint settings, and return its id."""
    sent = api_version.create_body(body, await engine.speaks())
    created = await engine.call("POST", "containers/create", params={"name": checked_name(name)}, body=sent)
    container_id = str(created["Id"])
    if warnings := created.get("Warnings"):  # such as a limit that this host cannot set
        _LOG.warning("The engine made a container with less than was asked for", container=name, warnings=warnings)
    # Before API 1.44 the engine accepts only one network at creation.
    for network, endpoint in list(endpoints.items())[1:]:
        await networks.connect(engine, network, container_id, endpoint)
    return container_id


async def connect(engine: Engine, container: Container, network: str, endpoint: dict[str, Any]) -> None:
    """Connect the container with the endpoint's aliases. It is reconnected when it lacks one of them."""
    wanted = set(endpoint.get("Aliases") or ())
    if network in container.aliases:
        if wanted <= container.aliases[network]:
            return
        await networks.disconnect(engine, network, container.container_id)
    await networks.connect(engine, network, container.container_id, endpoint)


async def rename(engine: Engine, container: Container, name: str) -> Container:
    """Rename the container and return it. One in a crash loop, which cannot be renamed, is stopped first."""
    if container.name == name:
        return container
    if container.restarting:
        await _stop_for_good(engine, container, grace=_GRACE)
    try:
        await _rename(engine, container, name)
    except Postponed as error:
        if error.reason.code is not Code.ENGINE_BUSY:
            raise
        await _stop_for_good(engine, container, grace=_GRACE)  # it has stopped since it was inspected
        await _rename(engine, container, name)
    return replace(container, name=name)


async def _rename(engine: Engine, container: Container, name: str) -> None:
    await engine.call("POST", f"containers/{container.container_id}/rename", params={"name": checked_name(name)})


async def _stop_for_good(engine: Engine, container: Container, *, grace: int) -> None:
    """Stop the container and set its restart policy to "no"."""
    await set_restart_policy(engine, container, NO_RESTART)
    await stop(engine, container.container_id, grace=grace)


async def set_restart_policy(engine: Engine, container: Container, policy: dict[str, object]) -> bool:
    """Set the restart policy; return whether it was another one. Does nothing for a container that is gone.

    The engine refuses this at the moment at which a container stops. In a crash loop that happens often.
    """
    if _policy(container.restart_policy) == _policy(policy):
        return False
    for attempt in range(_UPDATE_ATTEMPTS):
        try:
            with _ignore_missing():
                await engine.call("POST", f"containers/{container.container_id}/update", body={"RestartPolicy": policy})
        except Postponed as error:
            if error.reason.code is not Code.ENGINE_BUSY or attempt == _UPDATE_ATTEMPTS - 1:
                raise
        else:
            break
        await asyncio.sleep(_UPDATE_PAUSE)
    return True


def _policy(policy: dict[str, object]) -> tuple[object, object]:
    """Return the policy for comparison: an empty name means "no"."""
    return policy.get("Name") or "no", policy.get("MaximumRetryCount") or 0


async def stop(engine: Engine, container_id: str, *, grace: int) -> None:
    """Send the stop signal, and SIGKILL after `grace` seconds. Does nothing for a container that is gone.

    When this returns, the ports of the container are free.
    """
    deadline = grace + CALL_DEADLINE
    with _ignore_missing():
        await engine.call("POST", f"containers/{container_id}/stop", params={"t": grace}, deadline=deadline)
        if await engine.is_podman():
            await _wait_until_left(engine, container_id, grace)


async def _wait_until_left(engine: Engine, container_id: str, grace: int) -> None:
    """Return once Podman has taken the container off its network, or removed it. Raises Postponed.

    After a container has exited by itself, Podman takes it off its network some time later, and until then answers a
    request to stop it at once. Podman's firewall rules for a port are the same for all containers. So if another
    container with the same port starts before that, its rules are removed too, and nobody reaches it. In a crash loop,
    Podman starts the container again instead, so it is stopped again here.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + _LEAVING_DEADLINE
    while (found := await inspect(engine, container_id)) is not None and not found.stopped:
        if clock() >= deadline:
            message = f"Podman has not taken {found.name} off its network: podman container cleanup {found.name}"
            raise Postponed(Code.ENGINE_BUSY, message)
        await asyncio.sleep(_LOOK_AGAIN)
        params = {"t": grace}
        await engine.call("POST", f"containers/{container_id}/stop", params=params, deadline=grace + CALL_DEADLINE)


@contextmanager
def _ignore_missing() -> Iterator[None]:
    try:
        yield
    except NotOnEngine:
        return


async def restart(engine: Engine, container_id: str, *, grace: int) -> None:
    """Stop the container and start it again."""
    await engine.call("POST", f"containers/{container_id}/restart", params={"t": grace}, deadline=grace + CALL_DEADLINE)


async def start(engine: Engine, container_id: str) -> None:
    """Start the container, or unpause it."""
    try:
        await engine.call("POST", f"containers/{container_id}/start")
    except Failed as error:
        if "paused container" not in str(error):
            raise
        await engine.call("POST", f"containers/{container_id}/unpause")


async def remove(engine: Engine, container_id: str, *, running: bool = True) -> None:
    """Remove the container, not its named volumes. Raises Failed for a running one unless `running`."""
    try:
        await engine.call("DELETE", f"containers/{container_id}", params={"force": int(running)})
    except NotOnEngine:
        return
    except RolloutError as error:
        if "already in progress" not in str(error):
            raise


async def last_lines(engine: Engine, container_id: str) -> str:
    """Return the end of the container's log."""
    return await logs.tail(engine, f"containers/{container_id}/logs")
