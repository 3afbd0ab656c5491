"""Checks before an update that the Swarm has the networks, folders and free ports that a service needs."""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.docker.engine import networks, services
from gateway.docker.engine.client import Engine
from gateway.docker.swarm import file_secrets, spec
from gateway.model.applications import Application
from gateway.model.errors import Code, Failed
from gateway.model.mounts import Mount

# No engine has this image, so no container is created.
_MISSING_IMAGE = "gateway.invalid/of-no-image:0"
_HOST = "host"


async def check(engine: Engine, application: Application) -> None:
    """Raise Failed for settings that a service does not support, and for missing networks, folders or free ports."""
    name, configuration = application.app_name, application.configuration
    if configuration.probe is not None:
        raise Failed(
            Code.BAD_CONFIGURATION,
            f"{name} is a service, and probes do not reach its tasks: set healthCheckSwarm instead",
        )
    if at := [port.host_ip for port in configuration.ports if port.host_ip]:
        raise Failed(
            Code.BAD_CONFIGURATION,
            f"{name} is a service, which publishes at all addresses of a node, not only at {at[0]}: leave hostIp out",
        )
    file_secrets.reject_empty(configuration.files)
    await network_ids(engine, application)
    await _check_bind_sources(engine, name, [mount for mount in configuration.mounts if mount.type == "bind"])
    wanted = services.mesh_ports(spec.user_config(application, {}))
    for other in await services.list_all(engine) if wanted else ():
        if other.name != name and (taken := sorted(wanted & services.mesh_ports(other.spec))):
            ports = ", ".join(f"{number}/{protocol}" for number, protocol in taken)
            raise Failed(Code.PORT_TAKEN, f"port {ports} is published by the service {other.name}")


async def network_ids(engine: Engine, application: Application) -> dict[str, str]:
    """Return the ids of the networks by name. Raises Failed for a missing or local network."""
    found: dict[str, str] = {}
    for name in spec.network_names(application):
        if name == _HOST:
            found[name] = (await host_network_ids(engine))[0]
            continue
        network = await networks.require(engine, name, overlay=True)
        if network["Scope"] != "swarm":
            how = f"docker network create --driver overlay --attachable {name}"
            raise Failed(
                Code.BAD_CONFIGURATION,
                f"the network {name} exists on one engine only; create an overlay network: {how}",
            )
        found[name] = network["Id"]
    return found


async def host_network_ids(engine: Engine, made: Mapping[str, Any] | None = None) -> list[str]:
    """Return the ids of the host network, which differ between the Swarm and the engine.

    Empty for an existing spec whose tasks join no network.
    """
    if made is not None and not spec.attachments(made):
        return []
    ids = [(await engine.call("GET", "networks/host", params={"scope": scope}))["Id"] for scope in ("swarm", "local")]
    return list(map(str, ids))


async def _check_bind_sources(engine: Engine, name: str, binds: Sequence[Mount]) -> None:
    """Raise Failed when a folder of the host is missing. With several nodes, this cannot be checked here.

    An engine checks the folders of a container before it looks for the image.
    """
    if not binds or len(await engine.call("GET", "nodes")) > 1:
        return
    mounts = [{"Type": "bind", "Source": mount.source, "Target": mount.target} for mount in binds]
    try:
        await engine.call("POST", "containers/create", body={"Image": _MISSING_IMAGE, "HostConfig": {"Mounts": mounts}})
    except Failed as error:
        if error.reason.code is Code.VOLUME_MISSING:
            raise Failed(Code.VOLUME_MISSING, f"{name} cannot be created: {error.reason.message}") from error
