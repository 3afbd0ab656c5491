"""Containers on the engine. Every call here may be repeated: what is done already is no error."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import orjson

from gateway.engine import logs, spec
from gateway.engine.client import CALL_DEADLINE, Engine, named
from gateway.errors import Code, Failed

_RUNS = 3  # of a health check, the last
_LONGEST_SAID = 1000  # characters


@dataclass(frozen=True, slots=True)
class Container:
    """A container as it was seen a moment ago."""

    container_id: str
    name: str
    created: str
    labels: dict[str, str]
    image_id: str
    running: bool
    restarting: bool
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
    def sound(self) -> bool:
        return self.running and not self.restarting and self.health in {None, "healthy"}


def _container(found: dict[str, Any]) -> Container:
    state = found["State"]
    health = state.get("Health") or {}
    return Container(
        container_id=found["Id"],
        name=found["Name"].removeprefix("/"),
        created=found["Created"],
        labels=found["Config"]["Labels"] or {},
        image_id=found["Image"],
        running=state["Running"],
        restarting=state["Restarting"],
        restart_count=found["RestartCount"],
        exit_code=state["ExitCode"],
        out_of_memory=state["OOMKilled"],
        memory_limit=found["HostConfig"].get("Memory") or 0,
        error=state["Error"],
        started_at=state["StartedAt"],
        finished_at=time(state["FinishedAt"]),
        health=health.get("Status"),
        health_output=_said(health.get("Log") or ()),
        restart_policy=found["HostConfig"]["RestartPolicy"],
        aliases={
            name: frozenset(endpoint["Aliases"] or ())
            for name, endpoint in found["NetworkSettings"]["Networks"].items()
        },
        addresses=_each(found, "IPAddress"),
        gateways=_each(found, "Gateway"),
        published=_published(found["NetworkSettings"].get("Ports") or {}),
        mounts=tuple(found["Mounts"] or ()),
        removes_itself=bool(found["HostConfig"].get("AutoRemove")),
    )


def _said(log: Iterable[dict[str, Any]]) -> str:
    """Return what the last runs of a health check that failed have said, the same once."""
    failed = [run for run in log if run.get("ExitCode")][-_RUNS:]
    said = [f"{str(run.get('Output', '')).strip()} (exit code {run['ExitCode']})".lstrip() for run in failed]
    return "; ".join(dict.fromkeys(said))[-_LONGEST_SAID:]


def _each(found: dict[str, Any], what: str) -> tuple[str, ...]:
    endpoints = found["NetworkSettings"]["Networks"].values()
    return tuple(endpoint[what] for endpoint in endpoints if endpoint.get(what))


def _published(ports: dict[str, Any]) -> dict[int, tuple[str, int]]:
    return {
        int(inside.removesuffix("/tcp")): (bindings[0]["HostIp"], int(bindings[0]["HostPort"]))
        for inside, bindings in ports.items()
        if inside.endswith("/tcp") and bindings
    }


def time(text: str) -> datetime:
    """Parse the engine's time, without its nanoseconds; its zero time is the year 1."""
    return datetime.fromisoformat(text[:19]).replace(tzinfo=UTC)


async def inspect(engine: Engine, container: str) -> Container | None:
    """Return it by id or name, or None where there is none."""
    found = await inspection(engine, container)
    return None if found is None else _container(found)


async def inspection(engine: Engine, container: str) -> dict[str, Any] | None:
    """Return all the engine tells of it, by id or name, or None where there is none."""
    try:
        found: dict[str, Any] = await engine.call("GET", f"containers/{named(container)}/json")
    except Failed as error:
        if error.reason.code is Code.NOT_FOUND:
            return None
        raise
    return found


async def select(engine: Engine, value: str, *, label: str = spec.APPLICATION) -> list[Container]:
    """Return all the containers of an application, or with another label of this value, whatever their state."""
    filters = orjson.dumps({"label": [f"{label}={value}"]}).decode()
    found = await engine.call("GET", "containers/json", params={"all": 1, "filters": filters})
    inspected = [await inspect(engine, item["Id"]) for item in found]
    return [container for container in inspected if container is not None]


async def create(engine: Engine, name: str, body: dict[str, Any], networks: dict[str, dict[str, Any]]) -> str:
    """Create a container on its networks, each with its endpoint's settings, and return its id."""
    created = await engine.call("POST", "containers/create", params={"name": named(name)}, body=body)
    container_id = str(created["Id"])
    # Engines before API 1.44 take one network at creation.
    for network, endpoint in list(networks.items())[1:]:
        await engine.call(
            "POST",
            f"networks/{named(network)}/connect",
            body={"Container": container_id, "EndpointConfig": endpoint},
        )
    return container_id


async def connect(engine: Engine, container: Container, network: str, endpoint: dict[str, Any]) -> None:
    """Let it answer to the endpoint's aliases on the network; cut off and joined anew where it does not yet."""
    wanted = set(endpoint.get("Aliases") or ())
    if network in container.aliases:
        if wanted <= container.aliases[network]:
            return
        await engine.call("POST", f"networks/{named(network)}/disconnect", body={"Container": container.container_id})
    body = {"Container": container.container_id, "EndpointConfig": endpoint}
    await engine.call("POST", f"networks/{named(network)}/connect", body=body)


async def rename(engine: Engine, container: Container, name: str) -> Container:
    """Return it under its new name."""
    if container.name != name:
        await engine.call("POST", f"containers/{container.container_id}/rename", params={"name": named(name)})
    return replace(container, name=name)


async def set_restart_policy(engine: Engine, container: Container, policy: dict[str, object]) -> None:
    """Set it; one that is gone restarts no more anyhow."""
    if _policy(container.restart_policy) != _policy(policy):
        with _gone_is_done():
            await engine.call("POST", f"containers/{container.container_id}/update", body={"RestartPolicy": policy})


def _policy(policy: dict[str, object]) -> tuple[object, object]:
    """Return what it means: an engine takes an empty name for "no"."""
    return policy.get("Name") or "no", policy.get("MaximumRetryCount") or 0


async def stop(engine: Engine, container_id: str, *, grace: int) -> None:
    """Send the stop signal, and the kill after `grace` seconds; one that is gone is stopped."""
    deadline = grace + CALL_DEADLINE
    with _gone_is_done():
        await engine.call("POST", f"containers/{container_id}/stop", params={"t": grace}, deadline=deadline)


@contextmanager
def _gone_is_done() -> Iterator[None]:
    try:
        yield
    except Failed as error:
        if error.reason.code is not Code.NOT_FOUND:
            raise


async def restart(engine: Engine, container_id: str, *, grace: int) -> None:
    """Stop it and start it again."""
    await engine.call("POST", f"containers/{container_id}/restart", params={"t": grace}, deadline=grace + CALL_DEADLINE)


async def start(engine: Engine, container_id: str) -> None:
    await engine.call("POST", f"containers/{container_id}/start")


async def remove(engine: Engine, container_id: str) -> None:
    """Remove it, running or not; its named volumes stay."""
    try:
        await engine.call("DELETE", f"containers/{container_id}", params={"force": 1})
    except Failed as error:
        if error.reason.code is not Code.NOT_FOUND and "already in progress" not in str(error):
            raise


async def last_lines(engine: Engine, container_id: str) -> str:
    """Return the end of what the container has logged."""
    return await logs.tail(engine, f"containers/{container_id}/logs")
