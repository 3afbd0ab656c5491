"""Chooses the version of the Engine API to speak with an engine, and adapts requests to that version. No I/O.

What changed with which version: https://github.com/moby/moby/blob/master/api/docs/CHANGELOG.md
"""

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

Version: TypeAlias = tuple[int, ...]

#: the newest version whose answers are known; from 1.52 on an engine hides a container's chosen MAC address
NEWEST: Version = (1, 51)

_REFUSED = re.compile(r"client version \S+ is too (?:old|new)\b")
_NO_KERNEL_MEMORY, _MAC_OF_ENDPOINT, _NO_KERNEL_MEMORY_TCP = (1, 42), (1, 44), (1, 52)
#: from this version on, an empty list of bindings publishes nothing; before, a port that the engine chose
_EMPTY_BINDINGS_PUBLISH_NOTHING = (1, 53)
_ANY_PORT = {"HostIp": "", "HostPort": ""}


def parse(text: str) -> Version:
    """Parse a version such as `1.41` or `v1.41`. Any other text counts as the oldest version."""
    return tuple(int(part) for part in text.removeprefix("v").split(".") if part.isdecimal())


def choose(told: Mapping[str, Any]) -> str:
    """Return the version to speak with an engine, from its answer to `GET /version`.

    It is the newest that both know. An engine that knows only versions after NEWEST gets its oldest one.
    """
    most, least = str(told["ApiVersion"]), str(told.get("MinAPIVersion") or "")
    if parse(most) <= NEWEST:
        return most
    return max(".".join(map(str, NEWEST)), least, key=parse)


def is_podman(told: Mapping[str, Any]) -> bool:
    """Return whether Podman gave this answer to `GET /version`."""
    return any("podman" in str(one["Name"]).lower() for one in told.get("Components") or () if "Name" in one)


def is_refused(status: int, message: str) -> bool:
    """Return whether the engine answered that it does not speak the version of the request. It did nothing then."""
    return status == 400 and _REFUSED.search(message) is not None  # noqa: PLR2004 - Bad Request


def create_body(body: Mapping[str, Any], version: Version) -> dict[str, Any]:
    """Return a request to create a container as it is in this version. It may be of a container of an older engine."""
    host = dict(body.get("HostConfig") or {})
    if version >= _NO_KERNEL_MEMORY:
        host.pop("KernelMemory", None)
    if version >= _NO_KERNEL_MEMORY_TCP:
        host.pop("KernelMemoryTCP", None)
    if version >= _EMPTY_BINDINGS_PUBLISH_NOTHING and host.get("PortBindings"):
        host["PortBindings"] = {port: bindings or [_ANY_PORT] for port, bindings in host["PortBindings"].items()}
    if host.get("Ulimits"):
        host["Ulimits"] = [{**one, "Name": _limit(str(one["Name"]))} for one in host["Ulimits"]]
    made = {**body, "HostConfig": host}
    if version >= _MAC_OF_ENDPOINT and (address := made.pop("MacAddress", None)):
        made["NetworkingConfig"] = _with_mac(made.get("NetworkingConfig") or {}, _network_of(host), str(address))
    return made


def _limit(name: str) -> str:
    """Return the name of a limit as it is asked for: Podman shows RLIMIT_NOFILE of a container made with nofile."""
    return name.removeprefix("RLIMIT_").lower()


def _network_of(host: Mapping[str, Any]) -> str:
    mode = str(host.get("NetworkMode") or "default")
    return "bridge" if mode == "default" else mode


def _with_mac(networking: Mapping[str, Any], network: str, address: str) -> dict[str, Any]:
    endpoints = dict(networking.get("EndpointsConfig") or {})
    endpoints[network] = {**(endpoints.get(network) or {}), "MacAddress": address}
    return {**networking, "EndpointsConfig": endpoints}


def network_body(body: Mapping[str, Any], version: Version) -> dict[str, Any]:
    """Return a request to create a network as it is in this version. From 1.44 on, a name is always unique."""
    return {**body} if version >= _MAC_OF_ENDPOINT else {**body, "CheckDuplicate": True}
