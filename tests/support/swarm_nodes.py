"""Several Docker Engines on one machine, each in a network namespace of its own, joined to a Swarm."""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.cli.demo.engine import PrivateEngine, ip, private_engine
from gateway.cli.demo.process import free_port, until
from gateway.cli.demo.registry import private_registry
from gateway.config import Settings
from gateway.docker.engine.client import Engine, connect
from gateway.model.errors import RolloutError
from gateway.model.reference import parse_domain
from gateway.registry import client as registry_client
from gateway.store import database
from gateway.store.database import Pool
from gateway.worker.supervisor import supervise
from tests.support.engine_before import engine_before
from tests.support.rollout_env import VAULT

_PORT = 2377
_REACH = "10.214.0.0/16"


@dataclass(frozen=True, slots=True)
class Node:
    """One engine of the Swarm. `enter` are the words that run a program in its network."""

    dockerd: PrivateEngine
    engine: Engine
    address: str
    enter: tuple[str, ...]

    async def restart(self) -> None:
        await self.dockerd.start(self.enter)


@dataclass(frozen=True, slots=True)
class Swarm:
    """Its nodes, all of them managers, and the address under which they reach this machine."""

    nodes: list[Node]
    host: str


@asynccontextmanager
async def swarm_of(count: int) -> AsyncIterator[Swarm]:
    """Run a Swarm of so many nodes until the block is left; nothing of it is left then."""
    taken = {name for _, name in socket.if_nameindex()}
    number = secrets.choice([n for n in range(256) if f"swarm{n}" not in taken])
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_bridge(number))
        nodes = [await stack.enter_async_context(_node(number, index)) for index in range(count)]
        await _join(nodes)
        try:
            yield Swarm(nodes, f"10.214.{number}.1")
        finally:
            for node in nodes:
                with suppress(RolloutError):
                    await asyncio.shield(node.engine.call("POST", "swarm/leave", params={"force": 1}))


@asynccontextmanager
async def _bridge(number: int) -> AsyncIterator[None]:
    name = f"swarm{number}"
    forward = ("FORWARD", "-i", name, "-o", name, "-j", "ACCEPT")
    await ip("link", "add", "name", name, "type", "bridge")
    try:
        await ip("addr", "add", f"10.214.{number}.1/24", "dev", name)
        await ip("link", "set", name, "up")
        # An engine in this network namespace lets nothing be forwarded, between the ports of a bridge neither.
        await run("iptables", "--wait", "-I", *forward)
        try:
            yield
        finally:
            await asyncio.shield(run("iptables", "--wait", "-D", *forward))
    finally:
        await asyncio.shield(ip("link", "delete", name))


@asynccontextmanager
async def _node(number: int, index: int) -> AsyncIterator[Node]:
    name, address = f"swarm{number}n{index}", f"10.214.{number}.{index + 11}"
    enter = ("nsenter", f"--net=/run/netns/{name}")
    await ip("netns", "add", name)
    try:
        await ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        await ip("link", "set", name, "master", f"swarm{number}", "up")
        await ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            await ip("-n", name, "link", "set", device, "up")
        await ip("-n", name, "route", "add", "default", "via", f"10.214.{number}.1")
        arguments = ["--insecure-registry", _REACH]
        async with (
            private_engine(arguments=arguments, prefix=enter, own_network=True) as dockerd,
            engine_before(dockerd),
            connect(dockerd.host) as engine,
        ):
            yield Node(dockerd, engine, address, enter)
    finally:
        await asyncio.shield(ip("netns", "delete", name))


async def _join(nodes: list[Node]) -> None:
    first, others = nodes[0], nodes[1:]
    body = {"ListenAddr": f"0.0.0.0:{_PORT}", "AdvertiseAddr": f"{first.address}:{_PORT}"}
    await first.engine.call("POST", "swarm/init", body=body)
    token = (await first.engine.call("GET", "swarm"))["JoinTokens"]["Manager"]
    for node in others:
        body = {"ListenAddr": f"0.0.0.0:{_PORT}", "AdvertiseAddr": f"{node.address}:{_PORT}"}
        known = {"RemoteAddrs": [f"{first.address}:{_PORT}"], "JoinToken": token}
        await node.engine.call("POST", "swarm/join", body=body | known)

    async def ready() -> bool | None:
        found = await first.engine.call("GET", "nodes")
        return True if sum(node["Status"]["State"] == "ready" for node in found) == len(nodes) else None

    await until(ready)


async def run(*words: str) -> None:
    """Run a program; raises RuntimeError with what it said."""
    process = await asyncio.create_subprocess_exec(*words, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {said.decode().strip()}")


@dataclass(frozen=True, slots=True)
class Supervised:
    """What rolls out on a Swarm, by way of its first node.

    `registry` is the address of one that all nodes reach, `spare` where a test may let another one listen.
    """

    pool: Pool
    engine: Engine
    registry: str
    spare: str
    node: Node


@asynccontextmanager
async def supervised(swarm: Swarm, place: Path, database_url: str, **settings: str) -> AsyncIterator[Supervised]:
    """Run a supervisor and a registry for the Swarm, on a database that has the schema."""
    first, spare = swarm.nodes[0], f"{swarm.host}:{free_port()}"
    environment = {"HOME": "/", "DOCKER_HOST": first.dockerd.host, **settings}
    async with (
        private_registry(place / "registry", free_port(), host=swarm.host) as registry,
        database.connect(database_url) as pool,
        registry_client.connect(frozenset(map(parse_domain, (registry.address, spare)))) as client,
        supervise(pool, VAULT, first.engine, client, Settings.from_environ(environment)),
    ):
        yield Supervised(pool, first.engine, registry.address, spare, first)
