"""What the engine must offer before the old container is touched."""

from gateway.applications import Application
from gateway.engine.client import Engine, named
from gateway.engine.containers import Container
from gateway.errors import Code, Failed


async def check(engine: Engine, application: Application, serving: Container | None) -> None:
    """Raises Failed where a network is missing, or another container holds a port."""
    for network in application.configuration.networks:
        await engine.call("GET", f"networks/{named(network)}")
    wanted = {(port.published_port, port.protocol) for port in application.configuration.ports}
    if not wanted:
        return
    for other in await engine.call("GET", "containers/json"):
        if serving is not None and other["Id"] == serving.container_id:
            continue
        held = {(port.get("PublicPort"), port["Type"]) for port in other["Ports"]}
        if taken := sorted(f"{number}/{protocol}" for number, protocol in wanted & held):
            name = other["Names"][0].removeprefix("/")
            raise Failed(Code.PORT_TAKEN, f"port {', '.join(taken)} is published by the container {name}")
