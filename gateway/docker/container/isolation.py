"""Boots a new container in isolation, beside the old one that holds its ports: it reaches nothing, nothing reaches it.

The engine publishes the ports of a container when the container joins its network. So the new container serves as soon
as it joins the network in place of the old one. This is safe only for an application that boots without its network,
which is observed: it must listen on its ports, and must not have tried to use the network (`network_use`).

A container of the default network boots on no network. A container of any other network boots on an internal network of
its own, which has the engine's name server from the start, since some programs look for that only once.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import structlog

from gateway.background import beside
from gateway.docker.container import boot_history, names, network_use, ownership, readiness
from gateway.docker.container import spec as container_spec
from gateway.docker.engine import containers, events, networks
from gateway.docker.engine.client import Engine
from gateway.docker.engine.containers import Container
from gateway.docker.engine.labels import APPLICATION, BOOT, DEPLOYMENT, installation_label
from gateway.model.applications import Application
from gateway.model.deployments import Swap
from gateway.model.errors import Code, Failed, RolloutError

_LOG = structlog.get_logger()

ISOLATED = "isolated"
_DEFAULT_NETWORK = "bridge"
_BOOT_DEADLINE = 30.0  # seconds
_LOOK_AGAIN, _PAUSE = 0.01, 4  # the least pause between two looks: in seconds, and in durations of a look
_SILENT = 0.05  # seconds for which a listening container must not use the network
_QUICK = 0.1  # seconds from its start until a quick container listens


def is_marked(container: Container) -> bool:
    """Return whether the container was created to boot isolated."""
    return container.labels.get(BOOT) == ISOLATED


def has_joined(container: Container) -> bool:
    """Return whether the running container serves on its network: its ports are published."""
    return bool(container.published)


def home_of(application: Application) -> tuple[str, Mapping[str, Any]] | None:
    """Return the network on which the application serves, with its endpoint settings; None if there is not just one."""
    endpoints = container_spec.endpoints(application)
    if endpoints:
        return next(iter(endpoints.items())) if len(endpoints) == 1 else None
    mode = container_spec.user_config(application)["HostConfig"].get("NetworkMode", "default")
    return (_DEFAULT_NETWORK, {}) if mode in {"default", _DEFAULT_NETWORK} else None


async def left_networks(engine: Engine, application: Application, new: Container) -> dict[str, dict[str, Any]]:
    """Return the networks, with their endpoints, on which the running container should serve and is not."""
    endpoints = container_spec.endpoints(application)
    if endpoints:
        ids = tuple(new.networks.values())  # a network can be configured by the beginning of its id
        return {
            name: endpoint
            for name, endpoint in endpoints.items()
            if name not in new.networks and not any(one.startswith(name) for one in ids)
        }
    # An engine can have another default network, or none: then the container is on that.
    if home_of(application) is None or new.networks or await engine.is_podman():
        return {}
    return {_DEFAULT_NETWORK: {}}


async def obstacle(engine: Engine, application: Application, old: Container) -> str:
    """Return what about the engine, the network or the old container forbids an isolated boot, or ""."""
    home = home_of(application)
    if home is None:
        return "another network mode"
    if not old.running or old.paused or old.restarting or old.removes_itself:
        return "the old one does not serve, or removes itself"
    if await engine.is_podman() or not network_use.is_visible(old):
        return "it is Podman, which publishes ports only at a start, or its processes cannot be seen from here"
    if reason := boot_history.obstacle(engine, application):
        return reason
    found = await networks.require(engine, home[0])
    if found["Driver"] != "bridge" or found["Internal"] or found["EnableIPv6"] or found["Name"] != home[0]:
        return f"the network {home[0]}: it is no plain bridge"
    return ""


def obstacle_in(application: Application, new: Container) -> str:
    """Return what about the created container forbids an isolated boot, or ""."""
    home = home_of(application)
    if home is None or set(new.networks) != {home[0]}:
        return "another network mode"
    return "a volume of its image" if any(mount.get("RW") for mount in new.mounts) else ""


@dataclass(slots=True)
class IsolatedBoot:
    """The isolated boot of one new container."""

    engine: Engine
    application: Application
    swap: Swap
    _starting_at: float = 0.0
    _started_at: float = 0.0

    async def take_off_network(self) -> None:
        """Take the container off its network. Requires that it has not started, and that `create_network` has run."""
        if (home := home_of(self.application)) is not None:
            await networks.disconnect(self.engine, home[0], self.swap.new)
        if _boots_on_network(self.application):
            await networks.connect(self.engine, self._network, self.swap.new, {})

    async def start(self) -> None:
        """Start the container, which is off its network."""
        clock = asyncio.get_running_loop().time
        self._starting_at = clock()
        await containers.start(self.engine, self.swap.new)
        self._started_at = clock()

    async def wait(self) -> None:
        """Return once the container listens on its ports. Raises Failed when it uses its network, or does not boot."""
        clock = asyncio.get_running_loop().time
        deadline, listens_since = clock() + _BOOT_DEADLINE, None
        while listens_since is None or clock() - listens_since < _SILENT:
            looked = clock()
            container = await self.look()
            if listens_since is None and await self._listens(container, last=looked >= deadline):
                listens_since = clock()
            await asyncio.sleep(max(_LOOK_AGAIN, _PAUSE * (clock() - looked)))
        self._remember(quick=listens_since - self._started_at < _QUICK)

    async def _listens(self, container: Container, *, last: bool) -> bool:
        with self._seen_from_here():
            missing = await asyncio.to_thread(network_use.missing_listeners, container, self._ports)
        if one := next((port for port, somewhere in missing.items() if somewhere), None):
            raise self._obstacle(f"it listens on port {one} of one address only")
        if missing and last:
            named = ", ".join(map(str, sorted(missing)))
            raise self._obstacle(f"it did not listen on port {named} in {_BOOT_DEADLINE:.0f} s")
        return not missing

    async def check_silent(self) -> None:
        _ = await self.look()

    async def check_unused(self, container: Container) -> None:
        """Check that the container, which was inspected a moment ago, has still not tried to use a network."""
        try:
            used = network_use.was_used(container)
        except (OSError, ValueError):
            await self.check_silent()  # the container may have exited: this check reports why
        else:
            if used:
                raise self._used()

    def _used(self) -> Failed:
        return self._obstacle("it used its network while it booted")

    async def look(self) -> Container:
        """Inspect the container and return it. Raises Failed as `check` does."""
        container = await readiness.require(self.engine, self.swap.new)
        self.check(container)
        return container

    def check(self, container: Container) -> None:
        """Raise Failed when the container, as just inspected, does not run, is on a network or has tried to use one."""
        if reason := readiness.failure_reason(container):
            raise Failed(reason.code, reason.message)
        if set(container.networks) - {self._network}:
            raise Failed(Code.ENGINE_REFUSED, "somebody connected it to a network while it booted")
        with self._seen_from_here():
            if network_use.was_used(container):
                raise self._used()

    async def check_joined(self) -> Container:
        """Return the container, inspected after it has joined its network. Raises Failed when it does not serve."""
        container = await readiness.require(self.engine, self.swap.new)
        if not container.running or container.restart_count:
            raise Failed(Code.EXITED, f"{container.name} has ended since it joined its network")
        if not has_joined(container):
            raise self._obstacle("the engine does not publish the ports of a running container")
        with self._seen_from_here():
            if network_use.was_refused_route(container):
                raise self._obstacle("it used its network before it joined it")
            missing = await asyncio.to_thread(network_use.missing_listeners, container, self._ports)
        if self._started_at:
            self._remember(quick=not missing)
        return container

    def _remember(self, *, quick: bool) -> None:
        seconds = self._started_at - self._starting_at
        boot_history.remember_start(self.engine, self.application, quick=quick, seconds=seconds)

    @staticmethod
    @contextmanager
    def _seen_from_here() -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            raise Failed(Code.ENGINE_REFUSED, "how it uses its network cannot be seen from here") from error

    def _obstacle(self, reason: str) -> Failed:
        boot_history.remember_obstacle(self.engine, self.application, reason)
        return Failed(Code.UNHEALTHY, reason)

    @property
    def _ports(self) -> frozenset[int]:
        bindings = container_spec.user_config(self.application)["HostConfig"]["PortBindings"]
        return frozenset(int(inside.partition("/")[0]) for inside in bindings)

    @property
    def _network(self) -> str:
        return _network_of(self.application, self.swap.deployment_id)


def _network_of(application: Application, deployment_id: str) -> str:
    return names.boot_network(application.app_name, deployment_id)


def _boots_on_network(application: Application) -> bool:
    """Return whether the container boots on an internal network, and not on none."""
    home = home_of(application)
    return home is None or home[0] != _DEFAULT_NETWORK


async def create_network(engine: Engine, application: Application, deployment_id: str) -> str:
    """Create the network that the deployment's container boots on, if it needs one. Return an obstacle, or ""."""
    if not _boots_on_network(application):
        return ""
    labels = {APPLICATION: application.application_id, DEPLOYMENT: deployment_id, BOOT: ISOLATED}
    try:
        network = _network_of(application, deployment_id)
        await networks.create_internal(engine, network, labels | installation_label(application))
    except Failed as error:
        return str(error)
    return ""


