"""What the engine must offer before the old container is touched."""

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.engine.client import Engine, named
from gateway.errors import Code, Failed


async def check(engine: Engine, body: Mapping[str, Any], networks: Iterable[str], *, serving: str | None) -> None:
    """Raises Failed where a network is missing, or a container other than the one that serves holds a port."""
    for network in networks:
        await engine.call("GET", f"networks/{named(network)}")
    wanted = {
        (int(binding["HostPort"]), inside.partition("/")[2] or "tcp", binding.get("HostIp", ""))
        for inside, bindings in body["HostConfig"].get("PortBindings", {}).items()
        for binding in bindings or ()
        if binding.get("HostPort", "").isdigit()
    }
    if not wanted:
        return
    for other in await engine.call("GET", "containers/json"):
        if other["Id"] == serving:
            continue
        held = [(port.get("PublicPort"), port["Type"], port.get("IP", "")) for port in other["Ports"]]
        if taken := sorted({f"{one[0]}/{one[1]}" for one in wanted if any(_collide(one, port) for port in held)}):
            name = other["Names"][0].removeprefix("/")
            raise Failed(Code.PORT_TAKEN, f"port {', '.join(taken)} is published by the container {name}")


_ANY = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - what the engine says for all addresses


def _collide(one: tuple[int, str, str], held: tuple[int | None, str, str]) -> bool:
    """Tell whether two cannot publish both: one port and protocol, on one address or on all."""
    return one[:2] == held[:2] and (one[2] == held[2] or not _ANY.isdisjoint((one[2], held[2])))
