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
        (int(binding["HostPort"]), inside.partition("/")[2] or "tcp")
        for inside, bindings in body["HostConfig"].get("PortBindings", {}).items()
        for binding in bindings or ()
        if binding.get("HostPort", "").isdigit()
    }
    if not wanted:
        return
    for other in await engine.call("GET", "containers/json"):
        if other["Id"] == serving:
            continue
        held = {(port.get("PublicPort"), port["Type"]) for port in other["Ports"]}
        if taken := sorted(f"{number}/{protocol}" for number, protocol in wanted & held):
            name = other["Names"][0].removeprefix("/")
            raise Failed(Code.PORT_TAKEN, f"port {', '.join(taken)} is published by the container {name}")
