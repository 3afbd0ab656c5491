"""Lets a new container boot beside the old one that holds its ports, on a network of its own that leads nowhere.

The engine publishes a container's ports when it joins its network, so the new one serves as soon as it joins in place
of the old one. That is safe only for an application that boots without its network. Whether it does is observed: it
must listen on its ports, without having sent anything. What it sends on that network arrives at the host, which has
the network's interface and counts. So the gateway must run on the engine's host.
"""

import asyncio
import hashlib
import ipaddress
import re
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from gateway.docker.container import names, ownership, probes, readiness
from gateway.docker.container import spec as container_spec
from gateway.docker.engine import networks
from gateway.docker.engine.client import Engine
from gateway.docker.engine.containers import Container
from gateway.docker.engine.labels import APPLICATION, BOOT, DEPLOYMENT, installation_label
from gateway.model.applications import Application
from gateway.model.deployments import Swap
from gateway.model.errors import Code, Failed

_LOG = structlog.get_logger()

ISOLATED = "isolated"
_DEFAULT_NETWORK = "bridge"
# Nothing that a container sends to others leaves it then.
_SEALED = "an engine whose internal networks have no gateway"
_BOOT_DEADLINE = 30.0  # seconds
_LOOK_AGAIN = 0.03  # seconds
_SILENT = 0.1  # seconds without a packet once it listens
_ANSWER = 0.25  # seconds for a connection
_MAX_UNANSWERED = 3  # probes
_LISTENS_WITHIN = 1.0  # seconds after it has joined its network
# Bytes of what a container sends to answer the host: ARP, and to a probe a refusal, or at most so much to accept it.
_ARP, _RESET, _ACCEPT = 28, 40, 60
_RESOLV_CONF, _BEHIND_STUB = Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")
_STUB = "127.0.0.53"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def is_marked(container: Container) -> bool:
    """Return whether the container was created to boot isolated."""
    return container.labels.get(BOOT) == ISOLATED


def has_joined(container: Container) -> bool:
    """Return whether the running container serves on its network: its ports are published."""
    return bool(container.published)


def home_of(application: Application) -> tuple[str, Mapping[str, Any]] | None:
    """Return the network on which the application serves, with its endpoint, if it is a single one."""
    endpoints = container_spec.endpoints(application)
    if endpoints:
        return next(iter(endpoints.items())) if len(endpoints) == 1 else None
    mode = container_spec.user_config(application)["HostConfig"].get("NetworkMode", "default")
    return (_DEFAULT_NETWORK, {}) if mode in {"default", _DEFAULT_NETWORK} else None


async def obstacle(engine: Engine, application: Application, old: Container) -> str | None:
    """Return what about the engine, its network or the old container forbids to boot isolated, or None."""
    home = home_of(application)
    if home is None:
        return "another network mode"
    if not old.running or old.paused or old.restarting or old.removes_itself:
        return "the old one does not serve, or removes itself"
    if reason := await _blindness(engine):
        return reason
    found = await networks.require(engine, home[0])
    if found["Driver"] != "bridge" or found["Internal"] or found["EnableIPv6"] or found["Name"] != home[0]:
        return f"the network {home[0]}: it is no plain bridge"
    return None


async def _blindness(engine: Engine) -> str | None:
    """Return why the gateway could not see what a container sends, or None."""
    if engine.run in engine.sealed_networks:
        return _SEALED
    if not await probes.shares_host(engine):
        return "an engine on another host"
    return None if await asyncio.to_thread(_asks_names_outside) else "a name server on the host's loopback"


def _asks_names_outside() -> bool:
    """Return whether the engine asks for names through the container's network, so that it shows."""
    try:
        servers = _name_servers(_RESOLV_CONF)
        if servers == [_STUB]:
            servers = _name_servers(_BEHIND_STUB)  # as the engine does
        return not any(ipaddress.ip_address(one.partition("%")[0]).is_loopback for one in servers)
    except (OSError, ValueError):
        return False


def _name_servers(path: Path) -> list[str]:
    return re.findall(r"^nameserver[ \t]+(\S+)", path.read_text(), re.MULTILINE)


def obstacle_in(application: Application, new: Container) -> str | None:
    """Return what about the container as the engine has created it forbids to boot it isolated, or None."""
    home = home_of(application)
    if home is None or set(new.networks) != {home[0]}:
        return "another network mode"
    return "a volume of its image" if any(mount.get("RW") for mount in new.mounts) else None