async def join_home(engine: Engine, application: Application, new: Container) -> None:
    """Connect a container to the network on which it serves. If it runs, its ports are then published."""
    if (home := home_of(application)) is not None:
        await networks.connect(engine, home[0], new.container_id, home[1])


@asynccontextmanager
async def watch_leaving(
    engine: Engine, application: Application, container: Container | None
) -> AsyncIterator[asyncio.Future[float]]:
    """Yield a future that is set when the container has left its network, which frees its ports before its stop ends.

    The result is the time by the event loop's clock. The event may be missed, so the caller also sets the future when
    the stop has ended.
    """
    loop, home = asyncio.get_running_loop(), home_of(application)
    left = loop.create_future()

    async def watch(network: str, container_id: str) -> None:
        with suppress(RolloutError):
            async with aclosing(events.follow_leaving(engine, network)) as leaving:
                async for one in leaving:
                    if one == container_id and not left.done():
                        left.set_result(loop.time())

    if home is None or container is None:
        yield left
        return
    async with beside(watch(home[0], container.container_id)):
        yield left


async def leave(engine: Engine, application: Application, swap: Swap, new: Container) -> None:
    """Take the container off the network that it booted on, if there is one."""
    if (network := _network_of(application, swap.deployment_id)) in new.networks:
        await networks.disconnect(engine, network, new.container_id)


async def go_home(engine: Engine, application: Application, swap: Swap, new: Container) -> None:
    """Put a stopped container that was created to boot isolated back on its network, so that it can start there."""
    await leave(engine, application, swap, new)
    home = home_of(application)
    if home is not None and home[0] not in new.networks:
        await join_home(engine, application, new)


async def sweep(engine: Engine, application: Application) -> None:
    """Remove the networks on which containers of the application have booted. Requires that none boots now."""
    for network in await networks.list_labelled(engine, application.application_id):
        labels = network["Labels"] or {}
        if labels.get(BOOT) != ISOLATED or not ownership.labels_belong_to(application, labels):
            continue
        try:
            await networks.remove(engine, str(network["Id"]))
        except Failed as error:
            _LOG.warning("The network of a boot cannot be removed yet", network=network["Name"], error=str(error))
