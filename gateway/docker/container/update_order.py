"""Chooses the update order: start the new container first, or stop the old one first. No I/O."""

from collections.abc import Mapping
from typing import Any

from gateway.model.configuration import Order
from gateway.model.errors import Code, Failed


def choose_order(body: Mapping[str, Any], endpoints: Mapping[str, Mapping[str, Any]], chosen: Order | None) -> Order:
    """Return the order for a creation request and the endpoints on its networks. A configured order wins.

    Two containers cannot share a host port or a fixed address, and should not both write to one volume.
    """
    if chosen is not None:
        return chosen
    return Order.STOP_FIRST if stop_first_reason(body, endpoints) else Order.START_FIRST


def reject_impossible(body: Mapping[str, Any], chosen: Order | None) -> None:
    """Raise Failed when start-first is configured and both containers would publish the same port."""
    bindings = (body["HostConfig"].get("PortBindings") or {}).values()
    ports = sorted({one["HostPort"] for many in bindings for one in many or () if one.get("HostPort", "").isdigit()})
    if chosen is Order.START_FIRST and ports:
        raise Failed(
            Code.BAD_CONFIGURATION,
            f"order is start-first, but two containers cannot both publish port {', '.join(ports)}: set order to auto",
        )


def stop_first_reason(body: Mapping[str, Any], endpoints: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return what only one of two containers can have, or None when both can run at once."""
    host = body.get("HostConfig", {})
    if host.get("PortBindings") or host.get("PublishAllPorts"):
        return "a published port"
    if str(host.get("NetworkMode", "")).startswith(("host", "container:")):
        return "a shared network namespace"
    if body.get("MacAddress") or any((endpoint.get("IPAMConfig") or {}) for endpoint in endpoints.values()):
        return "a fixed address"
    if writes_a_volume(host) or host.get("VolumesFrom"):
        return "a volume that it writes"
    return None


def writes_a_volume(host: Mapping[str, Any]) -> bool:
    mounts = [mount for mount in host.get("Mounts") or () if mount["Type"] in {"volume", "bind"}]
    binds = [bind.split(":")[2:] for bind in host.get("Binds") or ()]
    return any(not mount.get("ReadOnly") for mount in mounts) or any("ro" not in ",".join(b).split(",") for b in binds)


def boot_obstacle(
    body: Mapping[str, Any], endpoints: Mapping[str, Mapping[str, Any]], chosen: Order | None
) -> str | None:
    """Return why the new container may not boot beside the old one, on a network of its own, or None.

    It may boot beside the old one if published TCP ports are the only reason for stop-first, and if no other setting
    lets it reach out of its isolation or depends on its network.
    """
    host = body["HostConfig"]
    unpublished = {**body, "HostConfig": {**host, "PortBindings": None, "PublishAllPorts": False}}
    ports = host.get("PortBindings") or {}
    exclusive = stop_first_reason(unpublished, endpoints)
    options = [name for endpoint in endpoints.values() for name in endpoint if name != "Aliases"]
    own_way_out = [name for name in _OWN_WAY_OUT if host.get(name) and host[name] not in _NAMESPACES_OF_ITS_OWN]
    capabilities = sorted(_ADMINISTERS_NETWORK.intersection(host.get("CapAdd") or ()))
    obstacles = (
        ("its order is configured", chosen is not None),
        (exclusive, exclusive is not None),
        ("ports of the engine's choice", host.get("PublishAllPorts")),
        ("a published port other than TCP", not all(inside.endswith("/tcp") for inside in ports)),
        ("more than one network", len(endpoints) > 1),
        (f"{', '.join(options)} of its network", options),
        (f"{', '.join(own_way_out)} of its host configuration", own_way_out),
        (f"the capability {', '.join(capabilities)}", capabilities),
    )
    return next((reason for reason, holds in obstacles if holds), None)


# Settings that reach out past the container's network, depend on its interfaces, or allow only one container.
_OWN_WAY_OUT = (
    "AutoRemove", "DeviceRequests", "Devices", "Dns", "IpcMode", "Links", "PidMode", "Privileged", "Sysctls", "UTSMode",
)  # fmt: skip
_NAMESPACES_OF_ITS_OWN = ("none", "private", "shareable")
_ADMINISTERS_NETWORK = frozenset({"ALL", "NET_ADMIN", "CAP_NET_ADMIN"})