@dataclass(slots=True)
class IsolatedBoot:
    """The boot of one new container on a network of its own."""

    engine: Engine
    application: Application
    swap: Swap
    _ports: frozenset[int] = field(init=False)
    _open: set[int] = field(default_factory=set)
    _refused: int = 0
    _unanswered: int = 0

    def __post_init__(self) -> None:
        bindings = container_spec.user_config(self.application)["HostConfig"]["PortBindings"]
        self._ports = frozenset(int(inside.partition("/")[0]) for inside in bindings)

    async def prepare(self, new: Container) -> None:
        """Put the container, which has not started, on a network of its own."""
        labels = {APPLICATION: self.application.application_id, DEPLOYMENT: self.swap.deployment_id, BOOT: ISOLATED}
        await networks.create_internal(
            self.engine, self._network, self._bridge, labels | installation_label(self.application)
        )
        for network in new.networks:
            await networks.disconnect(self.engine, network, new.container_id)
        await networks.connect(self.engine, self._network, new.container_id, {})

    async def wait(self) -> None:
        """Return when the container listens on its ports. Raises Failed when it sends something, or does not boot."""
        clock = asyncio.get_running_loop().time
        deadline, listens_since = clock() + _BOOT_DEADLINE, None
        while listens_since is None or clock() - listens_since < _SILENT:
            container = await readiness.require(self.engine, self.swap.new)
            if reason := readiness.failure_reason(container):
                raise Failed(reason.code, reason.message)
            if set(container.networks) != {self._network} or not container.addresses:
                raise Failed(Code.ENGINE_REFUSED, "it was taken off the network that it booted on")
            if not container.gateways:
                self.engine.sealed_networks.add(self.engine.run)
                raise Failed(Code.ENGINE_REFUSED, _SEALED)
            await self._probe(container.addresses[0])
            await self.check_silent()
            if listens_since is None and self._open == self._ports:
                listens_since = clock()
            if listens_since is None and clock() >= deadline:
                missing = ", ".join(map(str, sorted(self._ports - self._open)))
                raise Failed(Code.UNHEALTHY, f"it did not listen on port {missing} in {_BOOT_DEADLINE:.0f} s")
            await asyncio.sleep(_LOOK_AGAIN)

    async def _probe(self, address: str) -> None:
        for port in sorted(self._ports - self._open):
            answer = await _connect(address, port)
            if answer:
                self._open.add(port)
            elif answer is False:
                self._refused += 1
            else:
                self._unanswered += 1
        if self._unanswered > _MAX_UNANSWERED:
            # Its kernel answers at once, unless the address leads elsewhere from here.
            raise Failed(Code.ENGINE_REFUSED, "it cannot be reached on the network that it booted on")

    async def check_silent(self) -> None:
        """Raise Failed when the container has sent more than its answers to the host."""
        try:
            packets, size = await asyncio.to_thread(self._received)
        except (OSError, ValueError) as error:
            raise Failed(Code.ENGINE_REFUSED, "what it sends cannot be seen from here") from error
        refusals, beyond = self._refused * (_RESET - _ARP), size - packets * _ARP
        if beyond > refusals + len(self._open) * (_ACCEPT - _ARP):
            raise Failed(Code.UNHEALTHY, "it used its network while it booted")
        if beyond < refusals + len(self._open) * (_RESET - _ARP):
            raise Failed(Code.ENGINE_REFUSED, "another container answers at its address")

    def _received(self) -> tuple[int, int]:
        counters = Path("/sys/class/net") / self._bridge / "statistics"
        return int((counters / "rx_packets").read_text()), int((counters / "rx_bytes").read_text())

    @property
    def _network(self) -> str:
        return _network_of(self.application, self.swap)

    @property
    def _bridge(self) -> str:
        """The host's interface of the network, whose name may have 15 characters."""
        return "gwb" + hashlib.sha256(self._network.encode()).hexdigest()[:12]


def _network_of(application: Application, swap: Swap) -> str:
    return names.boot_network(application.app_name, swap.deployment_id)


async def _connect(address: str, port: int) -> bool | None:
    """Return whether the port accepts a connection, or None when nothing answers."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as one:
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        try:
            async with asyncio.timeout(_ANSWER):
                await asyncio.get_running_loop().sock_connect(one, (address, port))
        except ConnectionRefusedError:
            return False
        except (OSError, TimeoutError):
            return None
    return True


async def leave(engine: Engine, application: Application, swap: Swap, new: Container) -> None:
    """Take the container off the network it booted on."""
    if (network := _network_of(application, swap)) in new.networks:
        await networks.disconnect(engine, network, new.container_id)


async def join_home(engine: Engine, application: Application, new: Container) -> None:
    """Connect a container without a network to the one on which it serves. A running one publishes its ports there."""
    if (home := home_of(application)) is not None:
        await networks.connect(engine, home[0], new.container_id, home[1])


async def go_home(engine: Engine, application: Application, swap: Swap, new: Container) -> None:
    """Put a stopped container that was to boot isolated back on its network, for it to start there."""
    await leave(engine, application, swap, new)
    home = home_of(application)
    if home is not None and home[0] not in new.networks:
        await join_home(engine, application, new)


async def listens(container: Container) -> bool:
    """Return whether a container that has joined its network soon accepts connections on its ports there."""
    clock = asyncio.get_running_loop().time
    missing, deadline = set(container.published), clock() + _LISTENS_WITHIN
    while container.addresses:
        missing = {port for port in missing if not await _connect(container.addresses[0], port)}
        if not missing:
            return True
        if clock() >= deadline:
            break
        await asyncio.sleep(_LOOK_AGAIN)
    return False


async def sweep(engine: Engine, application: Application) -> None:
    """Remove the networks on which containers of the application have booted. Requires that none boots."""
    for network in await networks.list_labelled(engine, application.application_id):
        labels = network["Labels"] or {}
        if labels.get(BOOT) != ISOLATED or not ownership.labels_belong_to(application, labels):
            continue
        try:
            await networks.remove(engine, str(network["Id"]))
        except Failed as error:
            _LOG.warning("The network of a boot cannot be removed yet", network=network["Name"], error=str(error))
