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
