"""Containers on the engine. Every call here may be repeated: what is done already is no error."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import orjson

from gateway.docker.engine import images, logs
from gateway.docker.engine.client import CALL_DEADLINE, Engine, checked_name
from gateway.docker.engine.labels import APPLICATION, are_significant, own_labels
from gateway.model.errors import Code, Failed, NotOnEngine, Postponed, RolloutError

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(?:Z|([+-]\d\d:\d\d))?")
_CHECK_RUNS = 3  # of a health check, the last
_MAX_OUTPUT = 1000  # characters
_GRACE = 10  # seconds to stop for one that is between two starts, and so has no process

NO_RESTART: dict[str, object] = {"Name": "no", "MaximumRetryCount": 0}


@dataclass(frozen=True, slots=True)
class Container:
    """A container as it was seen a moment ago."""

    container_id: str
    name: str
    created: str
    #: without those of its image
    labels: dict[str, str]
    image_id: str
    #: what it was made of, as whoever made it called it
    image: str
    running: bool
    restarting: bool
    paused: bool
    restart_count: int
    exit_code: int
    out_of_memory: bool
    #: bytes; 0 is none
    memory_limit: int
    error: str
    started_at: str
    #: when it last stopped; long ago for one that never did
    finished_at: datetime
    #: "healthy", "unhealthy", "starting"; None where the image has no check
    health: str | None
    health_output: str
    restart_policy: dict[str, object]
    #: by network, the names it answers to there beside its own
    aliases: dict[str, frozenset[str]]
    #: by name, the id of each network it is on: a network that was made anew has another one
    networks: dict[str, str]
    #: its own addresses, one a network
    addresses: tuple[str, ...]
    #: those of its host, on the same networks
    gateways: tuple[str, ...]
    #: by its own TCP port, the address and port of the host that lead there
    published: dict[int, tuple[str, int]]
    mounts: tuple[dict[str, Any], ...]
    #: the engine removes it once it stops
    removes_itself: bool

    @property
    def healthy(self) -> bool:
        return self.running and not self.restarting and not self.paused and self.health in {None, "healthy"}

    @property
    def down(self) -> bool:
        """Whether no process of it runs, and none is about to."""
        return not self.running and not self.restarting


def _container(found: dict[str, Any], labels: dict[str, str]) -> Container:
    state = found["State"]
    health = state.get("Health") or {}
    return Container(
        container_id=found["Id"],
        name=found["Name"].removeprefix("/"),
        created=found["Created"],
        labels=labels,
        image_id=found["Image"],
        image=found["Config"].get("Image") or "",
        running=state["Running"],
        restarting=state["Restarting"],
        paused=state["Paused"],
        restart_count=found["RestartCount"],
        exit_code=state["ExitCode"],
        out_of_memory=state["OOMKilled"],
        memory_limit=found["HostConfig"].get("Memory") or 0,
        error=state["Error"],
        started_at=state["StartedAt"],
        finished_at=parse_time(state["FinishedAt"]),
        health=health.get("Status"),
        health_output=_check_output(health.get("Log") or ()),
        restart_policy=found["HostConfig"]["RestartPolicy"],
        aliases={
            name: frozenset(endpoint["Aliases"] or ())
            for name, endpoint in found["NetworkSettings"]["Networks"].items()
        },
        networks={
            name: endpoint.get("NetworkID") or "" for name, endpoint in found["NetworkSettings"]["Networks"].items()
        },
        addresses=_endpoint_values(found, "IPAddress"),
        gateways=_endpoint_values(found, "Gateway"),
        published=_published(found["NetworkSettings"].get("Ports") or {}),
        mounts=tuple(found["Mounts"] or ()),
        removes_itself=bool(found["HostConfig"].get("AutoRemove")),
    )


def _check_output(log: Iterable[dict[str, Any]]) -> str:
    """Return what the last runs of a health check that failed have said, the same once."""
    failed = [run for run in log if run.get("ExitCode")][-_CHECK_RUNS:]
    said = [f"{str(run.get('Output', '')).strip()} (exit code {run['ExitCode']})".lstrip() for run in failed]
    return "; ".join(dict.fromkeys(said))[-_MAX_OUTPUT:]


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
    """Parse the engine's time, RFC 3339, without what is less than a microsecond; its zero time is the year 1."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a time of the Docker Engine")
    whole, fraction, offset = found.groups()
    return datetime.fromisoformat(f"{whole}.{(fraction or '')[:6]:0<6}{offset or '+00:00'}").astimezone(UTC)


def to_timestamp(text: str) -> str:
    """Return the engine's time as it takes times: seconds, and nanoseconds after the point."""
    fraction = re.search(r"\.(\d+)", text)
    whole = int(parse_time(text).timestamp())
    return f"{whole}.{fraction[1].ljust(9, '0')}" if fraction else str(whole)


async def inspect(engine: Engine, container: str) -> Container | None:
    """Return it by id or name, or None where there is none."""
    found = await inspect_raw(engine, container)
    return None if found is None else _container(found, await own_labels_of(engine, found))


async def own_labels_of(engine: Engine, found: Mapping[str, Any]) -> dict[str, str]:
    """Return the labels of what was inspected, without those of its image."""
    return await without_image_labels(engine, found["Config"]["Labels"] or {}, found["Image"])


