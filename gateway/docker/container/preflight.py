"""Checks before a rollout that the engine has the container's networks and free ports, and names port holders."""

import errno
import socket
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from gateway.docker.container import probes
from gateway.docker.engine import containers, errors, networks, services
from gateway.docker.engine.client import Engine
from gateway.docker.engine.containers import Container
from gateway.docker.engine.labels import APPLICATION
from gateway.model.errors import Code, Failed, RolloutError

_ALL_ADDRESSES = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - the engine's notation for all addresses
_ALLOCATED = "port is already allocated"  # as the engine itself counts, whatever listens on the host
_COMPOSE = "com.docker.compose.project"


class _Port(NamedTuple):
    """A host port, on one address or on all."""

    number: int
    protocol: str
    address: str

    def collides(self, other: "_Port") -> bool:
        """Return whether two containers cannot publish both ports."""
        same = self[:2] == other[:2]
        return same and (self.address == other.address or not _ALL_ADDRESSES.isdisjoint((self.address, other.address)))


async def check(
    engine: Engine,
    body: Mapping[str, Any],
    names: Iterable[str],
    *,
    serving: str | None,
    held: Mapping[str, Any] | None = None,
) -> None:
    """Raise Failed when a network is missing, or another container than the serving one holds a port.

    `held` is an inspection of the serving container, of any age, if there is one at hand: a container keeps its ports
    for as long as it exists.
    """
    for name in names:
        await networks.require(engine, name)
    wanted = sorted(_host_ports(body["HostConfig"]))
    if not wanted:
        return
    running = await containers.list_raw(engine, stopped=False)
    for port in wanted:
        if holder := await _find_holder(engine, running, port, but=serving):
            raise _port_taken(port, _describe_container(holder))
    if taken := [port for port in wanted if _listens_here(port)]:
        await _refuse_ports_outside_docker(engine, taken, serving, held)


async def _refuse_ports_outside_docker(
    engine: Engine, taken: Iterable[_Port], serving: str | None, held: Mapping[str, Any] | None
) -> None:
    """Raise Failed when a process outside of Docker, on this host, holds a port that the engine would publish."""
    # The serving container keeps its configured ports, also during a restart.
    found = held or (await containers.inspect_raw(engine, serving) if serving else None)
    own = _host_ports(found["HostConfig"]) if found else set()
    foreign = [port for port in taken if not any(port.collides(one) for one in own)]
    # Otherwise these are ports of another host, or of the container that the gateway runs in.
    if foreign and await probes.shares_host(engine):
        port = foreign[0]
        if service := await _mesh_service(engine, port):
            raise _port_taken(port, service)
        raise Failed(Code.PORT_TAKEN, errors.port_held_outside_docker(port.number, port.protocol))


def _host_ports(host: Mapping[str, Any]) -> set[_Port]:
    """Return the host ports in a HostConfig."""
    return {
        _Port(int(binding["HostPort"]), inside.partition("/")[2] or "tcp", binding.get("HostIp", ""))
        for inside, bindings in (host.get("PortBindings") or {}).items()
        for binding in bindings or ()
        if binding.get("HostPort", "").isdigit()
    }


async def networks_exist(engine: Engine, container: Container) -> bool:
    """Return whether all of the container's networks exist, by id. A recreated network has a new id."""
    wanted = {network_id for network_id in container.networks.values() if network_id}
    if not wanted:
        return True
    return wanted <= {str(one["Id"]) for one in await engine.call("GET", "networks")}


async def name_port_holder(engine: Engine, error: Failed, *, but: str) -> Failed:
    """Return the engine's error for a start; if it is about a port, with the holder's name, or that there is none."""
    named_port = errors.port_of(str(error)) if error.reason.code is Code.PORT_TAKEN else None
    if named_port is None:
        return error
    try:
        port = _Port(*named_port, "")
        holder = await _find_holder(engine, await containers.list_raw(engine, stopped=False), port, but=but)
        called = _describe_container(holder) if holder else await _mesh_service(engine, port)
    except RolloutError:
        return error  # keep the engine's error
    if called:
        return _port_taken(port, called)
    if _ALLOCATED not in str(error):
        return error  # a process of the host has it
    return Failed(
        Code.PORT_TAKEN,
        f"{error.reason.message}, but no container publishes it: if that stays so, the engine was killed and has lost "
        "track of the port, and gives it back when it is restarted",
    )


async def _find_holder(
    engine: Engine, running: Iterable[Mapping[str, Any]], port: _Port, *, but: str | None
) -> Container | None:
    for item in running:
        if item["Id"] == but or not any(port.collides(one) for one in _published(item)):
            continue
        # The engine may list a container that it has removed already, without a name.
        if (holder := await containers.inspect(engine, item["Id"])) is not None:
            return holder
    return None


def _published(item: Mapping[str, Any]) -> list[_Port]:
    return [_Port(one["PublicPort"], one["Type"], one.get("IP", "")) for one in item["Ports"] if one.get("PublicPort")]


def _describe_container(container: Container) -> str:
    """Return the container's name and its owner."""
    if application := container.labels.get(APPLICATION):
        return f"the container {container.name} of the application {application}"
    if project := container.labels.get(_COMPOSE):
        return f"the container {container.name} of the compose project {project}"
    return f"the container {container.name}"


def _port_taken(port: _Port, holder: str) -> Failed:
    return Failed(Code.PORT_TAKEN, f"port {port.number}/{port.protocol} is published by {holder}")


async def _mesh_service(engine: Engine, port: _Port) -> str | None:
    """Return the service that publishes the port on every node through the routing mesh."""
    try:
        there = await services.list_all(engine)
    except Failed:
        return None  # the engine is not a Swarm manager
    mesh = (one.name for one in there if (port.number, port.protocol) in services.mesh_ports(one.spec))
    return next((f"the service {name}" for name in mesh), None)


def _listens_here(port: _Port) -> bool:
    """Return whether a process on this host holds the port. When in doubt, the engine decides."""
    if port.protocol not in {"tcp", "udp"}:
        return False
    kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
    family = socket.AF_INET6 if ":" in port.address else socket.AF_INET
    try:
        with socket.socket(family, kind) as one:
            if port.protocol == "tcp":
                # Only a listening socket counts, not closed connections.
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((port.address, port.number))
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False