async def without_image_labels(engine: Engine, labels: Mapping[str, str], image_id: str) -> dict[str, str]:
    """Return a container's labels without those of its image, which may say anything of itself."""
    if not are_significant(labels):
        return dict(labels)
    return own_labels(labels, await images.labels(engine, image_id))


async def inspect_raw(engine: Engine, container: str) -> dict[str, Any] | None:
    """Return all the engine tells of it, by id or name, or None where there is none."""
    try:
        found: dict[str, Any] = await engine.call("GET", f"containers/{checked_name(container)}/json")
    except NotOnEngine:
        return None
    return found


async def list_labelled(engine: Engine, value: str, *, label: str = APPLICATION) -> list[Container]:
    """Return all the containers of an application, or with another label of this value, whatever their state."""
    filters = orjson.dumps({"label": [f"{label}={value}"]}).decode()
    found = await engine.call("GET", "containers/json", params={"all": 1, "filters": filters})
    inspected = [await inspect(engine, item["Id"]) for item in found]
    return [container for container in inspected if container is not None and container.labels.get(label) == value]


async def create(engine: Engine, name: str, body: dict[str, Any], networks: dict[str, dict[str, Any]]) -> str:
    """Create a container on its networks, each with its endpoint's settings, and return its id."""
    created = await engine.call("POST", "containers/create", params={"name": checked_name(name)}, body=body)
    container_id = str(created["Id"])
    # Engines before API 1.44 take one network at creation.
    for network, endpoint in list(networks.items())[1:]:
        await engine.call(
            "POST",
            f"networks/{checked_name(network)}/connect",
            body={"Container": container_id, "EndpointConfig": endpoint},
        )
    return container_id


async def connect(engine: Engine, container: Container, network: str, endpoint: dict[str, Any]) -> None:
    """Let it answer to the endpoint's aliases on the network; cut off and joined anew where it does not yet."""
    wanted = set(endpoint.get("Aliases") or ())
    if network in container.aliases:
        if wanted <= container.aliases[network]:
            return
        await engine.call(
            "POST", f"networks/{checked_name(network)}/disconnect", body={"Container": container.container_id}
        )
    body = {"Container": container.container_id, "EndpointConfig": endpoint}
    await engine.call("POST", f"networks/{checked_name(network)}/connect", body=body)


async def rename(engine: Engine, container: Container, name: str) -> Container:
    """Return it under its new name; one in a crash loop, which the engine does not rename, is stopped for good."""
    if container.name == name:
        return container
    if container.restarting:
        await stop_for_good(engine, container, grace=_GRACE)
    try:
        await _rename(engine, container, name)
    except Postponed as error:
        if error.reason.code is not Code.ENGINE_BUSY:
            raise
        await stop_for_good(engine, container, grace=_GRACE)  # it has ended since it was looked at
        await _rename(engine, container, name)
    return replace(container, name=name)


async def _rename(engine: Engine, container: Container, name: str) -> None:
    await engine.call("POST", f"containers/{container.container_id}/rename", params={"name": checked_name(name)})


async def stop_for_good(engine: Engine, container: Container, *, grace: int) -> None:
    """Stop it, and let no engine start it again."""
    await set_restart_policy(engine, container, NO_RESTART)
    await stop(engine, container.container_id, grace=grace)


async def set_restart_policy(engine: Engine, container: Container, policy: dict[str, object]) -> None:
    """Set it; one that is gone restarts no more anyhow."""
    if _policy(container.restart_policy) != _policy(policy):
        with _ignore_missing():
            await engine.call("POST", f"containers/{container.container_id}/update", body={"RestartPolicy": policy})


def _policy(policy: dict[str, object]) -> tuple[object, object]:
    """Return what it means: an engine takes an empty name for "no"."""
    return policy.get("Name") or "no", policy.get("MaximumRetryCount") or 0


async def stop(engine: Engine, container_id: str, *, grace: int) -> None:
    """Send the stop signal, and the kill after `grace` seconds; one that is gone is stopped."""
    deadline = grace + CALL_DEADLINE
    with _ignore_missing():
        await engine.call("POST", f"containers/{container_id}/stop", params={"t": grace}, deadline=deadline)


@contextmanager
def _ignore_missing() -> Iterator[None]:
    try:
        yield
    except NotOnEngine:
        return


async def restart(engine: Engine, container_id: str, *, grace: int) -> None:
    """Stop it and start it again."""
    await engine.call("POST", f"containers/{container_id}/restart", params={"t": grace}, deadline=grace + CALL_DEADLINE)


async def start(engine: Engine, container_id: str) -> None:
    """Let it run, also where somebody has paused it."""
    try:
        await engine.call("POST", f"containers/{container_id}/start")
    except Failed as error:
        if "paused container" not in str(error):
            raise
        await engine.call("POST", f"containers/{container_id}/unpause")


async def remove(engine: Engine, container_id: str, *, running: bool = True) -> None:
    """Remove it; its named volumes stay. Raises Failed for one that runs, unless that is to go too."""
    try:
        await engine.call("DELETE", f"containers/{container_id}", params={"force": int(running)})
    except NotOnEngine:
        return
    except RolloutError as error:
        if "already in progress" not in str(error):
            raise


async def last_lines(engine: Engine, container_id: str) -> str:
    """Return the end of what the container has logged."""
    return await logs.tail(engine, f"containers/{container_id}/logs")
